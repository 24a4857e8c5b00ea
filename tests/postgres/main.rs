//! The whole service on PostgreSQL: what outlives it, what becomes of turns while the database
//! is gone, and of one whose COMMIT is not answered. What the store itself promises is tried in
//! `src/store/tests`. Where PostgreSQL is not installed nothing is tried, loudly; in CI that
//! fails.

mod begun;
mod handover;
mod nodes;
mod retries;
mod rolling;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod view;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodes::recited_at_last;
use session_pool::proto::{
    CloseSessionRequest, GetSessionRequest, ListSessionsRequest, QueryRequest,
};
use support::{
    cutting_proxy::Proxy,
    daemon::Daemon,
    eventually,
    postgres::Server,
    reason, retry_after,
    service::{query, script},
    turn::Turn,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Code;

/// A node on this database.
async fn node(name: &str, url: &str, more: &[(&str, &str)]) -> Daemon {
    node_in(TempDir::new().expect("a folder"), name, url, more).await
}

/// A node with this state folder.
async fn node_in(state: TempDir, name: &str, url: &str, more: &[(&str, &str)]) -> Daemon {
    let of_it = [("STORE__KIND", "postgres"), ("STORE__URL", url), ("CLUSTER__NODE", name)];
    Daemon::start_in(state, &[&of_it, more].concat()).await
}

fn asks(session: &str, text: &str) -> QueryRequest {
    query(session, &script(&["recite", &format!("say {text}")]))
}

/// What was said before in the conversation of a turn that recites it.
fn recited(turn: &Turn) -> Vec<String> {
    assert!(matches!(turn.end, Some(Ok(()))), "{turn:?}");
    let text = turn.text();
    text.lines().filter_map(|line| Some(line.rsplit_once("\\nsay ")?.1.to_owned())).collect()
}

async fn ask(node: &Daemon, session: &str, text: &str) -> Vec<String> {
    let mut turn = node.open(asks(session, text)).await;
    turn.finish().await;
    recited(&turn)
}

#[tokio::test]
async fn a_conversation_outlives_the_service_and_its_state_folder() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let hibernates = [("POOL__HIBERNATE_AFTER", "100ms")];
    let first = node("one", &url, &hibernates).await;
    assert_eq!(ask(&first, "s", "one").await, [""; 0]);
    let id = GetSessionRequest { session_id: "s".into() };
    eventually("it hibernates", async || first.processes().is_empty().then_some(())).await;
    assert_eq!(ask(&first, "s", "two").await, ["one"]);
    drop(first.killed().await);

    // Another machine: nothing but the database is left.
    let second = node("one", &url, &hibernates).await;
    let shown = second.client.clone().get_session(id.clone()).await.expect("known").into_inner();
    assert_eq!(shown.session.expect("a session").message_count, 2);
    // When the lease of the first one is over: nobody there knows that it has ended.
    assert_eq!(recited_at_last(&second, "s", "three").await, ["one", "two"]);
    let list = ListSessionsRequest::default();
    let listed = second.client.clone().list_sessions(list).await.expect("listed").into_inner();
    let listed: Vec<_> = listed.sessions.iter().map(|it| it.session_id.as_str()).collect();
    assert_eq!(listed, ["s"]);
    let forgets = CloseSessionRequest { session_id: "s".into(), forget: true };
    second.client.clone().close_session(forgets).await.expect("forgotten");
    let gone = second.client.clone().get_session(id).await.expect_err("forgotten");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(ask(&second, "s", "anew").await, [""; 0]);
}

#[tokio::test]
async fn a_service_that_crashed_has_its_sessions_at_once_when_it_starts_again_where_it_was() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    // Nobody waits for a lease of an hour.
    let lease = [("CLUSTER__LEASE", "1h")];
    let first = node("one", &url, &lease).await;
    assert_eq!(ask(&first, "s", "one").await, [""; 0]);
    let second = node_in(first.killed().await, "one", &url, &lease).await;
    assert_eq!(ask(&second, "s", "two").await, ["one"]);
}

