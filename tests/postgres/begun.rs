//! Several nodes that are asked for one new session at once: one begins it, and the others pass the
//! call on to that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use session_pool::proto::{ListSessionsRequest, QueryRequest};
use tokio::{sync::Barrier, task::JoinSet, time::sleep};
use tonic::Code;

use super::{
    Daemon, Server, ask, asks,
    nodes::{reachable, recited_at_last, turn_at},
    support::{
        eventually, failure, reason,
        service::{model, query_with},
        turn::Turn,
    },
};

/// Sessions that are asked for at each node at once.
const SESSIONS: usize = 10;

/// Runs a turn. A node that could not be reached within a second, as on a busy machine, has the
/// caller ask again; nothing of the turn has run then.
async fn told(node: &Daemon, request: QueryRequest) -> Turn {
    loop {
        let turn = turn_at(node, request.clone()).await;
        match &turn.end {
            Some(Err(status)) if turn.events.is_empty() && reason(status) == "SESSION_MOVED" => {
                sleep(Duration::from_millis(100)).await;
            }
            _ => return turn,
        }
    }
}

async fn begin_at_once(nodes: &[Arc<Daemon>], round: &str) {
    let barrier = Arc::new(Barrier::new(SESSIONS * nodes.len()));
    let mut calls = JoinSet::new();
    for number in 0..SESSIONS {
        for (at, node) in nodes.iter().enumerate() {
            let (node, barrier) = (Arc::clone(node), Arc::clone(&barrier));
            let session = format!("{round}{number}");
            calls.spawn(async move {
                let request = asks(&session, &format!("at {at}"));
                barrier.wait().await;
                let turn = told(&node, request).await;
                assert!(matches!(turn.end, Some(Ok(()))), "{session} at {at}: {turn:?}");
                (session, turn.started().client_id.clone())
            });
        }
    }
    let mut clients = BTreeMap::<String, Vec<String>>::new();
    for (session, client) in calls.join_all().await {
        clients.entry(session).or_default().push(client);
    }
    for (session, mut ids) in clients {
        ids.dedup();
        assert_eq!(ids.len(), 1, "{session} has had one process");
    }
    let processes: usize = nodes.iter().map(|node| node.processes().len()).sum();
    assert!(processes <= SESSIONS, "{processes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_nodes_that_are_asked_at_once_for_a_new_session_one_runs_it_for_all_callers() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(Arc::new(reachable(name, &url, &[("POOL__HIBERNATE_AFTER", "4s")]).await));
    }
    begin_at_once(&nodes, "s").await;
    // Sessions that rest are nobody's, and begin in the same way.
    let rest = async || nodes.iter().all(|node| node.processes().is_empty()).then_some(());
    eventually("all rest", rest).await;
    begin_at_once(&nodes, "s").await;
    for number in 0..SESSIONS {
        let mut said = ask(&nodes[number % 3], &format!("s{number}"), "last").await;
        said.sort();
        assert_eq!(said, ["at 0", "at 0", "at 1", "at 1", "at 2", "at 2"], "each once");
    }
}

#[tokio::test]
async fn a_session_that_does_not_come_up_is_shown_nowhere_and_is_anybody_s() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let one = reachable("one", &url, &[("POOL__CONNECT_TIMEOUT", "5s")]).await;
    let two = reachable("two", &url, &[]).await;
    let mut fails = one.open(query_with("s", "hello", model("fake:exit=3"))).await;
    fails.finish().await;
    let Some(Err(status)) = &fails.end else { panic!("{fails:?}") };
    failure(status, Code::Unavailable, "CONNECT_FAILED");
    for node in [&one, &two] {
        // Its caller may be told a moment before it is taken out of the pool.
        eventually("it is not shown", async || {
            let listed = node.client.clone().list_sessions(ListSessionsRequest::default()).await;
            listed.expect("listed").into_inner().sessions.is_empty().then_some(())
        })
        .await;
    }
    // It goes on where it is asked for, at once or with the next call.
    assert_eq!(recited_at_last(&two, "s", "one").await, [""; 0]);
    assert_eq!((one.processes().len(), two.processes().len()), (0, 1));
}
