//! Turns as they look on a screen and in a file.

use super::*;
use crate::proto::{ContentBlock, EgressRefused, TextBlock, ThinkingBlock, ToolUseBlock};

const FILE: Screen = Screen { is_screen: false, colour: false, remarks_colour: false, width: 40 };
const SCREEN: Screen = Screen { is_screen: true, colour: true, remarks_colour: true, width: 40 };

fn assistant(block: Block) -> Kind {
    let content = vec![ContentBlock { block: Some(block) }];
    Kind::Assistant(AssistantMessage { content, ..AssistantMessage::default() })
}

fn text(text: &str) -> Kind {
    assistant(Block::Text(TextBlock { text: text.into(), ..TextBlock::default() }))
}

fn thinking(text: &str) -> Kind {
    let block = ThinkingBlock { thinking: text.into(), ..ThinkingBlock::default() };
    assistant(Block::Thinking(block))
}

fn call(name: &str, input: &str) -> Kind {
    assistant(Block::ToolUse(ToolUseBlock {
        name: name.into(),
        input_json: input.into(),
        ..ToolUseBlock::default()
    }))
}

fn answered(text: &str, is_error: bool) -> Kind {
    let block = ToolResultBlock { text: text.into(), is_error, ..ToolResultBlock::default() };
    let content = vec![ContentBlock { block: Some(Block::ToolResult(block)) }];
    Kind::User(UserMessage { content, ..UserMessage::default() })
}

fn piece(delta: Delta) -> Kind {
    Kind::StreamEvent(StreamEvent { delta: Some(delta), ..StreamEvent::default() })
}

fn started() -> Kind {
    Kind::Started(Box::new(TurnStarted { session_id: "s".into(), ..TurnStarted::default() }))
}

fn result(result: TurnResult) -> Kind {
    Kind::Result(TurnResult {
        num_turns: 2,
        duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        total_cost_usd: 0.01,
        ..result
    })
}

/// Everything that a turn writes to stdout, and to stderr.
fn shown(screen: Screen, kinds: Vec<Kind>) -> (String, String) {
    let mut renderer = Renderer::new(screen);
    let (mut answer, mut remarks) = (String::new(), String::new());
    for kind in kinds {
        let out = renderer.render(&TurnEvent { kind: Some(kind), ..TurnEvent::default() });
        answer += &out.answer;
        remarks += &out.remarks;
    }
    let rest = renderer.finish();
    answer += &rest.answer;
    remarks += &rest.remarks;
    (answer, remarks)
}

#[test]
fn a_turn_is_its_text_and_one_line_of_figures() {
    let end = TurnResult { result: "Hello.".into(), ..TurnResult::default() };
    let (answer, remarks) = shown(FILE, vec![started(), text("Hello."), result(end)]);
    assert_eq!(answer, "Hello.\n");
    assert_eq!(remarks, "done: session s, 2 rounds, 1.5s, $0.0100 since the process started\n");
}

#[test]
fn text_that_came_in_pieces_is_not_shown_again() {
    let pieces = ["Hel", "lo."].map(|text| piece(Delta::Text(text.into())));
    let mut kinds: Vec<_> = pieces.into();
    kinds.extend([text("Hello."), text("Again.")]);
    assert_eq!(shown(FILE, kinds).0, "Hello.\nAgain.\n");
}

#[test]
fn tools_have_lines_of_their_own_cut_to_the_screen() {
    let kinds = vec![
        piece(Delta::Text("I look".into())),
        call("Bash", "{\"command\":\"ls -l a-folder-with-a-long-name\"}"),
        answered("total 0\nfile", false),
        answered("denied", true),
    ];
    let (answer, _) = shown(FILE, kinds);
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines[0], "I look");
    assert!(lines[1].starts_with("→ Bash {\"command\":\"ls -l a-fold"), "{}", lines[1]);
    assert!(lines[1].ends_with('…') && lines[1].chars().count() == FILE.width, "{}", lines[1]);
    assert_eq!(lines[2..], ["← total 0 file", "✗ denied"]);
}

#[test]
fn thinking_is_dimmed_on_a_screen_and_absent_elsewhere() {
    let kinds = || vec![thinking("Hm."), text("Yes.")];
    assert_eq!(shown(SCREEN, kinds()).0, "\u{1b}[2mHm.\u{1b}[0m\nYes.\n");
    assert_eq!(shown(FILE, kinds()).0, "Yes.\n");
    let pieces = vec![piece(Delta::Thinking("H".into())), piece(Delta::Text("Y".into()))];
    assert_eq!(shown(SCREEN, pieces).0, "\u{1b}[2mH\u{1b}[0m\nY\n");
}

#[test]
fn a_screen_is_given_no_commands() {
    assert_eq!(shown(SCREEN, vec![text("a\u{1b}]0;title\u{7}b")]).0, "a]0;titleb\n");
    assert_eq!(shown(FILE, vec![text("a\u{1b}b")]).0, "a\u{1b}b\n");
}

#[test]
fn a_subagent_shows_its_tools_only() {
    let of_subagent = |kind| match kind {
        Kind::Assistant(message) => {
            Kind::Assistant(AssistantMessage { parent_tool_use_id: "t".into(), ..message })
        }
        other => other,
    };
    let kinds = vec![of_subagent(text("hidden")), of_subagent(call("Read", "{}"))];
    assert_eq!(shown(FILE, kinds).0, "  → Read {}\n");
}

#[test]
fn retries_are_told() {
    let retry = ApiRetry {
        attempt: 1,
        max_retries: 10,
        retry_delay: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        error_status: 529,
        error: "overloaded".into(),
    };
    let system = SystemMessage { api_retry: Some(retry), ..SystemMessage::default() };
    let (answer, remarks) = shown(FILE, vec![Kind::System(system)]);
    assert_eq!(
        (answer.as_str(), remarks.as_str()),
        ("", "retry 1 of 10 in 2.0s: overloaded (529)\n")
    );
}

#[test]
fn limits_and_hosts_that_were_refused_are_told() {
    let until = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let limit = |kind: RateLimitKind, model: &str| {
        Kind::RateLimited(RateLimited { until, kind: kind.into(), model: model.into() })
    };
    let refused = EgressRefused { host: "a\u{1b}:443".into(), reason: "is not listed".into() };
    let told = shown(
        FILE,
        vec![
            limit(RateLimitKind::Overloaded, "claude-a"),
            limit(RateLimitKind::Tenant, ""),
            Kind::EgressRefused(refused),
        ],
    );
    let remarks = "the API is overloaded with claude-a until 2023-11-14T22:13:20Z\n\
                   the tenant has used its tokens of the minute for any model until 2023-11-14T22:13:20Z\n\
                   kept from a :443: is not listed\n";
    assert_eq!(told, (String::new(), remarks.to_owned()));
}

#[test]
fn a_result_without_an_answer_before_it_is_the_answer() {
    let end = TurnResult { result: "Compacted.".into(), ..TurnResult::default() };
    assert_eq!(shown(FILE, vec![result(end)]).0, "Compacted.\n");
}

#[test]
fn a_failed_turn_says_what_failed() {
    let end = TurnResult {
        is_error: true,
        subtype: "error_max_turns".into(),
        errors: vec!["too many\nturns".into()],
        ..TurnResult::default()
    };
    let (answer, remarks) = shown(FILE, vec![text("So far"), result(end)]);
    assert_eq!(answer, "So far\n");
    assert!(remarks.starts_with("error: error_max_turns too many turns\nfailed: "), "{remarks}");
}