#[tokio::test]
async fn a_node_that_stops_in_order_leaves_its_sessions_to_others_at_once() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    // Nobody waits for a lease of an hour.
    let lease = [("CLUSTER__LEASE", "1h")];
    let mut one = node("one", &url, &lease).await;
    let two = node("two", &url, &lease).await;
    assert_eq!(ask(&one, "s", "one").await, [""; 0]);
    // It does not say how it is reached.
    let status = two.client.clone().query(asks("s", "lost")).await.expect_err("it is another's");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SESSION_MOVED"));
    assert_eq!(support::metadata(&status, "owner").as_deref(), Some("one"));
    one.signal(rustix::process::Signal::TERM);
    assert!(one.ended().await.success(), "{:?}", one.log());
    // What it has logged last may be on its way still.
    let told = async || one.logged("node_deregistered").pop();
    eventually("it gives its name back", told).await;
    assert_eq!(ask(&two, "s", "two").await, ["one"]);
}

#[tokio::test]
async fn a_turn_whose_commit_is_not_answered_is_told_and_kept_once() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let proxy = Proxy::to(server.address()).await;
    // A heartbeat would take the cut that is meant for the turn.
    let rare = [("CLUSTER__HEARTBEAT", "1m"), ("CLUSTER__LEASE", "1h")];
    let node = node("one", &Server::url_by(proxy.address(), &database), &rare).await;
    assert_eq!(ask(&node, "s", "one").await, [""; 0]);
    proxy.cut_after_commit();
    assert_eq!(ask(&node, "s", "two").await, ["one"]);
    assert_eq!(proxy.cut(), 1);
    assert_eq!(ask(&node, "s", "three").await, ["one", "two"]);
    let told = node.logged("store_commit_took_effect_after_an_error");
    assert_eq!(told.len(), 1, "{:?}", node.log());
}

/// Asks until told to stop; returns what it was told of, in order.
async fn load(node: Arc<Daemon>, session: String, over: Arc<Load>) -> Vec<String> {
    let mut told = Vec::new();
    for number in 0.. {
        if over.is_over.load(Ordering::SeqCst) {
            break;
        }
        let text = format!("{session}-{number}");
        let mut turn = match node.client.clone().query(asks(&session, &text)).await {
            Ok(stream) => Turn::new(stream.into_inner()),
            Err(status) => Turn::refused(status),
        };
        turn.finish().await;
        match &turn.end {
            Some(Ok(())) => told.push(text),
            Some(Err(status)) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(retry_after(status).is_some(), "{status:?}");
                over.refused.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None => panic!("no end: {turn:?}"),
        }
        over.turns.fetch_add(1, Ordering::SeqCst);
    }
    told
}

#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    turns: AtomicUsize,
    refused: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_turn_that_was_told_is_lost_when_the_database_is_killed_under_load() {
    let Some(server) = Server::start() else { return };
    let url = server.url().await;
    let limits = [("STORE__COMMIT_TIMEOUT", "2s"), ("STORE__ACQUIRE_TIMEOUT", "1s")];
    let node = Arc::new(node("one", &url, &limits).await);
    let over = Arc::new(Load::default());
    let mut callers = JoinSet::new();
    for number in 0..4 {
        let session = format!("s{number}");
        let (node, over) = (Arc::clone(&node), Arc::clone(&over));
        callers.spawn(async move { (session.clone(), load(node, session, over).await) });
    }
    for round in 0..2 {
        let turns = over.turns.load(Ordering::SeqCst);
        let asked = || over.turns.load(Ordering::SeqCst) > turns + 12;
        eventually("turns end", async || asked().then_some(())).await;
        server.kill();
        let refused = over.refused.load(Ordering::SeqCst);
        let told = || over.refused.load(Ordering::SeqCst) > refused;
        eventually("callers are refused", async || told().then_some(())).await;
        server.begin();
        let recovered = || node.logged("store_recovered").len() > round;
        eventually("it is well again by itself", async || recovered().then_some(())).await;
    }
    let (turns, refused) = (over.turns.load(Ordering::SeqCst), over.refused.load(Ordering::SeqCst));
    let well = || {
        let more = over.turns.load(Ordering::SeqCst) - turns;
        more > 12 + over.refused.load(Ordering::SeqCst) - refused
    };
    eventually("turns end again", async || well().then_some(())).await;
    over.is_over.store(true, Ordering::SeqCst);
    for (session, told) in callers.join_all().await {
        let kept = ask(&node, &session, "the last").await;
        let missing: Vec<_> = told.iter().filter(|text| !kept.contains(text)).collect();
        assert!(missing.is_empty(), "told and lost in {session}: {missing:?} of {kept:?}");
        let mut once = kept.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), kept.len(), "each once: {kept:?}");
    }
}
