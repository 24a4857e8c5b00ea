//! s01, s02, s05, s06, s08: start and stop, sessions made and used again.

use std::{collections::BTreeSet, time::Duration};

use session_pool::{proto::TurnOrigin, server::Server};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{
    eventually, failure, log, processes,
    service::{Service, fake_cli, model, process_tree, query, query_with, script},
};

/// The events of a pool that is known by its number of sessions.
fn starts(max_sessions: usize) -> Vec<log::Logged> {
    let max_sessions = max_sessions.to_string();
    let mut starts = log::named("session_pool_starting");
    starts.retain(|event| event.fields.get("max_sessions") == Some(&max_sessions));
    starts
}

#[tokio::test]
async fn s01_an_enabled_pool_says_that_it_starts_and_a_disabled_one_does_not() {
    for (enabled, max_sessions) in [(true, 71_001), (false, 71_002)] {
        let service = Service::start(|config| {
            config.pool.enabled = enabled;
            config.pool.max_sessions = max_sessions;
            config.pool.session_ttl = Duration::from_secs(77);
            config.pool.cleanup_interval = Duration::from_millis(50);
        })
        .await;
        service.stats().await;
        let starts = starts(max_sessions);
        assert_eq!(starts.len(), usize::from(enabled));
        for event in starts {
            assert_eq!(event.level, tracing::Level::DEBUG);
            assert_eq!(event.fields["ttl"], "77.0");
            assert_eq!(event.fields["cleanup_interval"], "0.05");
        }
        assert!(service.stop().await);
    }
}

#[tokio::test]
async fn s02_a_stop_ends_all_sessions_at_once_even_those_that_resist() {
    let service = Service::start(|_| {}).await;
    for id in ["a", "b", "c", "d"] {
        let knobs = model("fake:ignore-eof,ignore-term");
        service.run(query_with(id, "hello", knobs)).await.result();
    }
    service.query("obeys", "hello").await.result();
    assert_eq!(service.processes().len(), 5);
    let began = Instant::now();
    assert!(service.stop().await);
    // 3 s each: the end of its input, SIGTERM, SIGKILL.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn s02_a_stop_is_bounded_although_a_turn_is_deaf_to_everything() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(300);
    })
    .await;
    let prompt = script(&["ignore-eof", "ignore-term", "deaf", "say deaf", "hang"]);
    let mut turn = service.open(query("a", &prompt)).await.expect("taken");
    turn.until_text("deaf").await;
    let began = Instant::now();
    let (in_order, ()) = tokio::join!(service.stop(), turn.finish());
    assert!(!in_order, "the turn did not end by itself");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    failure(turn.error(), Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn s02_a_stop_is_safe_to_do_twice_and_empties_the_pool() {
    log::capture();
    let state = TempDir::new().expect("a folder");
    let server = Server::bind(fake_cli(state.path()), process_tree()).await.expect("bound");
    let pool = server.pool().clone();
    let address = format!("http://{}", server.address().expect("an address"));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving = session_pool::internals::tasks::spawn_owned(
        server.run(async move { stopped.cancelled().await }, CancellationToken::new()),
    );
    let mut client =
        session_pool::proto::session_pool_service_client::SessionPoolServiceClient::connect(
            address,
        )
        .await
        .expect("connected");
    let stream = client.query(query("a", "hello")).await.expect("taken").into_inner();
    let mut turn = crate::support::turn::Turn::new(stream);
    turn.finish().await;
    assert_eq!(pool.len(), 1);
    pool.stop().await;
    assert!(pool.is_empty());
    assert_eq!(processes::of_state(state.path()), [0; 0]);
    pool.stop().await;
    let refused = client.query(query("b", "hello")).await.expect_err("refused");
    failure(&refused, Code::Unavailable, "SHUTTING_DOWN");
    stop.cancel();
    assert!(serving.await.expect("no panic").expect("stopped"));
    assert!(!log::named("session_pool_stopped").is_empty());
}

#[tokio::test]
async fn s05_an_unknown_id_makes_a_session_with_a_process_of_its_own() {
    let service = Service::start(|_| {}).await;
    let mut clients = BTreeSet::new();
    for id in ["s05-a", "s05-b", "s05-c"] {
        let turn = service.query(id, "hello").await;
        assert_eq!(turn.started().origin(), TurnOrigin::Created);
        assert_eq!(turn.started().session_id, id);
        assert!(turn.started().connect_time.is_some_and(|time| time.nanos > 0));
        clients.insert(turn.started().client_id.clone());
        let created = log::events("session_created", id);
        assert_eq!(created.len(), 1);
        assert_eq!(created[0].fields["client_id"], turn.started().client_id);
    }
    assert_eq!(clients.len(), 3);
    assert_eq!(service.processes().len(), 3);
    assert_eq!(service.stats().await.counters.expect("counters").sessions_created, 3);
    service.stop().await;
}

#[tokio::test]
async fn s06_a_known_session_is_served_by_the_same_process() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", &script(&["pid"])).await;
    for _ in 0..3 {
        let turn = service.query("a", &script(&["pid"])).await;
        assert_eq!(turn.text(), first.text());
        assert_eq!(turn.started().client_id, first.started().client_id);
        assert_eq!(turn.started().origin(), TurnOrigin::Reused);
        assert_eq!(turn.started().connect_time, Some(prost_types::Duration::default()));
    }
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.sessions_reused, counters.cold_starts), (3, 1));
    service.stop().await;
}

#[tokio::test]
async fn s05_a_session_without_a_name_is_gone_after_its_turn() {
    let service = Service::start(|_| {}).await;
    for end in ["# well", "exit-after-result 1", "no-idle"] {
        let turn = service.run(query("", &script(&["say hello", end]))).await;
        assert_eq!(turn.result().result, "hello");
        let id = turn.started().session_id.clone();
        eventually("the session is gone", async || service.session(&id).await.err()).await;
        assert_eq!(service.processes(), [0; 0], "{end}");
    }
    service.stop().await;
}

#[tokio::test]
async fn s08_with_recovery_a_lost_process_is_replaced_and_the_log_says_so() {
    let service = Service::start(|_| {}).await;
    let id = "s08-on";
    lose_process(&service, id).await;
    let turn = service.query(id, &script(&["recite"])).await;
    assert_eq!(turn.text(), "remember");
    assert_eq!(turn.started().origin(), TurnOrigin::Resumed);
    let events = log::events("session_unhealthy_recovering", id);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].level, tracing::Level::DEBUG);
    service.stop().await;
}

#[tokio::test]
async fn s08_without_recovery_the_caller_gets_the_failure() {
    let service = Service::start(|config| config.pool.connection_recovery = false).await;
    let id = "s08-off";
    lose_process(&service, id).await;
    let turn = service.query(id, "hello").await;
    let metadata = failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
    assert_eq!(metadata["session_id"], id);
    assert!(turn.error().message().contains("connection_recovery"), "{}", turn.error().message());
    assert!(log::events("session_unhealthy_recovering", id).is_empty());
    assert_eq!(service.processes(), [0; 0]);
    // Ended and asked for again, it is a new session with the old conversation.
    service.close(id, false).await.expect("closed");
    assert_eq!(service.query(id, &script(&["recite"])).await.text(), "remember");
    service.stop().await;
}

async fn lose_process(service: &Service, id: &str) {
    service.query(id, "remember").await.result();
    service.kill_cli(id, "remember").await;
    eventually("the loss is noticed", async || {
        let session = service.session(id).await.expect("there");
        (session.status() == session_pool::proto::SessionStatus::Disconnected).then_some(())
    })
    .await;
}
