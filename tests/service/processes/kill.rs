//! `kill -9` of the program, and how much memory a caller that does not read costs it.

use std::fs;

use rustix::process::Signal;
use session_pool::proto::session_pool_service_client::SessionPoolServiceClient;
use tonic::transport::Endpoint;

use super::daemon::Daemon;
use crate::support::{
    eventually,
    service::{query, script},
    turn::Turn,
};

#[tokio::test]
async fn after_kill_9_of_the_service_no_cli_is_left() {
    let mut daemon = Daemon::start(&[]).await;
    let mut turns = Vec::new();
    for n in 0..4 {
        let mut turn = daemon.open(query(&format!("s{n}"), &script(&["say word", "hang"]))).await;
        turn.until_text("word").await;
        turns.push(turn);
    }
    daemon.open(query("idle", "hello")).await.finish().await;
    assert_eq!(daemon.processes().len(), 5);
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.ended().await.code(), None);
    eventually("all are gone", async || daemon.processes().is_empty().then_some(())).await;
    for mut turn in turns {
        turn.finish().await;
        assert!(turn.end.is_some_and(|end| end.is_err()));
    }
}

#[tokio::test]
async fn what_a_killed_service_left_is_swept_by_its_next_life() {
    let daemon = Daemon::start(&[]).await;
    let prompt = script(&["child setsid", "child nohup", "say word", "hang"]);
    let mut turn = daemon.open(query("a", &prompt)).await;
    turn.until_text("word").await;
    let state = daemon.killed().await;
    let mut next = Daemon::start_in(state, &[]).await;
    assert_eq!(next.processes(), [0; 0]);
    next.open(query("a", "hello")).await.finish().await;
    assert_eq!(next.processes().len(), 1);
    next.signal(Signal::TERM);
    assert_eq!(next.ended().await.code(), Some(0));
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

#[tokio::test]
async fn a_caller_that_does_not_read_costs_the_service_little_memory() {
    const SIZE: usize = 40_000_000;
    let mut daemon = Daemon::start(&[]).await;
    daemon.open(query("a", &script(&["frames 100 40000"]))).await.finish().await;
    let before = resident(daemon.id());
    let endpoint = Endpoint::from_shared(daemon.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut narrow = SessionPoolServiceClient::new(endpoint.connect().await.expect("connected"));
    let prompt = script(&[&format!("frames {} 40000", SIZE / 40_000)]);
    let stream = narrow.query(query("a", &prompt)).await.expect("taken");
    let mut most = before;
    eventually("the turn has ended", async || {
        most = most.max(resident(daemon.id()));
        let request = session_pool::proto::GetStatsRequest {};
        let stats = daemon.client.clone().get_stats(request).await.expect("answered");
        let counters = stats.into_inner().counters.expect("counters");
        (counters.turns_completed == 2).then_some(())
    })
    .await;
    let grown = most.saturating_sub(before);
    assert!(grown < 16 << 20, "the service grew by {grown} bytes");
    let mut turn = Turn::new(stream.into_inner());
    turn.finish().await;
    assert_eq!(turn.result().result, format!("{:012}", SIZE / 40_000));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
}
