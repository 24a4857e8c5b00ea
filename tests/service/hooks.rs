//! Hooks that callers answer: what is taken and what is not, and at the terminal.

use session_pool::proto::{
    Hook, HookDecision, HookPermission, PromptEvent, QueryRequest, RespondRequest, SessionOptions,
    respond_request::Decision, turn_event::Kind,
};
use tonic::Code;

use crate::{
    support::{
        failure, fields,
        service::{Service, query_with, script},
        turn::Turn,
    },
    terminal::{Screen, run, text},
};

const TOOL: &str =
    r#"hook PreToolUse {"tool_name":"Bash","tool_input":{"command":"make"},"tool_use_id":"t"}"#;
const STOP: &str = r#"hook Stop {"stop_hook_active":false}"#;

fn hooked(step: &str) -> QueryRequest {
    let hook = |event: &str| Hook { event: event.into(), ..Hook::default() };
    let hooks = ["PreToolUse", "Stop", "SubagentStart"].map(hook).to_vec();
    let options = SessionOptions { hooks, ..SessionOptions::default() };
    query_with("a", &script(&[step, "say all done"]), options)
}

async fn asked(service: &Service, step: &str) -> (Turn, PromptEvent) {
    let mut turn = service.open(hooked(step)).await.expect("taken");
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { unreachable!("just seen") };
    (turn, prompt)
}

#[tokio::test]
async fn hooks_out_of_bounds_are_refused_by_their_fields() {
    let service = Service::start(|_| {}).await;
    let bad = |event: &str, matcher: &str| Hook {
        event: event.into(),
        matcher: matcher.into(),
        timeout: Some(prost_types::Duration { seconds: 601, nanos: 0 }),
    };
    let hooks = vec![bad("Later", ""), bad("Stop", "Bash"), bad("PreToolUse", "(")];
    let options = SessionOptions { hooks, ..SessionOptions::default() };
    let refused = service.run(query_with("a", "hello", options)).await;
    let status = refused.error();
    failure(status, Code::InvalidArgument, "INVALID_ARGUMENT");
    let wanted = [
        "options.hooks[0].event",
        "options.hooks[0].timeout",
        "options.hooks[1].matcher",
        "options.hooks[1].timeout",
        "options.hooks[2].matcher",
        "options.hooks[2].timeout",
    ];
    assert_eq!(fields(status), wanted);
    let decision = HookDecision {
        updated_input_json: "7".into(),
        permission_decision: 7,
        ..HookDecision::default()
    };
    let request = RespondRequest {
        session_id: "a".into(),
        prompt_id: "p".into(),
        decision: Some(Decision::Hook(decision)),
    };
    let status = service.client.clone().respond(request).await.expect_err("out of bounds");
    assert_eq!(fields(&status), ["hook.permission_decision", "hook.updated_input_json"]);
    service.stop().await;
}

#[tokio::test]
async fn an_answer_reaches_the_cli_in_its_own_words() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asked(&service, TOOL).await;
    assert_eq!(prompt.tool_name, "Bash");
    assert_eq!(prompt.input_json, r#"{"command":"make"}"#);
    let mut decision = HookDecision {
        reason: "it is fine".into(),
        updated_input_json: r#"{"n": 1.50}"#.into(),
        additional_context: "be quick".into(),
        ..HookDecision::default()
    };
    decision.set_permission_decision(HookPermission::Allow);
    let request = RespondRequest {
        session_id: "a".into(),
        prompt_id: prompt.prompt_id,
        decision: Some(Decision::Hook(decision)),
    };
    service.client.clone().respond(request).await.expect("taken");
    turn.finish().await;
    let said = turn.text();
    for wanted in [
        r#""permissionDecision":"allow""#,
        r#""permissionDecisionReason":"it is fine""#,
        r#""updatedInput":{"n":1.5"#,
        r#""additionalContext":"be quick""#,
        r#""hookEventName":"PreToolUse""#,
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_person_answers_hooks_at_the_terminal() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&[TOOL, STOP, "say all done"]);
    let hooks = ["--hook", "PreToolUse=Bash|Write", "--hook", "Stop"];
    let words = [&["query"], &hooks[..], &[prompt.as_str()]].concat();
    let mut screen = Screen::open(&service, &words, &[]);
    screen.until(r#"? Hook PreToolUse: Bash {"command":"make"}"#).await;
    screen.until("Allow it? [y]es, [n]o: ").await;
    screen.type_in("always\n").await;
    screen.type_in("n\n").await;
    screen.until("? Hook Stop: ").await;
    screen.until("Go on? [y]es, [n]o: ").await;
    screen.type_in("y\n").await;
    let (shown, code) = screen.end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(r#""permissionDecision":"deny""#) && shown.contains("all done"));
    service.stop().await;
}

#[tokio::test]
async fn respond_answers_a_hook_by_yes_and_no() {
    let service = Service::start(|_| {}).await;
    let yes = ["yes", "--input", r#"{"command":"ls"}"#, "--context", "be quick"];
    let no = ["no", "--message", "not yet"];
    let tool = [r#""permissionDecision":"allow""#, r#""command":"ls""#, "be quick"];
    for (step, answer, wanted) in [
        (TOOL, &yes[..], &tool[..]),
        (TOOL, &no, &[r#""permissionDecision":"deny""#, "not yet"]),
        (STOP, &no, &[r#""decision":"block""#, "not yet"]),
        (STOP, &["yes"], &["{}"]),
        (STOP, &["--response-json", r#"{"continue":false}"#], &[r#"{"continue":false}"#]),
    ] {
        let (mut turn, prompt) = asked(&service, step).await;
        let shown = text(&run(&service, &["show", "a"], "").await.stdout);
        let hint = format!("session-pool respond a {} yes|no", prompt.prompt_id);
        assert!(shown.contains(&hint) && shown.contains("? Hook "), "{shown}");
        let respond = ["respond", "a", prompt.prompt_id.as_str()];
        for (wrong, exit) in [(&["always"][..], 2), (&["yes", "--interrupt"], 2)] {
            let refused = run(&service, &[&respond[..], wrong].concat(), "").await;
            assert_eq!(refused.status.code(), Some(exit), "{}", text(&refused.stderr));
        }
        let output = run(&service, &[&respond[..], answer].concat(), "").await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        turn.finish().await;
        for word in wanted {
            assert!(turn.text().contains(word), "{word}: {}", turn.text());
        }
    }
    // What an event cannot have is refused by the service, and said.
    let (mut turn, prompt) = asked(&service, "hook SubagentStart {}").await;
    let respond = ["respond", "a", prompt.prompt_id.as_str()];
    let refused = run(&service, &[&respond[..], &["no"]].concat(), "").await;
    let told = text(&refused.stderr);
    assert!(refused.status.code() == Some(7) && told.contains("hook.block"), "{told}");
    let output = run(&service, &[&respond[..], &["yes"]].concat(), "").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    turn.finish().await;
    service.stop().await;
}
