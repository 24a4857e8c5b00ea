//! The caller's deadline counts, although the CLI is silent.

use std::time::Duration;

use session_pool::proto::{DisconnectPolicy, QueryRequest};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{
    eventually,
    service::{Service, query, script},
    turn::Turn,
};

const DEADLINE: Duration = Duration::from_millis(400);

async fn open_with_deadline(service: &Service, request: QueryRequest) -> Turn {
    let mut request = Request::new(request);
    request.set_timeout(DEADLINE);
    Turn::new(service.client.clone().query(request).await.expect("taken").into_inner())
}

#[tokio::test]
async fn at_the_deadline_a_silent_turn_is_interrupted_at_once() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let began = Instant::now();
    let mut turn = open_with_deadline(&service, query("a", &script(&["say word", "hang"]))).await;
    turn.finish().await;
    assert_eq!(turn.error().code(), Code::DeadlineExceeded);
    assert_eq!(turn.text(), "word");
    eventually("the turn is over", async || {
        let session = service.session("a").await.expect("there");
        session.running_turn_id.is_empty().then_some(())
    })
    .await;
    let took = began.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE * 8, "{took:?}");
    assert_eq!(service.stats().await.counters.expect("counters").interrupted, 1);
    let next = service.query("a", "next").await;
    assert_eq!(next.text(), "echo: next");
    assert_eq!(next.started().client_id, turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn a_queued_turn_whose_deadline_passes_is_dropped() {
    let service = Service::start(|_| {}).await;
    let mut running =
        service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    running.until_text("word").await;
    let mut queued = open_with_deadline(&service, query("a", "never run")).await;
    queued.finish().await;
    assert_eq!(queued.error().code(), Code::DeadlineExceeded);
    assert!(queued.events.is_empty());
    eventually("it has left the queue", async || {
        let session = service.session("a").await.expect("there");
        (session.queued_turns == 0).then_some(())
    })
    .await;
    service.interrupt("a", true).await;
    running.finish().await;
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    assert_eq!(service.stats().await.total_messages, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_is_to_continue_goes_on_past_the_deadline() {
    let service = Service::start(|_| {}).await;
    let request = QueryRequest {
        on_disconnect: DisconnectPolicy::Continue.into(),
        turn_id: "goes-on".into(),
        ..query("a", &script(&["say word", "sleep 800", "say end"]))
    };
    let mut turn = open_with_deadline(&service, request).await;
    turn.finish().await;
    assert_eq!(turn.error().code(), Code::DeadlineExceeded);
    let mut joined = service.attach("a", "goes-on", 0).await.expect("it runs");
    joined.finish().await;
    assert_eq!(joined.result().result, "end");
    assert!(!joined.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_in_time_does_not_notice_its_deadline() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut turn = open_with_deadline(&service, query("a", "hello")).await;
    turn.finish().await;
    assert_eq!(turn.result().result, "echo: hello");
    service.stop().await;
}
