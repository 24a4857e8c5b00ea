//! Everything that ends a session or the service, on a fake CLI that heeds neither the
//! end of its input nor SIGTERM, with children in all the places where they can hide.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;

use crate::{
    bed::{Bed, MODES},
    support::{processes::kill, service::query, turn::Turn},
};

/// The CLI resists, and does not answer an interrupt.
const STUBBORN: [&str; 3] = ["ignore-eof", "ignore-term", "deaf"];

const SESSIONS: usize = 10;

/// Starts sessions and makes sure that everything that is to be ended is there.
async fn stubborn(mode: &str, sessions: usize, settings: &[(&str, &str)]) -> (Bed, Vec<Turn>) {
    let bed = Bed::fake(mode, settings).await;
    let mut turns = Vec::new();
    for session in 0..sessions {
        turns.push(bed.hang(&format!("s{session}"), &STUBBORN).await);
    }
    // The CLI and four children each; besides, what encloses them.
    assert!(bed.alive().len() >= sessions * 6, "{:#?}", bed.alive());
    (bed, turns)
}

#[tokio::test]
async fn kill_9_of_the_service_leaves_nothing() {
    for mode in MODES {
        let (mut bed, _turns) = stubborn(mode, SESSIONS, &[]).await;
        bed.daemon.kill_service();
        let status = bed.daemon.ended().await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{mode}");
        bed.gone().await;
    }
}

#[tokio::test]
async fn kill_9_of_the_supervisor_leaves_nothing() {
    let (mut bed, _turns) = stubborn("process-tree", SESSIONS, &[]).await;
    let service = bed.daemon.id();
    assert_ne!(service, bed.daemon.started());
    bed.daemon.signal(Signal::KILL);
    bed.daemon.ended().await;
    bed.gone().await;
    assert!(!crate::support::processes::lives(service));
}

#[tokio::test]
async fn kill_9_of_a_sessions_supervisor_leaves_nothing_of_that_session() {
    let bed = Bed::fake("process-tree", &[]).await;
    let mut turn = bed.hang("a", &STUBBORN).await;
    bed.kill_starting_with("session-pool keep");
    bed.gone().await;
    turn.finish().await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    bed.run(query("a", "hello")).await.result();
    bed.stop().await;
}

#[tokio::test]
async fn kill_9_of_bubblewrap_leaves_nothing_of_that_session() {
    let bed = Bed::fake("bubblewrap", &[]).await;
    let mut turn = bed.hang("a", &STUBBORN).await;
    bed.kill_starting_with("bwrap");
    bed.gone().await;
    turn.finish().await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    bed.run(query("a", "hello")).await.result();
    bed.stop().await;
}

#[tokio::test]
async fn sigterm_leaves_nothing() {
    for mode in MODES {
        let settings =
            [("SERVER__DRAIN_TIMEOUT", "100ms"), ("POOL__STREAM_INTERRUPT_TIMEOUT", "300ms")];
        let (bed, _turns) = stubborn(mode, SESSIONS, &settings).await;
        let status = bed.stop().await;
        // Turns were cut, and the supervisor says so as the service did.
        assert_eq!(status.code(), Some(1), "{mode}");
    }
}

#[tokio::test]
async fn an_idle_service_ends_well_at_sigterm() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[]).await;
        bed.run(query("a", "hello")).await.result();
        assert_eq!(bed.stop().await.code(), Some(0), "{mode}");
    }
}

#[tokio::test]
async fn a_closed_session_leaves_nothing() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("POOL__STREAM_INTERRUPT_TIMEOUT", "300ms")]).await;
        let _turn = bed.hang("a", &STUBBORN).await;
        bed.close("a").await;
        bed.gone().await;
        bed.stop().await;
    }
}

#[tokio::test]
async fn an_interrupt_that_is_not_answered_leaves_nothing() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("POOL__STREAM_INTERRUPT_TIMEOUT", "300ms")]).await;
        let _turn = bed.hang("a", &STUBBORN).await;
        bed.interrupt("a").await;
        bed.gone().await;
        bed.stop().await;
    }
}

#[tokio::test]
async fn an_expired_session_leaves_nothing() {
    for mode in MODES {
        let settings = [("POOL__IDLE_THRESHOLD", "500ms"), ("POOL__CLEANUP_INTERVAL", "100ms")];
        let bed = Bed::fake(mode, &settings).await;
        let lines = [&crate::bed::CHILDREN[..], &["ignore-eof", "ignore-term"]].concat();
        let turn = bed.run(query("a", &crate::support::service::script(&lines))).await;
        assert!(!turn.result().is_error);
        bed.until_gone().await;
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_killed_cli_takes_its_children_along_and_is_told_of() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[]).await;
        let mut turn = bed.hang("a", &[]).await;
        let request = session_pool::proto::GetSessionRequest { session_id: "a".into() };
        let answer = bed.daemon.client.clone().get_session(request).await.expect("answered");
        let pid = answer.into_inner().session.expect("a session").process_id;
        let words = crate::support::processes::words(pid);
        assert_eq!(words.first(), Some(&bed.unique), "process_id is the CLI's own, in {mode}");
        kill(pid);
        bed.gone().await;
        turn.finish().await;
        let status = turn.error();
        assert_eq!(crate::support::metadata(status, "signal").as_deref(), Some("9"), "{status:?}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn how_the_cli_ended_is_told_alike_in_both_sandboxes() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[]).await;
        for (ending, key, value) in [
            ("exit 0", "exit_code", "0"),
            ("exit 3", "exit_code", "3"),
            ("kill-self TERM", "exit_code", "143"),
            ("kill-self KILL", "signal", "9"),
            ("kill-self ABRT", "signal", "6"),
            ("kill-self SEGV", "signal", "11"),
        ] {
            // A signal may take effect a moment after it was sent.
            let lines = ["say x", ending, "hang"];
            let turn = bed.run(query("a", &crate::support::service::script(&lines))).await;
            let told = crate::support::metadata(turn.error(), key);
            assert_eq!(told.as_deref(), Some(value), "{ending} in {mode}: {:?}", turn.error());
        }
        bed.stop().await;
    }
}
