//! `kill -9` of the program, and what its next life makes of what is left.

use rustix::process::Signal;

use crate::support::daemon::Daemon;
use crate::support::{
    eventually,
    service::{query, script},
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
