//! Lines that break other readers: very long ones, and those that are no JSON.

use session_pool::proto::{Payload, QueryRequest};
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
async fn after_a_line_that_is_no_json_the_session_serves_on_and_remembers() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let turn = service.query("a", &script(&["garbage", "say never seen"])).await;
    failure(turn.error(), Code::Internal, "PROTOCOL_ERROR");
    assert_eq!(turn.text(), "");
    let recited = service.query("a", &script(&["recite"])).await.text();
    assert_eq!(recited.lines().next(), Some("one"));
    assert_eq!(service.processes().len(), 1);
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
