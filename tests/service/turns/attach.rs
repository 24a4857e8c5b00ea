//! Attach: a turn joined from any sequence on, while it runs and for a while after.

use std::time::Duration;

use session_pool::proto::{AttachRequest, Payload};
use tonic::Code;

use crate::support::{
    eventually, failure,
    service::{Service, query, script},
    turn::Turn,
};

#[tokio::test]
async fn a_running_turn_is_joined_from_any_sequence() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["frames 20 600", "sleep 200", "say end"]);
    let mut caller = service.open(query("a", &prompt)).await.expect("taken");
    caller.until_text("000000000010").await;
    let id = caller.started().turn_id.clone();
    let mut joined = Vec::new();
    for (turn, from) in [("", 0), ("", 1), (id.as_str(), 5), ("", 12)] {
        joined.push((from, service.attach("a", turn, from).await.expect("joined")));
    }
    // A sequence that is still to come is waited for.
    joined.push((25, service.attach("a", "", 25).await.expect("joined")));
    caller.finish().await;
    for (from, mut turn) in joined {
        turn.finish().await;
        let from = from.max(1);
        assert_eq!(turn.events[0].sequence, from);
        let at = usize::try_from(from).expect("small") - 1;
        assert_eq!(turn.events, caller.events[at..]);
        assert_eq!(turn.result().result, "end");
    }
    service.stop().await;
}

/// The service has sent all of a turn, and its caller's connection broke before the last of it had come.
#[tokio::test]
async fn a_turn_that_was_sent_is_had_again_although_it_is_larger_than_what_is_kept_in_memory() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say before", "big 5000000", "big 5000000", "say after"]);
    let sent = service.query("a", &prompt).await;
    let mut again = service.attach("a", &sent.started().turn_id, 2).await.expect("kept");
    again.finish().await;
    assert!(matches!(again.end, Some(Ok(()))), "{:?}", again.end);
    assert_eq!(again.events.len(), sent.events.len() - 1);
    assert!(again.events == sent.events[1..], "the same events");
    service.stop().await;
}

#[tokio::test]
async fn an_ended_turn_is_kept_for_its_retention() {
    let service = Service::start(|config| {
        config.pool.turn_retention = Duration::from_millis(500);
    })
    .await;
    let ended = service.query("a", "hello").await;
    let failed = service.query("a", &script(&["say half", "error no more"])).await;
    assert!(failed.result().is_error);
    for turn in [&ended, &failed] {
        let mut kept = service.attach("a", &turn.started().turn_id, 0).await.expect("kept");
        kept.finish().await;
        assert_eq!(kept.events, turn.events);
        assert_eq!(kept.result(), turn.result());
    }
    // Without an id it is the last one.
    let mut last = service.attach("a", "", 0).await.expect("kept");
    last.finish().await;
    assert_eq!(last.events, failed.events);

    let status = eventually("it is kept no longer", async || {
        service.attach("a", &ended.started().turn_id, 0).await.err()
    })
    .await;
    let metadata = failure(&status, Code::NotFound, "TURN_NOT_FOUND");
    assert_eq!(metadata["turn_id"], ended.started().turn_id);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_failed_tells_who_joins_late_the_same() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["say half", "exit 3"])).await;
    let mut late = service.attach("a", "", 0).await.expect("kept");
    late.finish().await;
    assert_eq!(late.events, turn.events);
    let told = failure(late.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(told, failure(turn.error(), Code::Unavailable, "CLI_EXITED"));
    service.stop().await;
}

#[tokio::test]
async fn a_queued_turn_can_be_joined_before_it_begins() {
    let service = Service::start(|_| {}).await;
    let mut running =
        service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    running.until_text("word").await;
    let mut queued = service
        .open(session_pool::proto::QueryRequest { turn_id: "mine".into(), ..query("a", "next") })
        .await
        .expect("queued");
    let mut joined = service.attach("a", "mine", 0).await.expect("joined");
    service.interrupt("a", true).await;
    tokio::join!(queued.finish(), joined.finish());
    assert_eq!(joined.events, queued.events);
    assert_eq!(joined.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_listener_chooses_its_own_payload() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let request = AttachRequest {
        session_id: "a".into(),
        payload: Payload::Json.into(),
        ..AttachRequest::default()
    };
    let stream = service.client.clone().attach(request).await.expect("kept").into_inner();
    let mut turn = Turn::attached(stream);
    turn.finish().await;
    assert!(turn.events[0].kind.is_some() && turn.events[0].json.is_empty());
    for event in &turn.events[1..] {
        assert!(event.kind.is_none() && event.json.starts_with('{'), "{event:?}");
    }
    service.stop().await;
}
