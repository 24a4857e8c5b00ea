//! s25: the events of timeouts and of lost or failed connections.

use std::time::Duration;

use tracing::Level;

use crate::support::{
    eventually, log, processes,
    service::{Service, model, query, query_with, script},
};

#[track_caller]
fn logged(name: &str, session: &str, level: Level, fields: &[&str]) -> log::Logged {
    let events = log::events(name, session);
    let event = events.first().unwrap_or_else(|| panic!("no {name}")).clone();
    assert_eq!(event.level, level, "{name}");
    for field in fields {
        assert!(event.fields.contains_key(*field), "{name} without {field}: {event:?}");
    }
    event
}

#[tokio::test]
async fn s25_the_events_of_both_stream_timeouts() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = Duration::from_millis(200);
        config.pool.stream_ongoing_timeout = Duration::from_millis(250);
    })
    .await;
    let id = "s25-first-chunk";
    let turn = service.query(id, &script(&["no-init", "hang"])).await;
    let fields = ["idle_seconds", "limit"];
    let event = logged("session_pool_first_chunk_timeout", id, Level::WARN, &fields);
    assert_eq!(event.fields["client_id"], turn.started().client_id);
    let cleared = logged("session_pool_stream_cleared", id, Level::DEBUG, &["was_interrupted"]);
    assert_eq!(cleared.fields["was_first_chunk_timeout"], "true");

    let id = "s25-ongoing";
    let mut turn = service.open(query(id, &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    service.query(id, "next").await.result();
    let fields = ["client_id", "idle_seconds", "has_first_chunk", "is_completed"];
    logged("session_pool_interrupting_ongoing_timeout", id, Level::INFO, &fields);
    logged("session_pool_interrupted_ongoing_timeout", id, Level::INFO, &["client_id"]);
    let cleared = logged("session_pool_stream_cleared", id, Level::DEBUG, &["was_interrupted"]);
    assert_eq!(cleared.fields["was_ongoing_timeout"], "true");
    service.stop().await;
}

#[tokio::test]
async fn s25_an_ongoing_timeout_that_was_not_needed_says_so() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = Duration::from_millis(100);
        config.pool.stream_ongoing_timeout = Duration::from_millis(200);
    })
    .await;
    let id = "s25-not-needed";
    // The interrupt is lost, and the turn ends by itself.
    let prompt = script(&["lose-interrupts 100", "say word", "sleep 500", "say end"]);
    let mut turn = service.open(query(id, &prompt)).await.expect("taken");
    turn.until_text("word").await;
    service.query(id, "next").await.result();
    turn.finish().await;
    assert_eq!(turn.result().result, "end");
    assert!(!turn.result().interrupted);
    logged("session_pool_interrupt_ongoing_not_needed", id, Level::DEBUG, &["client_id"]);
    service.stop().await;
}

#[tokio::test]
async fn s25_the_events_of_lost_and_failed_connections() {
    let service = Service::start(|_| {}).await;
    let id = "s25-lost";
    service.query(id, "hello").await.result();
    processes::kill(service.session(id).await.expect("there").process_id);
    eventually("the loss is noticed", async || {
        (service.session(id).await.expect("there").process_id == 0).then_some(())
    })
    .await;
    service.query(id, "hello").await.result();
    logged("session_unhealthy_recovering", id, Level::DEBUG, &[]);

    let id = "s25-failed";
    let turn = service.run(query_with(id, "hello", model("fake:exit=1"))).await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    let fields = ["client_id", "error"];
    logged("session_pool_connection_failed", id, Level::ERROR, &fields);
    service.stop().await;
}

#[tokio::test]
async fn s25_the_events_of_an_expired_session() {
    let service =
        Service::start(|config| config.pool.session_ttl = Duration::from_millis(200)).await;
    let id = "s25-expired";
    let first = service.query(id, "hello").await;
    eventually("it has expired", async || {
        let session = service.session(id).await.expect("there");
        (session.status() == session_pool::proto::SessionStatus::Expired).then_some(())
    })
    .await;
    service.query(id, "hello").await.result();
    let event = logged("session_expired", id, Level::DEBUG, &["client_id", "age_seconds"]);
    assert!(event.fields["client_id"].contains(&first.started().client_id), "{event:?}");
    service.stop().await;
}
