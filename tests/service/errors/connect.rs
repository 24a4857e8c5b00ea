//! A CLI that cannot be started: not there, gone at once, or without an answer.

use std::time::Duration;

use session_pool::proto::SessionOptions;
use tonic::Code;

use crate::support::{
    eventually, failure, log, retry_after,
    service::{Service, model, query_with},
};

async fn gone(service: &Service, session: &str) {
    eventually("the session has left the pool", async || {
        service.session(session).await.is_err().then_some(())
    })
    .await;
    assert_eq!(service.processes(), [0; 0]);
}

#[tokio::test]
async fn a_missing_executable_is_named() {
    let service = Service::start(|config| config.cli.path = "/no/such/claude".into()).await;
    let turn = service.query("a", "hello").await;
    let metadata = failure(turn.error(), Code::FailedPrecondition, "CLI_NOT_FOUND");
    assert_eq!(metadata["session_id"], "a");
    assert!(metadata.contains_key("turn_id"), "{metadata:?}");
    assert!(turn.error().message().contains("/no/such/claude"), "{}", turn.error().message());
    assert_eq!(retry_after(turn.error()), None);
    gone(&service, "a").await;
    service.stop().await;
}

#[tokio::test]
async fn a_file_that_is_no_program_is_not_found_either() {
    let service = Service::start(|config| config.cli.path = "/etc/passwd".into()).await;
    let turn = service.query("a", "hello").await;
    failure(turn.error(), Code::FailedPrecondition, "CLI_NOT_FOUND");
    gone(&service, "a").await;
    service.stop().await;
}

#[tokio::test]
async fn s09_a_cli_that_exits_at_its_start_is_told_with_its_last_words() {
    let service = Service::start(|_| {}).await;
    let id = "s09-exit";
    let turn = service.run(query_with(id, "hello", model("fake:exit=3"))).await;
    let metadata = failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
    assert_eq!(metadata["exit_code"], "3");
    assert!(metadata["stderr_tail"].contains("told to exit at start"), "{metadata:?}");
    assert_eq!(metadata["session_id"], id);
    assert!(metadata.contains_key("turn_id") && metadata.contains_key("client_id"));
    assert!(retry_after(turn.error()).is_some());
    gone(&service, id).await;
    let stats = service.stats().await;
    assert_eq!((stats.total_sessions, stats.processes), (0, 0));
    assert_eq!(stats.counters.expect("counters").connect_failures, 1);
    assert_eq!(log::events("session_pool_connection_failed", id).len(), 1);
    // The place is free for another try.
    assert_eq!(service.query(id, "again").await.result().result, "echo: again");
    service.stop().await;
}

#[tokio::test]
async fn s09_a_cli_that_never_initialises_is_ended_in_time() {
    let service = Service::start(|config| {
        config.pool.connect_timeout = Duration::from_millis(400);
    })
    .await;
    for (id, knobs) in [("silent", "fake:no-init"), ("stubborn", "fake:no-init,ignore-term")] {
        let turn = service.run(query_with(id, "hello", model(knobs))).await;
        let metadata = failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
        assert!(!metadata.contains_key("exit_code"), "{metadata:?}");
        assert!(turn.error().message().contains("connect_timeout"), "{}", turn.error().message());
        gone(&service, id).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn d3_a_cli_that_begins_with_a_banner_connects() {
    let service = Service::start(|_| {}).await;
    let turn = service.run(query_with("a", "hello", model("fake:garbage-first"))).await;
    assert_eq!(turn.result().result, "echo: hello");
    assert_eq!(service.stats().await.counters.expect("counters").stray_lines, 1);
    service.stop().await;
}

#[tokio::test]
async fn s09_turns_that_wait_for_a_failed_connect_fail_with_it() {
    let service = Service::start(|_| {}).await;
    let knobs = SessionOptions { ..model("fake:boot=300,no-such-knob") };
    let first = service.open(query_with("a", "one", knobs.clone())).await;
    let second = service.open(query_with("a", "two", knobs)).await;
    for turn in [first, second] {
        let mut turn = turn.expect("taken");
        turn.finish().await;
        let metadata = failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
        assert_eq!(metadata["exit_code"], "2");
        assert!(metadata["stderr_tail"].contains("no such knob"), "{metadata:?}");
    }
    gone(&service, "a").await;
    service.stop().await;
}
