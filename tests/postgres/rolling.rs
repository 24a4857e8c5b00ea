//! All nodes are restarted one after the other while callers ask, follow and join: nobody is told
//! anything but to ask again, and what was told is in the conversation once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use session_pool::proto::{
    QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client, turn_event::Kind,
};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Status, transport::Channel};

use super::{
    Daemon, Server, ask, asks,
    nodes::{reachable, reachable_in},
    support::{
        eventually,
        follower::{Follower, Told, from, from_start},
        reason, retry_after,
        turn::Turn,
    },
};

const NODES: [&str; 3] = ["one", "two", "three"];
const SESSIONS: usize = 4;
const CALLERS: usize = 6;
/// For turns that run; no turn takes as long.
const DRAIN: (&str, &str) = ("SERVER__DRAIN_TIMEOUT", "15s");

/// How to reach the nodes, for the time being.
#[derive(Default)]
struct Clients(Mutex<Vec<Option<Client<Channel>>>>);

impl Clients {
    fn set(&self, at: usize, node: &Daemon) {
        let mut clients = self.0.lock().expect("no panic");
        clients.resize(NODES.len(), None);
        clients[at] = Some(node.client.clone());
    }

    fn at(&self, at: usize) -> Client<Channel> {
        self.0.lock().expect("no panic")[at % NODES.len()].clone().expect("it has been there")
    }
}

#[derive(Default)]
struct Load {
    clients: Clients,
    is_over: AtomicBool,
    told: AtomicUsize,
    asked_again: AtomicUsize,
}

/// Whether the table of errors says that the same call can be sent again: what a caller does who
/// reads it. A connection that is gone says nothing, and the turn's id makes it safe.
#[track_caller]
fn is_safe(status: &Status) {
    let reason = reason(status);
    let of_connections = [Code::Unavailable, Code::Unknown, Code::Cancelled];
    let is_gone = reason.is_empty() && of_connections.contains(&status.code());
    let safe = ["SESSION_MOVED", "SHUTTING_DOWN", "STORE_UNAVAILABLE"];
    let is_told = safe.contains(&reason.as_str())
        && status.code() == Code::Unavailable
        && retry_after(status).is_some();
    assert!(is_gone || is_told, "{status:?}");
}

/// Asks one turn after the other; each until it is told, at the next node where one refuses.
async fn call(load: Arc<Load>, number: usize) -> Vec<(String, String)> {
    let (session, mut at) = (format!("s{}", number % SESSIONS), number);
    let mut told = Vec::new();
    while !load.is_over.load(Ordering::SeqCst) {
        let text = format!("{number}-{}", told.len());
        let request = QueryRequest { turn_id: format!("t-{text}"), ..asks(&session, &text) };
        loop {
            let mut turn = match load.clients.at(at).query(request.clone()).await {
                Ok(stream) => Turn::new(stream.into_inner()),
                Err(status) => Turn::refused(status),
            };
            turn.finish().await;
            match turn.end.expect("ended") {
                Ok(()) => break,
                Err(status) => is_safe(&status),
            }
            load.asked_again.fetch_add(1, Ordering::SeqCst);
            at += 1;
            sleep(Duration::from_millis(100)).await;
        }
        told.push((session.clone(), text));
        load.told.fetch_add(1, Ordering::SeqCst);
    }
    told
}

/// Follows a session over all restarts; returns the turns whose results it has seen.
async fn follow(load: Arc<Load>, number: usize) -> Vec<String> {
    let (session, mut at) = (format!("s{}", number % SESSIONS), number);
    let (mut cursor, mut seen) = (None::<String>, Vec::new());
    while !load.is_over.load(Ordering::SeqCst) {
        let request =
            cursor.as_deref().map_or_else(|| from_start(&session), |it| from(&session, it));
        match Follower::open(&load.clients.at(at), request).await {
            Err(status) if reason(&status) == "SESSION_NOT_FOUND" && cursor.is_none() => {}
            Err(status) => is_safe(&status),
            Ok(mut follower) => {
                loop {
                    let over = async {
                        while !load.is_over.load(Ordering::SeqCst) {
                            sleep(Duration::from_millis(50)).await;
                        }
                    };
                    let told = tokio::select! {
                        told = follower.next() => told,
                        () = over => break,
                    };
                    match told {
                        Some(Told::Event(turn, event)) => {
                            if matches!(event.kind, Some(Kind::Result(_))) {
                                seen.push(turn);
                            }
                        }
                        Some(_) => {}
                        None => {
                            if let Some(Err(status)) = &follower.end {
                                is_safe(status);
                            }
                            break;
                        }
                    }
                }
                if !follower.told.is_empty() {
                    cursor = Some(follower.cursor());
                }
            }
        }
        at += 1;
        sleep(Duration::from_millis(100)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_nodes_under_load_fails_no_call() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let load = Arc::new(Load::default());
    let mut nodes = Vec::new();
    for (at, name) in NODES.iter().enumerate() {
        nodes.push(reachable(name, &url, &[DRAIN]).await);
        load.clients.set(at, &nodes[at]);
    }
    let (mut callers, mut followers) = (JoinSet::new(), JoinSet::new());
    for number in 0..CALLERS {
        callers.spawn(call(Arc::clone(&load), number));
    }
    for number in 0..3 {
        followers.spawn(follow(Arc::clone(&load), number));
    }
    let more_told = async |count: usize| {
        let before = load.told.load(Ordering::SeqCst);
        let more = || load.told.load(Ordering::SeqCst) >= before + count;
        eventually("more is told", async || more().then_some(())).await;
    };
    more_told(20).await;
    for (at, name) in NODES.iter().enumerate() {
        let mut node = nodes.remove(0);
        node.signal(Signal::TERM);
        let ended = node.ended().await;
        assert!(ended.success(), "all turns of {name} have ended: {:?}", node.logged("stopped"));
        nodes.push(reachable_in(node.state, name, &url, &[DRAIN]).await);
        load.clients.set(at, nodes.last().expect("the newest"));
        more_told(20).await;
    }
    load.is_over.store(true, Ordering::SeqCst);
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for (session, text) in callers.join_all().await.concat() {
        told.entry(session).or_default().push(text);
    }
    for (session, mut texts) in told {
        let mut kept = ask(&nodes[0], &session, "last").await;
        texts.sort();
        kept.sort();
        assert_eq!(kept, texts, "each once in {session}");
    }
    assert!(load.asked_again.load(Ordering::SeqCst) > 0, "somebody was told to ask again");
    for mut seen in followers.join_all().await {
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert!(count > 10 && seen.len() == count, "each result once: {seen:?}");
    }
}
