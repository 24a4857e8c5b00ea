//! What frames mean for a turn: sequences of them, each with its meaning.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// The prompt of the turn.
const PROMPT: Uuid = Uuid::from_u128(0xa);

const NAMED: &str = "00000000-0000-0000-0000-00000000000a";

const RUNNING: &str = r#"{"type":"system","subtype":"session_state_changed","state":"running"}"#;
const IDLE: &str = r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"c"}"#;
const TEXT: &str = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"}]}}"#;
const CALL: &str = r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t"}]}}"#;
const CALLED: &str =
    r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t"}]}}"#;
const PIECE: &str = r#"{"type":"stream_event","event":{}}"#;
const ASKS: &str =
    r#"{"type":"control_request","request_id":"p","request":{"subtype":"can_use_tool"}}"#;
const REPLY: &str =
    r#"{"type":"control_response","response":{"subtype":"success","request_id":"r"}}"#;
const MIRROR: &str = r#"{"type":"transcript_mirror","filePath":"f","entries":[]}"#;
const RESET: &str = r#"{"type":"conversation_reset","new_conversation_id":"d"}"#;
const TASK: &str = r#"{"type":"system","subtype":"task_started","task_id":"b"}"#;
const TASK_OVER: &str = r#"{"type":"system","subtype":"task_notification","task_id":"b"}"#;
const UNKNOWN: &str = r#"{"type":"brand_new"}"#;
const DONE: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"ok"}"#;
const FAILED: &str = r#"{"type":"result","subtype":"error_during_execution","is_error":true}"#;
const ABORTED: &str = r#"{"type":"result","subtype":"success","terminal_reason":"aborted_tools"}"#;
const OF_A_TASK: &str =
    r#"{"type":"result","subtype":"success","origin":{"kind":"task-notification"}}"#;
const OF_ANOTHER: &str = r#"{"type":"result","subtype":"success","user_message_uuids":["b"]}"#;
const REFUSED_401: &str = r#"{"type":"system","subtype":"api_retry","error_status":401}"#;
const OVERLOADED: &str = r#"{"type":"system","subtype":"api_retry","error_status":529}"#;

const ANY: [&str; 22] = [
    RUNNING,
    IDLE,
    INIT,
    TEXT,
    CALL,
    CALLED,
    PIECE,
    ASKS,
    REPLY,
    MIRROR,
    RESET,
    TASK,
    TASK_OVER,
    UNKNOWN,
    DONE,
    FAILED,
    ABORTED,
    OF_A_TASK,
    OF_ANOTHER,
    REFUSED_401,
    OVERLOADED,
    r#"{"type":"control_cancel_request","request_id":"p"}"#,
];

