//! s23: a turn may have several listeners; it is interrupted when the last one leaves,
//! unless it is to go on.

use session_pool::proto::{DisconnectPolicy, QueryRequest};

use crate::support::{
    eventually,
    service::{Service, query, script},
};

#[tokio::test]
async fn s23_several_listeners_each_see_every_event() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say one", "sleep 300", "say two", "frames 50 600", "say three"]);
    let mut caller = service.open(query("a", &prompt)).await.expect("taken");
    caller.until_text("one").await;
    let mut early = service.attach("a", "", 0).await.expect("joined");
    let from = caller.events.len() as u64;
    let mut late = service.attach("a", "", from).await.expect("joined");
    tokio::join!(caller.finish(), early.finish(), late.finish());
    assert_eq!(caller.text(), early.text());
    assert_eq!(caller.events, early.events);
    assert_eq!(caller.events[caller.events.len() - late.events.len()..], late.events);
    assert_eq!(late.events[0].sequence, from);
    for turn in [&caller, &early, &late] {
        assert_eq!(turn.result().result, "three");
    }
    service.stop().await;
}

#[tokio::test]
async fn s23_a_turn_goes_on_until_its_last_listener_leaves() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say word", "sleep 300", "say end"]);
    let mut caller = service.open(query("a", &prompt)).await.expect("taken");
    caller.until_text("word").await;
    let mut other = service.attach("a", "", 0).await.expect("joined");
    other.until_text("word").await;
    caller.leave();
    other.finish().await;
    assert_eq!(other.result().result, "end");
    assert!(!other.result().interrupted);

    let mut caller = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    caller.until_text("word").await;
    let mut other = service.attach("a", "", 0).await.expect("joined");
    other.until_text("word").await;
    caller.leave();
    other.leave();
    eventually("the turn is interrupted", async || {
        let counters = service.stats().await.counters.expect("counters");
        (counters.interrupted == 1).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn s23_a_turn_that_is_to_continue_runs_on_without_listeners() {
    let service = Service::start(|_| {}).await;
    let request = QueryRequest {
        on_disconnect: DisconnectPolicy::Continue.into(),
        ..query("a", &script(&["say word", "sleep 300", "say end"]))
    };
    let mut caller = service.open(request).await.expect("taken");
    caller.until_text("word").await;
    let id = caller.started().turn_id.clone();
    caller.leave();
    let mut joined = service.attach("a", &id, 0).await.expect("joined");
    joined.finish().await;
    assert_eq!(joined.text(), "word\nend");
    assert!(!joined.result().interrupted);
    assert_eq!(joined.events[0].sequence, 1);
    service.stop().await;
}

#[tokio::test]
async fn s23_a_queued_turn_that_is_to_continue_runs_without_listeners() {
    let service = Service::start(|_| {}).await;
    let mut running =
        service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    running.until_text("word").await;
    let request = QueryRequest {
        on_disconnect: DisconnectPolicy::Continue.into(),
        turn_id: "stays".into(),
        ..query("a", "queued")
    };
    service.open(request).await.expect("queued").leave();
    service.interrupt("a", true).await;
    running.finish().await;
    let mut joined = service.attach("a", "stays", 0).await.expect("kept");
    joined.finish().await;
    assert_eq!(joined.result().result, "echo: queued");
    service.stop().await;
}
