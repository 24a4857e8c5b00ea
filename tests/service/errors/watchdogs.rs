//! Turns that the service ends: too long without a frame, or interrupted.

use std::time::Duration;

use session_pool::proto::{InterruptOutcome, SessionOptions};
use tonic::Code;

use crate::support::{
    eventually, failure,
    service::{Service, model, query, query_with, script},
};

#[tokio::test]
async fn s11_the_stalled_caller_is_told_by_itself_that_no_frame_came() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = Duration::from_millis(300);
    })
    .await;
    let turn = service.query("a", &script(&["no-init", "hang"])).await;
    let metadata = failure(turn.error(), Code::DeadlineExceeded, "FIRST_CHUNK_TIMEOUT");
    assert_eq!(metadata["limit"], "300ms");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["turn_id"], turn.started().turn_id);
    assert_eq!(metadata["client_id"], turn.started().client_id);

    // The process was taken for broken; the conversation goes on in another.
    let next = service.query("a", "next").await;
    assert_eq!(next.result().result, "echo: next");
    assert_ne!(next.started().client_id, turn.started().client_id);
    assert_eq!(service.processes().len(), 1);
    assert_eq!(service.stats().await.counters.expect("counters").first_chunk_timeouts, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_stalled_turn_is_ended_although_nobody_else_asks() {
    let service = Service::start(|config| {
        config.pool.stream_stall_timeout = Duration::from_millis(300);
    })
    .await;
    let turn = service.query("a", &script(&["say a word", "hang"])).await;
    assert_eq!(turn.text(), "a word");
    let metadata = failure(turn.error(), Code::DeadlineExceeded, "STREAM_STALLED");
    assert_eq!(metadata["limit"], "300ms");
    assert_eq!(metadata["turn_id"], turn.started().turn_id);
    assert_eq!(metadata["client_id"], turn.started().client_id);
    // The CLI obeyed, so the process stays.
    let next = service.query("a", "next").await;
    assert_eq!(next.started().client_id, turn.started().client_id);
    assert_eq!(next.text(), "echo: next");
    assert_eq!(service.stats().await.counters.expect("counters").stalled, 1);
    service.stop().await;
}

#[tokio::test]
async fn d9_a_turn_whose_credentials_are_refused_ends_soon_and_says_so() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["retry 3 401", "hang"])).await;
    let metadata = failure(turn.error(), Code::FailedPrecondition, "CREDENTIALS_REFUSED");
    assert_eq!(metadata["tool_use_seen"], "false");
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.credentials_refused, counters.turns_failed), (1, 1));

    // The next process may have others.
    let next = service.query("a", "next").await;
    assert_eq!(next.result().result, "echo: next");
    assert_ne!(next.started().client_id, turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn d9_a_key_that_was_replaced_in_its_file_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, "revoked\n").expect("written");
    for spares in [0, 1] {
        let service = Service::start(|config| {
            config.cli.env_files = vec![format!("ANTHROPIC_API_KEY={}", key.display())];
            config.pool.spares = spares;
        })
        .await;
        eventually("the spare is ready", async || {
            (service.stats().await.spares as usize == spares).then_some(())
        })
        .await;
        std::fs::write(&key, "good\n").expect("replaced");
        let told = service.query("a", &script(&["env ANTHROPIC_API_KEY"])).await;
        assert!(told.text().contains("good"), "{spares} spares: {}", told.text());

        std::fs::write(&key, "better").expect("replaced");
        let refused = service.query("a", &script(&["retry 3 401", "hang"])).await;
        failure(refused.error(), Code::FailedPrecondition, "CREDENTIALS_REFUSED");
        let told = service.query("a", &script(&["env ANTHROPIC_API_KEY"])).await;
        assert!(told.text().contains("better"), "{spares} spares: {}", told.text());

        std::fs::remove_file(&key).expect("removed");
        let turn = service.query("b", "hello").await;
        let metadata = failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
        assert!(
            turn.error().message().contains("cli.env_files: ANTHROPIC_API_KEY"),
            "{metadata:?}"
        );
        std::fs::write(&key, "revoked").expect("written");
        service.stop().await;
    }
}

#[tokio::test]
async fn d9_refusals_that_an_answer_comes_between_end_nothing() {
    let service = Service::start(|_| {}).await;
    for between in ["retry 1 529", "say a word"] {
        let lines = ["retry 2 401", between, "retry 2 403", "say the end"];
        assert!(service.query("a", &script(&lines)).await.result().result.ends_with("the end"));
    }
    assert_eq!(service.stats().await.counters.expect("counters").credentials_refused, 0);
    service.stop().await;
}

#[tokio::test]
async fn d4_the_servers_that_the_cli_waits_for_are_named() {
    let service = Service::start(|config| {
        config.pool.stream_first_chunk_timeout = Duration::from_millis(300);
        config.policy.mcp_servers = session_pool::config::McpServers::Remote;
    })
    .await;
    let servers = r#"{"mcpServers":{"slow":{"type":"http","url":"http://127.0.0.1:9/"}}}"#;
    let options = SessionOptions { mcp_servers: Some(servers.into()), ..model("fake") };
    let turn = service.run(query_with("a", &script(&["no-init", "hang"]), options)).await;
    let metadata = failure(turn.error(), Code::DeadlineExceeded, "FIRST_CHUNK_TIMEOUT");
    assert_eq!(metadata["mcp_servers"], "slow");
    assert!(turn.error().message().contains("MCP_TIMEOUT: slow"), "{}", turn.error().message());
    service.stop().await;
}

#[tokio::test]
async fn an_interrupted_turn_without_a_result_says_so() {
    let service = Service::start(|_| {}).await;
    let mut turn =
        service.open(query("a", &script(&["no-result idle", "hang"]))).await.expect("taken");
    turn.until_init().await;
    let report = service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    let metadata = failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["turn_id"], turn.started().turn_id);
    assert_eq!(metadata["client_id"], turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn turns_behind_an_interrupted_one_end_with_it_unless_the_session_is_kept() {
    let service = Service::start(|_| {}).await;
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let mut waiting = service.open(query("a", "queued")).await.expect("queued");
    assert!(service.interrupt("a", false).await.interrupted);
    running.finish().await;
    assert!(running.result().interrupted);
    waiting.finish().await;
    let metadata = failure(waiting.error(), Code::Cancelled, "TURN_INTERRUPTED");
    assert_eq!(metadata["session_id"], "a");
    assert!(metadata.contains_key("turn_id"), "{metadata:?}");
    assert!(waiting.events.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_waits_for_its_process_can_be_interrupted() {
    let service = Service::start(|_| {}).await;
    let mut turn =
        service.open(query_with("a", "hello", model("fake:boot=60000"))).await.expect("taken");
    let report = service.interrupt("a", false).await;
    assert!(report.interrupted && report.had_active_turn, "{report:?}");
    turn.finish().await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}
