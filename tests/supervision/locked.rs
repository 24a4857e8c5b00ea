//! Another process holds the database, as a backup does: results wait until they are kept,
//! and nobody else waits.

use std::{future::Future, time::Duration};

use rustix::process::Signal;
use session_pool::proto::{
    AttachRequest, CloseSessionRequest, GetSessionRequest, InterruptOutcome, InterruptRequest,
    Session,
};
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::{
    second::Second,
    support::{
        daemon::Daemon,
        eventually, processes, reason,
        service::{query, script},
        turn::Turn,
    },
};

/// Well under `store.commit_timeout`, over what a session that ends waits for the store.
const AT_ONCE: Duration = Duration::from_secs(15);

async fn at_once<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(AT_ONCE, work).await.unwrap_or_else(|_| panic!("{what} waits for the database"))
}

async fn run(daemon: &Daemon, session: &str, lines: &[&str]) -> Turn {
    let mut turn = daemon.open(query(session, &script(lines))).await;
    turn.finish().await;
    turn
}

async fn session(daemon: &Daemon, name: &str) -> Session {
    let request = GetSessionRequest { session_id: name.into() };
    let answer = daemon.client.clone().get_session(request).await.expect("there");
    answer.into_inner().session.expect("a session")
}

/// A turn whose result the service has, and has not told.
async fn untold(daemon: &Daemon, name: &str, word: &str) -> Turn {
    let before = session(daemon, name).await.total_cost_usd;
    let mut turn = daemon.open(query(name, &script(&[&format!("say {word}")]))).await;
    turn.until_text(word).await;
    let paid = async || (session(daemon, name).await.total_cost_usd > before).then_some(());
    eventually("the result", paid).await;
    turn
}

async fn interrupt(daemon: &Daemon, name: &str) -> InterruptOutcome {
    let request = InterruptRequest {
        session_id: name.into(),
        keep_session: true,
        ..InterruptRequest::default()
    };
    let answered = at_once("an interrupt", daemon.client.clone().interrupt(request)).await;
    answered.expect("answered").into_inner().outcome()
}

fn second(daemon: &Daemon) -> Second {
    Second::beside(daemon.id(), &daemon.state.path().join("session-pool.db"))
}

#[tokio::test]
async fn a3_nobody_waits_for_a_database_that_another_process_holds() {
    let daemon = Daemon::start(&[]).await;
    for name in ["ends", "closes", "hangs"] {
        run(&daemon, name, &["say before"]).await.result();
    }
    let mut second = second(&daemon);
    assert!(second.locks().await);
    let mut ends = untold(&daemon, "ends", "answer-of-ends").await;
    let mut closes = untold(&daemon, "closes", "answer-of-closes").await;
    let mut hangs = daemon.open(query("hangs", &script(&["say begun", "hang"]))).await;
    hangs.until_text("begun").await;

    assert_eq!(interrupt(&daemon, "ends").await, InterruptOutcome::TurnEnded);
    assert_eq!(interrupt(&daemon, "hangs").await, InterruptOutcome::Interrupted);
    let process = session(&daemon, "closes").await.process_id;
    let request = CloseSessionRequest { session_id: "closes".into(), forget: false };
    let closed = at_once("a close", daemon.client.clone().close_session(request)).await;
    assert!(closed.expect("closed").into_inner().had_active_turn);
    assert!(!processes::lives(process), "what is closed has no process");
    let request = AttachRequest { session_id: "ends".into(), ..AttachRequest::default() };
    let joined = at_once("an attach", daemon.client.clone().attach(request)).await;
    let mut joined = Turn::attached(joined.expect("joined").into_inner());
    let mut new = daemon.open(query("new", &script(&["say of another"]))).await;
    at_once("another session", new.until_text("of another")).await;
    assert!(!second.finds("answer-of-ends").await, "nothing is kept");

    second.unlocks().await;
    for turn in [&mut ends, &mut closes, &mut hangs, &mut joined, &mut new] {
        turn.finish().await;
    }
    assert_eq!(ends.result().result, "answer-of-ends");
    assert_eq!(joined.result().result, "answer-of-ends");
    assert_eq!(closes.result().result, "answer-of-closes");
    assert!(hangs.result().interrupted);
    assert_eq!(new.result().result, "of another");
    for word in ["answer-of-ends", "answer-of-closes"] {
        assert!(second.finds(word).await, "{word} is told and not kept");
    }
    // The session after the one that was closed goes on where that was.
    let again = run(&daemon, "closes", &["recite"]).await;
    assert!(again.result().result.contains("answer-of-closes"), "{}", again.result().result);
    daemon.killed().await;
}

#[tokio::test]
async fn a3_a_stop_ends_processes_although_another_process_holds_the_database() {
    let mut daemon = Daemon::start(&[("SERVER__DRAIN_TIMEOUT", "100ms")]).await;
    run(&daemon, "ends", &["say before"]).await.result();
    let mut second = second(&daemon);
    assert!(second.locks().await);
    let mut turn = untold(&daemon, "ends", "last-answer").await;
    let process = session(&daemon, "ends").await.process_id;
    daemon.signal(Signal::TERM);
    eventually("the end of the process", async || (!processes::lives(process)).then_some(())).await;
    assert!(!second.finds("last-answer").await, "nothing is kept");
    second.unlocks().await;
    turn.finish().await;
    assert_eq!(turn.result().result, "last-answer", "what was paid is told");
    assert_eq!(daemon.ended().await.code(), Some(1), "a turn outlived the drain");
}

#[tokio::test]
async fn a3_a_close_that_forgets_waits_for_one_commit_timeout() {
    const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
    /// Less than two times that, and more than the CLI takes to end beside it.
    const BOUND: Duration = Duration::from_secs(17);
    let daemon = Daemon::start(&[("STORE__COMMIT_TIMEOUT", "10s")]).await;
    for name in ["forgotten", "closed"] {
        run(&daemon, name, &["say before"]).await.result();
    }
    let mut second = second(&daemon);
    assert!(second.locks().await);
    let mut turn = untold(&daemon, "forgotten", "answer").await;
    let close = |session_id: &str, forget| {
        let request = CloseSessionRequest { session_id: session_id.into(), forget };
        let mut client = daemon.client.clone();
        async move { client.close_session(request).await }
    };
    let began = Instant::now();
    at_once("a close", close("closed", false)).await.expect("closed");
    // One that ends without it, and waits for the store, is forgotten by the next session.
    let (one, other) = tokio::join!(close("forgotten", true), close("closed", true));
    let elapsed = began.elapsed();
    for status in [one, other].map(|closed| closed.expect_err("it is there")) {
        assert_eq!(reason(&status), "STORE_UNAVAILABLE", "{status:?}");
    }
    assert!((COMMIT_TIMEOUT..BOUND).contains(&elapsed), "{elapsed:?}");
    turn.finish().await;
    second.unlocks().await;
    for name in ["forgotten", "closed"] {
        close(name, true).await.expect("forgotten");
        assert_eq!(close(name, true).await.expect_err("it is gone").code(), Code::NotFound);
    }
    daemon.killed().await;
}
