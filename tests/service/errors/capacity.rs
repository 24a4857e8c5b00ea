//! Refusals before a turn begins: no pool, no room, a busy session, options that do not
//! fit, a service that stops.

use std::time::Duration;

use session_pool::proto::{BusyPolicy, QueryRequest, SessionOptions};
use tonic::Code;

use crate::support::{
    eventually, failure, retry_after,
    service::{Service, query, query_with, script},
};

#[tokio::test]
async fn s03_a_disabled_pool_refuses_turns_and_still_answers() {
    let service = Service::start(|config| config.pool.enabled = false).await;
    let refused = service.open(query("a", "hello")).await.expect_err("refused");
    let metadata = failure(&refused, Code::FailedPrecondition, "POOL_DISABLED");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(retry_after(&refused), None);
    let stats = service.stats().await;
    assert_eq!((stats.enabled, stats.total_sessions), (false, 0));
    service.stop().await;
}

#[tokio::test]
async fn s04_a_full_pool_refuses_new_sessions_and_serves_its_own() {
    let service = Service::start(|config| config.pool.max_sessions = 2).await;
    service.query("a", "one").await.result();
    service.query("b", "one").await.result();
    let refused = service.open(query("c", "one")).await.expect_err("refused");
    let metadata = failure(&refused, Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert_eq!((metadata["session_id"].as_str(), metadata["limit"].as_str()), ("c", "2"));
    assert!(retry_after(&refused).is_some_and(|delay| !delay.is_zero()));
    assert!(refused.message().contains("at capacity: 2"), "{}", refused.message());

    assert_eq!(service.query("a", "two").await.result().result, "echo: two");
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.capacity_refusals, 1);
    service.close("b", false).await.expect("closed");
    assert_eq!(service.query("c", "one").await.result().result, "echo: one");
    service.stop().await;
}

#[tokio::test]
async fn a_turn_without_a_process_in_time_is_refused() {
    let service = Service::start(|config| {
        config.pool.max_processes = 1;
        config.pool.connect_timeout = Duration::from_millis(300);
    })
    .await;
    let mut busy = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    busy.until_init().await;
    let turn = service.query("b", "hello").await;
    let metadata = failure(turn.error(), Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert_eq!((metadata["session_id"].as_str(), metadata["limit"].as_str()), ("b", "1"));
    assert!(metadata.contains_key("turn_id"), "{metadata:?}");
    assert_eq!(
        turn.error().message(),
        "no CLI process became available within 300ms (limit 1, pool.max_processes)"
    );
    assert!(retry_after(turn.error()).is_some());
    service.interrupt("a", false).await;
    assert_eq!(service.query("b", "hello").await.result().result, "echo: hello");
    service.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_the_next_turn() {
    let service = Service::start(|config| config.pool.max_queued_turns = 2).await;
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let waiting = [
        service.open(query("a", "one")).await.expect("queued"),
        service.open(query("a", "two")).await.expect("queued"),
    ];
    let refused = service.open(query("a", "three")).await.expect_err("refused");
    let metadata = failure(&refused, Code::ResourceExhausted, "QUEUE_FULL");
    assert_eq!((metadata["session_id"].as_str(), metadata["limit"].as_str()), ("a", "2"));
    assert!(retry_after(&refused).is_some());

    service.interrupt("a", true).await;
    for (mut turn, wanted) in waiting.into_iter().zip(["echo: one", "echo: two"]) {
        turn.finish().await;
        assert_eq!(turn.result().result, wanted);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_busy_session_rejects_on_demand() {
    let service = Service::start(|_| {}).await;
    let reject =
        |prompt: &str| QueryRequest { on_busy: BusyPolicy::Reject.into(), ..query("a", prompt) };
    assert_eq!(service.run(reject("free")).await.result().result, "echo: free");
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let refused = service.open(reject("busy")).await.expect_err("refused");
    let metadata = failure(&refused, Code::Aborted, "SESSION_BUSY");
    assert_eq!(metadata["session_id"], "a");
    service.interrupt("a", true).await;
    running.finish().await;
    assert!(running.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn options_that_do_not_fit_are_all_named() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let options = SessionOptions {
        model: Some("opus".into()),
        system_prompt: Some("Be brief.".into()),
        max_turns: Some(3),
        allowed_tools: vec!["Bash".into()],
        ..SessionOptions::default()
    };
    let turn = service.run(query_with("a", "two", options)).await;
    let metadata = failure(turn.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "system_prompt,allowed_tools,max_turns");
    assert_eq!(metadata["session_id"], "a");
    assert!(metadata.contains_key("turn_id") && metadata.contains_key("client_id"));
    let session = service.session("a").await.expect("lives on");
    assert_eq!(session.error_count, 1);
    assert!(session.last_error.contains("system_prompt"), "{}", session.last_error);
    assert_eq!(service.query("a", "three").await.result().result, "echo: three");
    service.stop().await;
}

#[tokio::test]
async fn a_stopping_service_refuses_new_turns_and_ends_those_under_way() {
    let service = Service::start(|config| {
        config.server.drain_timeout = Duration::from_millis(700);
    })
    .await;
    let mut other = service.another_client().await;
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let mut waiting = service.open(query("a", "queued")).await.expect("queued");
    let started = running.started().clone();
    let refused = async {
        eventually("a refusal", async || other.query(query("b", "hello")).await.err()).await
    };
    let (stopped, refused) = tokio::join!(service.stop(), refused);
    assert!(!stopped, "a turn had to be ended");
    let metadata = failure(&refused, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(metadata["session_id"], "b");
    assert!(retry_after(&refused).is_some());

    running.finish().await;
    // Told to stop, the CLI may still give the turn its result.
    assert!(running.result().interrupted);
    assert_eq!(started.session_id, "a");
    waiting.finish().await;
    let metadata = failure(waiting.error(), Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(metadata["session_id"], "a");
    assert!(metadata.contains_key("turn_id"), "{metadata:?}");
}
