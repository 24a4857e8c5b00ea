//! A stream that has nothing to tell says that it lives, if its caller wants that.

use std::time::Duration;

use session_pool::proto::{
    AttachRequest, Heartbeat, Payload, QueryRequest, TurnEvent, WatchSessionRequest,
    attach_response, query_response, turn_event::Kind,
};
use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    failure, follower,
    service::{Service, query, script},
};

const SECOND: prost_types::Duration = prost_types::Duration { seconds: 1, nanos: 0 };

/// A Query whose caller wants a sign of life every second.
fn asked(prompt: &str) -> QueryRequest {
    QueryRequest { heartbeat_interval: Some(SECOND), ..query("a", prompt) }
}

fn is_beat(event: &TurnEvent) -> bool {
    event.kind == Some(Kind::Heartbeat(Heartbeat {}))
}

#[tokio::test]
async fn a_quiet_turn_beats_while_it_waits_and_while_it_runs() {
    let service = Service::start(|_| {}).await;
    let mut first = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    first.until_text("word").await;

    // In the queue; with JSON too, where nothing else of it is typed.
    let waits = QueryRequest { payload: Payload::Json.into(), ..asked("hello") };
    let mut client = service.client.clone();
    let mut waits = client.query(waits).await.expect("taken").into_inner();
    // In a stream that another call has of the turn that runs.
    let attach = AttachRequest {
        session_id: "a".into(),
        heartbeat_interval: Some(SECOND),
        from_sequence: first.events.len() as u64 + 1,
        ..AttachRequest::default()
    };
    let mut joined = client.attach(attach).await.expect("taken").into_inner();

    let began = Instant::now();
    for _ in 0..2 {
        let item = waits.message().await.expect("no error").and_then(|message| message.item);
        let Some(query_response::Item::Event(event)) = item else { panic!("no event: {item:?}") };
        assert!(is_beat(&event) && event.sequence == 0 && event.json.is_empty(), "{event:?}");
        let item = joined.message().await.expect("no error").and_then(|message| message.item);
        let Some(attach_response::Item::Event(event)) = item else { panic!("no event: {item:?}") };
        assert!(is_beat(&event), "{event:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());

    // What is counted is the turn's own, as if there had been no signs of life.
    service.interrupt("a", true).await;
    let mut sequences = Vec::new();
    while let Some(message) = waits.message().await.expect("no error") {
        let Some(query_response::Item::Event(event)) = message.item else { panic!("parts") };
        sequences.extend((!is_beat(&event)).then_some(event.sequence));
    }
    let count = sequences.len() as u64;
    assert!(count > 2 && sequences == (1..=count).collect::<Vec<_>>(), "{sequences:?}");
    // Nor are they kept.
    let again = service.attach("a", "", 1).await.map(async |mut turn| {
        turn.finish().await;
        turn.events.len() as u64
    });
    assert_eq!(again.expect("kept").await, count);
    // Who does not ask for them gets none.
    first.finish().await;
    assert!(!first.events.iter().any(is_beat));
    service.stop().await;
}

#[tokio::test]
async fn an_interval_has_bounds() {
    let service = Service::start(|_| {}).await;
    for (seconds, nanos, told) in [
        (0, 0, "must be from 1 s to 3600 s, is 0 s"),
        (0, 999_000_000, "must be from 1 s to 3600 s, is 0.999 s"),
        (3601, 0, "must be from 1 s to 3600 s, is 3601 s"),
        (-1, 0, "must be from 1 s to 3600 s, is -1 s"),
    ] {
        let heartbeat_interval = Some(prost_types::Duration { seconds, nanos });
        let request = QueryRequest { heartbeat_interval, ..query("a", "hello") };
        let status = service.open(request).await.expect_err("refused");
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        let message = status.message();
        assert!(message.contains("heartbeat_interval") && message.contains(told), "{message}");
        let request = AttachRequest {
            session_id: "a".into(),
            heartbeat_interval,
            ..AttachRequest::default()
        };
        let status = service.client.clone().attach(request).await.expect_err("refused");
        assert!(status.message().contains(told), "{status:?}");
        let request = WatchSessionRequest { heartbeat_interval, ..follower::of("a") };
        let status = service.client.clone().watch_session(request).await.expect_err("refused");
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(status.message().contains(told), "{status:?}");
    }
    service.stop().await;
}