/// The prompt is taken up; in older versions only its echo says so.
fn taken_up() -> String {
    format!(r#"{{"type":"command_lifecycle","command_uuid":"{NAMED}","state":"started"}}"#)
}

fn echo() -> String {
    format!(r#"{{"type":"user","isReplay":true,"uuid":"{NAMED}","message":{{"content":"x"}}}}"#)
}

/// The result of newer versions, which names the prompt.
fn done_by_name() -> String {
    format!(r#"{{"type":"result","subtype":"success","user_message_uuids":["b","{NAMED}"]}}"#)
}

fn frame(line: &str) -> Frame {
    Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame")
}

/// A turn with a prompt, on a process without background tasks.
fn asked() -> TurnReader {
    TurnReader::new(Some(PROMPT), &CliTraits::default(), Instant::now())
}

/// The same on a process with a background task, which may begin a turn at any time.
fn asked_beside_a_task() -> TurnReader {
    let mut traits = CliTraits::default();
    traits.note(&frame(TASK));
    TurnReader::new(Some(PROMPT), &traits, Instant::now())
}

fn unasked() -> TurnReader {
    TurnReader::new(None, &CliTraits::default(), Instant::now())
}

/// A meaning in words.
fn words(meaning: Meaning<'_>) -> String {
    match meaning {
        Meaning::Hidden => "hidden".to_owned(),
        Meaning::Echo => "echo".to_owned(),
        Meaning::Event(kind) => format!("{kind:?} event"),
        Meaning::Moved(kind, to) => format!("{kind:?} event, moves to {to}"),
        Meaning::Over(outcome, _) => format!("over: {outcome:?}"),
        Meaning::OverSilently => "over, silently".to_owned(),
        Meaning::OtherOver(_) => "another turn is over".to_owned(),
    }
}

#[track_caller]
fn means(reader: &mut TurnReader, table: &[(&str, &str)]) {
    means_with(reader, Facts::default(), table);
}

#[track_caller]
fn means_with(reader: &mut TurnReader, facts: Facts<'_>, table: &[(&str, &str)]) {
    for (line, meaning) in table {
        assert_eq!(words(reader.read(&frame(line), &facts)), *meaning, "{line}");
    }
}

#[test]
fn a_turn_from_its_prompt_to_its_result() {
    let mut reader = asked();
    means(
        &mut reader,
        &[
            (RUNNING, "System event"),
            (&taken_up(), "Other event"),
            (INIT, "System event, moves to c"),
            (&echo(), "echo"),
            (MIRROR, "hidden"),
            (PIECE, "StreamEvent event"),
            (TEXT, "Assistant event"),
            (REPLY, "hidden"),
            (CALL, "Assistant event"),
            (ASKS, "Prompt event"),
            (CALLED, "User event"),
            (TASK, "System event"),
            (UNKNOWN, "Other event"),
            (RESET, "Other event, moves to d"),
            (DONE, "over: Completed"),
        ],
    );
}

#[test]
fn how_a_result_ends_its_turn() {
    let object = r#"{"type":"object","required":["n"]}"#;
    let structured = r#"{"type":"result","subtype":"success","structured_output":{"n":1}}"#;
    let (running, stopping) = (Facts::default(), Facts { stopping: true, schema: "" });
    let with_schema = Facts { stopping: false, schema: object };
    for (facts, line, meaning) in [
        (running, DONE, "over: Completed"),
        (running, FAILED, "over: Failed"),
        // Nobody asked for a stop: a result is what it says of itself.
        (running, ABORTED, "over: Completed"),
        (running, &done_by_name(), "over: Completed"),
        (stopping, ABORTED, "over: Interrupted"),
        (stopping, FAILED, "over: Interrupted"),
        // It came to its end before the CLI was told to stop.
        (stopping, DONE, "over: Completed"),
        (with_schema, structured, "over: Completed"),
        (with_schema, DONE, "over: Unstructured"),
        (with_schema, FAILED, "over: Failed"),
        (Facts { stopping: true, ..with_schema }, ABORTED, "over: Interrupted"),
        (Facts { stopping: true, ..with_schema }, DONE, "over: Unstructured"),
    ] {
        means_with(&mut asked(), facts, &[(line, meaning)]);
    }
}

/// The beginning of a turn may still see the idle state of the turn before.
#[test]
fn a_turn_that_the_cli_says_it_stopped_was_interrupted_whatever_its_result() {
    let said = r#"{"type":"user","message":{"content":
        [{"type":"text","text":"[Request interrupted by user for tool use]"}]}}"#
        .replace('\n', "");
    let told = [(&*said, "User event"), (TEXT, "Assistant event"), (DONE, "over: Interrupted")];
    let stopping = Facts { stopping: true, ..Facts::default() };
    means_with(&mut asked(), stopping, &told);
    // Where nobody stops it, it is only text.
    means(&mut asked(), &[told[0], told[1], (DONE, "over: Completed")]);
}

#[test]
fn a_cli_that_becomes_idle_without_a_result_has_ended_the_turn() {
    means(&mut asked(), &[(IDLE, "hidden"), (IDLE, "over, silently")]);
    means(&mut asked(), &[(IDLE, "hidden"), (TEXT, "Assistant event"), (IDLE, "over, silently")]);
    for works in [RUNNING, INIT] {
        let mut reader = asked();
        reader.read(&frame(works), &Facts::default());
        means(&mut reader, &[(IDLE, "over, silently")]);
    }
}

#[test]
fn a_result_of_a_turn_that_the_cli_began_by_itself_is_not_that_of_the_prompt() {
    for other in [OF_A_TASK, OF_ANOTHER] {
        let mut reader = asked_beside_a_task();
        means(
            &mut reader,
            &[
                (INIT, "System event, moves to c"),
                (CALL, "Assistant event"),
                (other, "another turn is over"),
                // As at the beginning of a turn.
                (IDLE, "hidden"),
            ],
        );
        assert!(!reader.is_certain() && !reader.waits_for_tools());
        means(&mut reader, &[(&taken_up(), "Other event")]);
        assert!(reader.is_certain());
        means(&mut reader, &[(DONE, "over: Completed")]);
    }
    // Where nobody asked, each result is that of the turn.
    for any in [DONE, OF_A_TASK, OF_ANOTHER] {
        means(&mut unasked(), &[(any, "over: Completed")]);
    }
}

#[test]
fn from_when_on_frames_are_certain_to_be_of_the_turn() {
    assert!(asked().is_certain(), "nothing works in the background");
    assert!(unasked().is_certain(), "it is the turn that the CLI began");
    let mut announces = CliTraits::default();
    announces.note(&frame(&taken_up()));
    assert!(
        !TurnReader::new(Some(PROMPT), &announces, Instant::now()).is_certain(),
        "it will be announced"
    );
    for (line, certain) in [
        (taken_up().as_str(), true),
        (&echo(), true),
        (&done_by_name(), true),
        (DONE, true),
        // Somebody has to answer, whosever turn it is.
        (ASKS, true),
        (OF_A_TASK, false),
        (RUNNING, false),
        (INIT, false),
        (TEXT, false),
        (r#"{"type":"command_lifecycle","command_uuid":"b","state":"started"}"#, false),
        (r#"{"type":"user","isReplay":true,"uuid":"b","message":{"content":"x"}}"#, false),
    ] {
        let mut reader = asked_beside_a_task();
        reader.read(&frame(line), &Facts::default());
        assert_eq!(reader.is_certain(), certain, "{line}");
    }
}

/// A prompt that no frame has answered may be sent to another process.
#[test]
fn what_may_be_the_end_of_an_earlier_turn_answers_no_prompt() {
    let named = format!(r#"{{"type":"brand_new","of":"{NAMED}"}}"#);
    for (line, answers) in [
        (IDLE, false),
        (TASK_OVER, false),
        (MIRROR, false),
        (UNKNOWN, false),
        (&named, true),
        (RUNNING, true),
        (INIT, true),
        (TEXT, true),
        (DONE, true),
        (OF_A_TASK, true),
    ] {
        let mut reader = asked();
        reader.read(&frame(line), &Facts::default());
        assert_eq!(reader.has_answer(), answers, "{line}");
    }
    assert!(unasked().has_answer());
}

#[test]
fn what_is_a_first_frame() {
    for line in ANY {
        let mut reader = asked();
        reader.read(&frame(line), &Facts::default());
        let is_none = [RUNNING, IDLE, MIRROR, TASK, TASK_OVER, UNKNOWN].contains(&line);
        // A reply, a retry and an `init` show that the CLI works.
        assert_eq!(reader.has_first_frame(), !is_none, "{line}");
    }
    for line in [taken_up(), echo()] {
        let mut reader = asked();
        reader.read(&frame(&line), &Facts::default());
        assert!(!reader.has_first_frame(), "{line}");
    }
}

#[test]
fn tools_are_at_work_from_their_call_to_their_result() {
    let mut reader = asked();
    for (line, at_work, used) in
        [(TEXT, false, false), (CALL, true, true), (TEXT, true, true), (CALLED, false, true)]
    {
        reader.read(&frame(line), &Facts::default());
        assert_eq!((reader.waits_for_tools(), reader.has_used_tools()), (at_work, used), "{line}");
    }
}

#[test]
fn credentials_are_refused_when_the_api_says_so_three_times_in_a_row() {
    let refused_403 = REFUSED_401.replace("401", "403");
    for (lines, refused) in [
        (vec![REFUSED_401, &refused_403, REFUSED_401], true),
        (vec![REFUSED_401, UNKNOWN, REFUSED_401, RUNNING, REFUSED_401], true),
        (vec![REFUSED_401, REFUSED_401], false),
        (vec![REFUSED_401, REFUSED_401, OVERLOADED, REFUSED_401], false),
        (vec![REFUSED_401, REFUSED_401, PIECE, REFUSED_401], false),
        (vec![REFUSED_401, REFUSED_401, TEXT, REFUSED_401], false),
    ] {
        let mut reader = asked();
        for line in &lines {
            reader.read(&frame(line), &Facts::default());
        }
        assert_eq!(reader.has_credentials_refused(), refused, "{lines:?}");
    }
}

#[test]
fn between_turns_few_frames_mean_anything_and_some_begin_a_turn() {
    for line in ANY {
        let frame = frame(line);
        let begins = [INIT, TEXT, CALL, PIECE].contains(&line);
        assert_eq!(begins_turn(&frame), begins, "{line}");
        let aside = match Aside::of(&frame) {
            Aside::Nothing => "nothing",
            Aside::Idle => "idle",
            Aside::Moved(to) => to,
            Aside::Over(_) => "over",
        };
        let wanted = match line {
            IDLE => "idle",
            RESET => "d",
            DONE | FAILED | ABORTED | OF_A_TASK | OF_ANOTHER => "over",
            _ => "nothing",
        };
        assert_eq!(aside, wanted, "{line}");
    }
}

/// A call of many tools at once, by an agent that speaks in the CLI's name.
fn flood(from: usize) -> Frame {
    let tool_calls = (from..from + MOST_TOOLS / 2).map(|id| id.to_string()).collect();
    Frame { raw: Bytes::new(), kind: FrameKind::Assistant { tool_calls }, of_subagent: false }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let known = [ANY.map(str::to_owned).to_vec(), vec![taken_up(), echo(), done_by_name()]];
    prop_oneof![
        20 => prop::sample::select(known.concat()).prop_map(|line| frame(&line)),
        1 => (0_usize..50_000).prop_map(flood),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_a_reader_stays_small_and_takes_nothing_back(
        frames in prop::collection::vec(any_frame(), 0..80),
        (is_asked_for, beside_a_task, stopping) in any::<(bool, bool, bool)>(),
    ) {
        let mut reader = match (is_asked_for, beside_a_task) {
            (false, _) => unasked(),
            (true, false) => asked(),
            (true, true) => asked_beside_a_task(),
        };
        let facts = Facts { stopping, schema: "{}" };
        for frame in &frames {
            let before = (reader.has_answer(), reader.is_certain(), reader.has_first_frame());
            let meaning = reader.read(frame, &facts);
            prop_assert!(reader.tools.len() <= MOST_TOOLS);
            prop_assert!(!before.0 || reader.has_answer());
            prop_assert!(!before.1 || reader.is_certain());
            prop_assert!(!before.2 || reader.has_first_frame());
            // Only a turn that was asked for can be taken for another.
            prop_assert!(is_asked_for || !matches!(meaning, Meaning::OtherOver(_)));
            // The end of a turn is surely its own.
            prop_assert!(!matches!(meaning, Meaning::Over(..)) || reader.is_certain());
        }
    }
}

mod unechoed;
