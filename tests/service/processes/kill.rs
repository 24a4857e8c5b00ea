//! `kill -9` of the program, and what its next life makes of what is left.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;

use crate::support::{
    daemon::Daemon,
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
    daemon.kill_service();
    let ended = daemon.ended().await;
    // The supervisor ends as the service did, and not before all are gone.
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(daemon.processes(), [0; 0]);
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
    // What even the supervisor could not end carries the mark all the same.
    let mut left = tokio::process::Command::new("sleep")
        .arg("1000")
        .env("SESSION_POOL_STATE", state.path())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut next = Daemon::start_in(state, &[]).await;
    assert_eq!(left.wait().await.expect("swept").signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(next.processes(), [0; 0]);
    next.open(query("a", "hello")).await.finish().await;
    assert_eq!(next.processes().len(), 1);
    next.signal(Signal::TERM);
    assert_eq!(next.ended().await.code(), Some(0));
}
