//! Lines that break other readers: very long ones, and those that are no JSON.

use session_pool::proto::{
    OptionsMismatchPolicy, Payload, QueryRequest, SessionOptions, turn_event::Kind,
};
use tonic::Code;

use crate::support::{
    failure,
    service::{Service, query, script},
    turn::Turn,
};

#[tokio::test]
async fn a_line_of_5_mb_reaches_a_caller_with_default_limits() {
    let service = Service::start(|_| {}).await;
    // gRPC's default limit of 4 MiB a message is the caller's.
    let mut client = service.another_client().await;
    let prompt = script(&["say before", "big 5000000", "say after"]);
    for payload in [Payload::Typed, Payload::Json] {
        let request = QueryRequest { payload: payload.into(), ..query("a", &prompt) };
        let stream = client.query(request).await.expect("taken").into_inner();
        let mut turn = Turn::new(stream);
        turn.finish().await;
        assert!(matches!(turn.end, Some(Ok(()))), "{payload:?}: {:?}", turn.end);
        let longest = turn.events.iter().map(|event| event.json.len()).max();
        if payload == Payload::Typed {
            let text = turn.text();
            assert!(text.starts_with("before\n") && text.ends_with("\nafter"));
            assert_eq!(text.len(), 5_000_000 + "before\n\nafter".len());
            assert_eq!(longest, Some(0));
        } else {
            assert!(longest.is_some_and(|length| length > 5_000_000), "{longest:?}");
        }
    }
    assert_eq!(service.query("a", "next").await.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn after_a_line_over_the_limit_the_session_serves_on_and_remembers() {
    let service = Service::start(|config| config.cli.max_frame_bytes = 100_000).await;
    service.query("a", "one").await.result();
    for _ in 0..2 {
        let turn = service.query("a", &script(&["big 300000"])).await;
        failure(turn.error(), Code::Internal, "FRAME_TOO_LARGE");
        assert_eq!(
            service.query("a", &script(&["recite"])).await.text().lines().next(),
            Some("one")
        );
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn d3_a_line_that_is_no_frame_ends_nothing_and_is_counted() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let lines = ["garbage", "raw hello", "raw [1]", "raw-partial x", "say still here"];
    let turn = service.query("a", &script(&lines)).await;
    assert_eq!(turn.text(), "still here");
    turn.result();
    let recited = service.query("a", &script(&["recite"])).await.text();
    assert_eq!(recited.lines().next(), Some("one"));
    assert_eq!(service.processes().len(), 1);
    assert_eq!(service.stats().await.counters.expect("counters").stray_lines, 3);
    service.stop().await;
}

#[tokio::test]
async fn d1_a_result_with_odd_figures_is_told() {
    let service = Service::start(|_| {}).await;
    for odd in [
        r#""usage":{"input_tokens":1.5},"total_cost_usd":0.25"#,
        r#""total_cost_usd":null"#,
        r#""errors":null,"permission_denials":7"#,
        r#""num_turns":-1,"num_turns":{},"duration_ms":"long""#,
        r#""api_error_status":"429","usage":[]"#,
        r#""stop_reason":"\ud83d","modelUsage":1e400"#,
    ] {
        let result = r#""type":"result","subtype":"success","is_error":false,"result":"paid""#;
        let line = format!("raw {{{odd},{result}}}");
        let turn = service.query("a", &script(&[&line, "no-result idle"])).await;
        assert!(matches!(turn.end, Some(Ok(()))), "{odd}: {:?}", turn.end);
        assert_eq!(turn.result().result, "paid", "{odd}");
    }
    service.stop().await;
}

#[tokio::test]
async fn d6_a_success_without_the_object_is_told_and_a_schema_can_be_taken_away() {
    let service = Service::start(|_| {}).await;
    let ask = |schema: &str, output: &str| {
        let line = format!(r#"raw {{"type":"result","subtype":"success","result":"x"{output}}}"#);
        let options = SessionOptions { json_schema: Some(schema.into()), ..Default::default() };
        QueryRequest {
            options: Some(options),
            on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
            ..query("a", &script(&[&line, "no-result idle"]))
        }
    };
    let schema = r#"{"type":"object","required":["n"]}"#;
    for (schema, output, missing) in [
        (schema, "", true),
        (schema, r#","structured_output":{"m":1}"#, true),
        (schema, r#","structured_output":{"n":1}"#, false),
        (schema, r#","is_error":true"#, false),
        ("", "", false),
    ] {
        let turn = service.run(ask(schema, output)).await;
        assert_eq!(turn.result().structured_output_missing, missing, "{schema} {output}");
    }
    service.stop().await;
}

#[tokio::test]
async fn d2_surrogates_alone_neither_hide_a_prompt_nor_a_text() {
    let service = Service::start(|_| {}).await;
    let said =
        r#"raw {"type":"assistant","message":{"content":[{"type":"text","text":"a\ud83d"}]}}"#;
    let asked = r#"raw {"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool","tool_name":"Bash","description":"\ude00","input":{"x":"\ud83d"}}}"#;
    let request = QueryRequest {
        payload: Payload::Both.into(),
        ..query("a", &script(&[said, asked, "say done"]))
    };
    let turn = service.run(request).await;
    assert_eq!(turn.text(), "a\u{fffd}\ndone");
    let prompt = turn.events.iter().find_map(|event| match &event.kind {
        Some(Kind::Prompt(prompt)) => Some((prompt, &event.json)),
        _ => None,
    });
    let (prompt, json) = prompt.expect("a prompt");
    assert_eq!(prompt.description, "\u{fffd}");
    assert_eq!(prompt.input_json, r#"{"x":"\ud83d"}"#);
    assert_eq!(json, &asked["raw ".len()..]);
    service.stop().await;
}

#[tokio::test]
async fn a_large_prompt_arrives_whole() {
    let service = Service::start(|_| {}).await;
    let prompt = "é\"\\\n".repeat(100_000);
    let turn = service.query("a", &prompt).await;
    assert_eq!(turn.result().result, format!("echo: {prompt}"));
    service.stop().await;
}
