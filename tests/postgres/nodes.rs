//! Two nodes on one database: each answers for every session, one that dies is followed by the
//! other, and one that was stopped for too long serves nothing of what it had.

use rustix::process::Signal;
use session_pool::{
    internals::os::{lease_watch, procfs::Look},
    proto::{GetSessionRequest, QueryRequest},
};
use tempfile::TempDir;

use super::{Daemon, Server, ask, asks, node_in, recited, support::eventually};
use crate::support::{free_address, metadata, processes, reason, turn::Turn};

/// A node that others reach.
pub async fn reachable(name: &str, url: &str, more: &[(&str, &str)]) -> Daemon {
    reachable_in(TempDir::new().expect("a folder"), name, url, more).await
}

/// The same with this state folder.
pub async fn reachable_in(state: TempDir, name: &str, url: &str, more: &[(&str, &str)]) -> Daemon {
    let address = free_address().to_string();
    let settings = [
        ("SERVER__LISTEN", address.as_str()),
        ("CLUSTER__ADVERTISE", &address),
        ("CLUSTER__LEASE", "3s"),
        ("CLUSTER__HEARTBEAT", "200ms"),
        ("STORE__STATEMENT_TIMEOUT", "1s"),
    ];
    node_in(state, name, url, &[&settings[..], more].concat()).await
}

/// Asks a node until it answers; returns what was said before.
pub async fn recited_at_last(node: &Daemon, session: &str, text: &str) -> Vec<String> {
    eventually("it takes the session over", async || {
        let turn = turn_at(node, asks(session, text)).await;
        matches!(turn.end, Some(Ok(()))).then(|| recited(&turn))
    })
    .await
}

/// Runs a turn to its end; a refusal is one without events.
pub async fn turn_at(node: &Daemon, request: QueryRequest) -> Turn {
    match node.client.clone().query(request).await {
        Ok(stream) => {
            let mut turn = Turn::new(stream.into_inner());
            turn.finish().await;
            turn
        }
        Err(status) => Turn::refused(status),
    }
}

#[tokio::test]
async fn any_node_answers_for_any_session() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let (one, two) = (reachable("one", &url, &[]).await, reachable("two", &url, &[]).await);
    assert_eq!(ask(&one, "s", "one").await, [""; 0]);
    assert_eq!(ask(&two, "s", "two").await, ["one"], "it is served where it lives");
    assert_eq!((one.processes().len(), two.processes().len()), (1, 0));
    let id = GetSessionRequest { session_id: "s".into() };
    let shown = two.client.clone().get_session(id).await.expect("known").into_inner();
    assert_eq!(shown.session.expect("a session").message_count, 2);
}

#[tokio::test]
async fn a_session_of_a_node_that_is_killed_goes_on_at_another() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let (one, two) = (reachable("one", &url, &[]).await, reachable("two", &url, &[]).await);
    assert_eq!(ask(&one, "s", "one").await, [""; 0]);
    let mut forwarded = two.open(super::query("s", &super::script(&["say begun", "hang"]))).await;
    forwarded.until_text("begun").await;
    drop(one.killed().await);
    forwarded.finish().await;
    let Some(Err(status)) = &forwarded.end else { panic!("its node is gone: {forwarded:?}") };
    assert_eq!(reason(status), "SESSION_MOVED");
    assert_eq!(metadata(status, "owner").as_deref(), Some("one"));
    assert_eq!(recited_at_last(&two, "s", "two").await, ["one"]);
}

#[tokio::test]
async fn a_node_that_was_stopped_for_longer_than_its_lease_serves_nothing_of_what_it_had() {
    for sandbox in ["process-tree", "bubblewrap"] {
        stopped_for_longer_than_its_lease(&[("CLI__SANDBOX", sandbox)]).await;
    }
}

async fn stopped_for_longer_than_its_lease(settings: &[(&str, &str)]) {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let (one, two) = (reachable("one", &url, settings).await, reachable("two", &url, &[]).await);
    assert_eq!(ask(&one, "s", "one").await, [""; 0]);
    let mut turn = one.open(super::query("s", &super::script(&["say begun", "hang"]))).await;
    turn.until_text("begun").await;
    let service = one.id();
    processes::signal(service, Signal::STOP);
    assert_eq!(recited_at_last(&two, "s", "two").await, ["one"]);
    assert_eq!(one.processes(), [0; 0], "two processes never serve one conversation");
    processes::signal(service, Signal::CONT);
    turn.finish().await;
    let Some(Err(status)) = &turn.end else { panic!("the session has moved: {turn:?}") };
    assert_eq!(reason(status), "SESSION_MOVED");
    // It is a node like others again, which passes on what lives elsewhere.
    let again = || one.logged("node_registered_again").pop();
    eventually("it registers again", async || again()).await;
    assert_eq!(recited_at_last(&one, "s", "three").await, ["one", "two"]);
    assert_eq!((one.processes().len(), two.processes().len()), (0, 1));
}

#[tokio::test]
async fn a_node_whose_watch_of_the_lease_is_gone_has_another_one() {
    let Some(server) = Server::shared() else { return };
    let one = reachable("one", &server.url().await, &[]).await;
    let watch = || {
        let children = Look::take().expect("/proc").children(one.id());
        let is_watch = |pid: &u32| {
            processes::words(*pid).get(1).is_some_and(|word| word == lease_watch::SUBCOMMAND)
        };
        children.into_iter().find(is_watch).filter(|pid| processes::lives(*pid))
    };
    let first = watch().expect("it runs");
    processes::signal(first, Signal::KILL);
    let replaced = || one.logged("lease_watch_replaced").pop();
    eventually("it is replaced", async || replaced()).await;
    assert!(watch().is_some_and(|second| second != first));
    assert_eq!(ask(&one, "s", "one").await, [""; 0], "the node goes on");
}
