use super::*;

fn kind(line: &str) -> FrameKind {
    Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame").kind
}

#[test]
fn the_type_need_not_come_first() {
    let line = r#"{"duration_ms":3,"is_error":true,"result":"no","usage":{"input_tokens":4},"user_message_uuids":["u"],"session_id":"s","total_cost_usd":0.5,"type":"result"}"#;
    let FrameKind::Result(result) = kind(line) else { panic!("not a result") };
    assert!(result.is_error);
    assert_eq!(result.text, "no");
    assert_eq!(result.usage.input_tokens, 4);
    assert_eq!(result.prompt_uuids, ["u"]);
    assert_eq!(result.total_cost_usd, Some(0.5));
}

#[test]
fn tool_calls_and_their_results_are_named() {
    assert_eq!(
        kind(
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"tool_use"},{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}}"#
        ),
        FrameKind::Assistant { tool_calls: vec!["t1".into()] }
    );
    assert_eq!(
        kind(
            r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}"#
        ),
        FrameKind::User { tool_results: vec!["t1".into()], echo_of: None }
    );
    assert_eq!(
        kind(r#"{"type":"user","isReplay":true,"uuid":"u","message":{"content":"hi"}}"#),
        FrameKind::User { tool_results: vec![], echo_of: Some("u".into()) }
    );
}

#[test]
fn control_replies_say_success_or_error() {
    assert_eq!(
        kind(
            r#"{"type":"control_response","response":{"subtype":"success","request_id":"r","response":{"a":1}}}"#
        ),
        FrameKind::ControlReply(ControlReply {
            request_id: "r".into(),
            outcome: Ok(r#"{"a":1}"#.into())
        })
    );
    assert_eq!(
        kind(
            r#"{"type":"control_response","response":{"subtype":"error","request_id":"r","error":"no"}}"#
        ),
        FrameKind::ControlReply(ControlReply { request_id: "r".into(), outcome: Err("no".into()) })
    );
}

#[test]
fn e3_the_cli_says_its_mode_and_its_model() {
    assert_eq!(
        kind(
            r#"{"type":"system","subtype":"init","session_id":"s","model":"m","permissionMode":"plan"}"#
        ),
        FrameKind::Init {
            cli_session_id: "s".into(),
            permission_mode: "plan".into(),
            model: "m".into()
        }
    );
    let status = |rest: &str| kind(&format!(r#"{{"type":"system","subtype":"status"{rest}}}"#));
    let mode = status(r#","status":null,"permissionMode":"acceptEdits""#);
    assert_eq!(mode, FrameKind::PermissionMode { mode: "acceptEdits".into() });
    assert_eq!(status(r#","status":"requesting""#), FrameKind::System);
    assert_eq!(status(r#","permissionMode":null"#), FrameKind::System);
}

#[test]
fn an_object_of_no_known_type_is_passed_on() {
    for line in ["{}", r#"{"type":5}"#, r#"{"type":"news"}"#, r#"{"type":["result"]}"#] {
        assert_eq!(kind(line), FrameKind::Other, "{line}");
    }
}

#[test]
fn what_is_not_an_object_is_not_a_frame() {
    for line in [
        "42",
        "\"text\"",
        "[1]",
        "[]",
        "[\"assistant\",\"\"]",
        "{\"a\":",
        "Error: no",
        "null",
        "{\"a\":1} x",
    ] {
        let parsed = Frame::parse(Bytes::copy_from_slice(line.as_bytes()));
        assert!(parsed.is_err(), "{line}: {parsed:?}");
    }
}
