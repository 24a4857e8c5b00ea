//! A CLI that fails in a turn: it exits, it prints too long a line or rubbish.

use std::collections::HashMap;

use tonic::Code;

use crate::support::{
    failure, retry_after,
    service::{Service, query, script},
    turn::Turn,
};

#[track_caller]
fn exited(turn: &Turn) -> HashMap<String, String> {
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    let started = turn.started();
    assert_eq!(metadata["session_id"], started.session_id);
    assert_eq!(metadata["turn_id"], started.turn_id);
    assert_eq!(metadata["client_id"], started.client_id);
    // Whether a retry is safe is the caller's to judge.
    assert_eq!(retry_after(turn.error()), None);
    metadata
}

#[tokio::test]
async fn an_exit_in_mid_turn_tells_its_code_and_last_words() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say half an answer", "stderr the reason", "exit 7"]);
    let turn = service.query("a", &prompt).await;
    assert_eq!(turn.text(), "half an answer");
    let metadata = exited(&turn);
    assert_eq!(metadata["exit_code"], "7");
    assert_eq!(metadata["stderr_tail"], "the reason");
    assert_eq!(metadata["tool_use_seen"], "false");
    assert!(!metadata.contains_key("signal"), "{metadata:?}");
    assert_eq!(service.stats().await.counters.expect("counters").cli_exits, 1);
    service.stop().await;
}

#[tokio::test]
async fn an_exit_with_code_0_is_no_success_without_a_result() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["exit 0"])).await;
    assert_eq!(exited(&turn)["exit_code"], "0");
    service.stop().await;
}

#[tokio::test]
async fn a_death_by_signal_tells_the_signal() {
    let service = Service::start(|_| {}).await;
    for (name, number) in [("KILL", "9"), ("SEGV", "11"), ("ABRT", "6")] {
        let turn = service.query("a", &script(&[&format!("kill-self {name}"), "hang"])).await;
        let metadata = exited(&turn);
        assert_eq!(metadata["signal"], number);
        assert!(!metadata.contains_key("exit_code"), "{metadata:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_tool_that_may_have_run_is_told() {
    let service = Service::start(|_| {}).await;
    let used = script(&[r#"tool t1 Bash {"command":"date"}"#, "tool-result t1 today", "exit 1"]);
    let turn = service.query("a", &used).await;
    assert_eq!(exited(&turn)["tool_use_seen"], "true");
    // The next turn's own account begins anew.
    let turn = service.query("a", &script(&["say nothing ran", "exit 1"])).await;
    assert_eq!(exited(&turn)["tool_use_seen"], "false");
    service.stop().await;
}

#[tokio::test]
async fn a_long_stderr_is_cut_to_its_end() {
    let service = Service::start(|_| {}).await;
    let lines: Vec<String> = (0..300).map(|n| format!("stderr line {n} é")).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("exit 1");
    let turn = service.query("a", &script(&lines)).await;
    let metadata = exited(&turn);
    let tail = &metadata["stderr_tail"];
    assert!(tail.ends_with("line 299 é"), "{tail}");
    assert!(tail.len() <= 1500 && !tail.contains("line 0 "), "{}", tail.len());
    service.stop().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_turn() {
    let service = Service::start(|config| config.cli.max_frame_bytes = 100_000).await;
    let turn = service.query("a", &script(&["say before", "big 200000", "hang"])).await;
    let metadata = failure(turn.error(), Code::Internal, "FRAME_TOO_LARGE");
    assert_eq!(metadata["limit"], "100000");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["turn_id"], turn.started().turn_id);
    assert_eq!(metadata["client_id"], turn.started().client_id);
    assert_eq!(turn.text(), "before");
    service.stop().await;
}

#[tokio::test]
async fn a_line_without_an_end_is_over_the_limit_too() {
    let service = Service::start(|config| config.cli.max_frame_bytes = 10_000).await;
    let endless = format!("raw-partial {}", "x".repeat(20_000));
    let turn = service.query("a", &script(&[&endless, "hang"])).await;
    failure(turn.error(), Code::Internal, "FRAME_TOO_LARGE");
    service.stop().await;
}

#[tokio::test]
async fn d3_a_line_that_is_no_json_is_told_to_nobody() {
    let service = Service::start(|_| {}).await;
    let secret = "planted-in-a-broken-line";
    for line in ["garbage", "raw [1,2]", &format!("raw {secret}")] {
        let turn = service.query("a", &script(&["say before", line, "say behind"])).await;
        assert_eq!(turn.text(), "before\nbehind", "{line}");
        turn.result();
        assert!(!format!("{:?}", turn.events).contains(secret));
        assert_eq!(service.query("a", "and on").await.result().result, "echo: and on");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_turn_without_a_result_is_not_waited_for() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["say done", "no-result idle"])).await;
    failure(turn.error(), Code::Internal, "PROTOCOL_ERROR");
    let next = service.open(query("a", "next")).await;
    let mut next = next.expect("taken");
    next.finish().await;
    assert_eq!(next.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_an_internal_error() {
    let service = Service::start(|_| {}).await;
    // Where the session's folders are to be made, there is a file.
    std::fs::write(service.state.path().join("tenants"), "").expect("written");
    let turn = service.query("a", "hello").await;
    let metadata = failure(turn.error(), Code::Internal, "INTERNAL");
    assert_eq!(metadata["session_id"], "a");
    assert!(turn.error().message().contains("folders"), "{:?}", turn.error());
    service.stop().await;
}
