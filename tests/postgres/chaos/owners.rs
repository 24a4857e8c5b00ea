//! What becomes of an owner that is stopped for twice its lease, and of turns when the database
//! is gone: the cases of which everybody wants to know how they end.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::{DisconnectPolicy::Continue, QueryRequest};
use tonic::Code;

use crate::{
    callers::{Asking, Callers, Manner},
    claims,
    cluster::{Cluster, Plan, SERVER, SHORT},
    link::COMMIT,
    nemesis::{Nemesis, Stage},
    node::Node,
    place,
    recorder::Recorder,
    rounds::in_calm,
    shared,
    support::{failure, postgres::Server, retry_after, turn::Turn},
};

/// The lease of [`SHORT`].
const LEASE: Duration = Duration::from_secs(2);

/// Two nodes, of which the first has the session `s`, where something was said.
async fn two() -> Option<(Cluster, Asking)> {
    let plan = Plan { nodes: &["one", "two"], settings: &SHORT, ..Plan::default() };
    let cluster = Cluster::start(shared()?, plan).await;
    let by = Asking::of(&cluster);
    by.ask("s", || 0, 0, Continue).await;
    Some((cluster, by))
}

/// A turn that does not end by itself, and has begun.
async fn begun(at: &Node) -> Turn {
    let request = QueryRequest {
        session_id: "s".into(),
        prompt: "#!fake\nsay begun\nhang".into(),
        ..QueryRequest::default()
    };
    let stream = at.client.clone().query(request).await.expect("taken").into_inner();
    let mut turn = Turn::new(stream);
    turn.until_text("begun").await;
    turn
}

/// The turn has ended because its session is elsewhere, which says when to ask again.
#[track_caller]
fn assert_moved(turn: &Turn, owner: Option<&str>) {
    let status = turn.error();
    let metadata = failure(status, Code::Unavailable, "SESSION_MOVED");
    assert!(retry_after(status).is_some(), "{status:?}");
    if let Some(owner) = owner {
        assert_eq!(metadata.get("owner").map(String::as_str), Some(owner), "{status:?}");
    }
}

fn assert_right(recorder: &Recorder) {
    let wrong = recorder.all_wrong();
    assert!(wrong.is_empty(), "{}\n{wrong:#?}", recorder.story().join("\n"));
}

/// Stops the first node's service, has the second one take the session over, and lets the first one go
/// on after twice its lease.
async fn suspended(cluster: &Cluster, by: &Asking, meanwhile: impl Future<Output = ()>) {
    let one = cluster.node("one");
    let before = one.processes().await;
    one.suspend(true, false).await;
    let taken_over = async {
        by.ask("s", || 1, 0, Continue).await;
        meanwhile.await;
    };
    tokio::join!(taken_over, tokio::time::sleep(2 * LEASE));
    one.suspend(false, false).await;
    cluster.gone_in_time(one, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_stopped_in_mid_turn_has_lost_it_when_it_wakes() {
    let _place = place().await;
    let Some((cluster, by)) = two().await else { return };
    let mut turn = begun(cluster.node("one")).await;
    suspended(&cluster, &by, async {}).await;
    turn.finish().await;
    assert_moved(&turn, None);
    // It is a node like others again.
    by.ask("s", || 0, 0, Continue).await;
    assert_right(&*cluster.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_accepted_of_an_owner_that_is_stopped_in_mid_append() {
    let _place = place().await;
    let Some((cluster, by)) = two().await else { return };
    let one = Arc::clone(cluster.node("one"));
    one.to_database.trap(b"INSERT INTO entries");
    let appended = async {
        // It does not reach its node again before that wakes.
        by.ask("s", || 0, 0, Continue).await;
    };
    let stopped = async {
        assert!(one.to_database.trapped(Duration::from_secs(10)).await, "it appends");
        // What it has sent last arrives when the session is another's.
        suspended(&cluster, &by, async { one.to_database.release() }).await;
    };
    tokio::join!(appended, stopped);
    assert_right(&*cluster.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_on_its_way_when_its_owner_was_stopped_counts_once() {
    let _place = place().await;
    let Some((cluster, by)) = two().await else { return };
    let one = Arc::clone(cluster.node("one"));
    one.to_database.trap(b"INSERT INTO entries");
    let appended = by.ask("s", || 0, 0, Continue);
    let stopped = async {
        assert!(one.to_database.trapped(Duration::from_secs(10)).await, "it appends");
        one.to_database.trap(COMMIT);
        one.to_database.release_into_trap();
        assert!(one.to_database.trapped(Duration::from_secs(10)).await, "it commits");
        let before = one.processes().await;
        one.suspend(true, false).await;
        one.to_database.release();
        // The database has it; its node does not know.
        by.ask("s", || 1, 0, Continue).await;
        tokio::time::sleep(2 * LEASE).await;
        one.suspend(false, false).await;
        cluster.gone_in_time(&one, &before).await;
    };
    tokio::join!(appended, stopped);
    assert_right(&*cluster.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_passed_on_to_an_owner_that_is_stopped_says_where_it_was() {
    let _place = place().await;
    let Some((cluster, by)) = two().await else { return };
    let mut turn = begun(cluster.node("two")).await;
    suspended(&cluster, &by, async {
        // The node in between has noticed long before its owner wakes.
        turn.finish().await;
        assert_moved(&turn, Some("one"));
    })
    .await;
    assert_right(&*cluster.end().await);
}

/// Callers ask three nodes with the default leases, while this happens to the database.
async fn under_load(nemesis: Nemesis, times: usize) {
    let Some(server) = Server::start_with(&SERVER) else { return };
    let server = Arc::new(server);
    let cluster = Cluster::start(&server, Plan::default()).await;
    let sessions = ["s1", "s2", "s3", "s4"].map(str::to_owned);
    let stage = Stage {
        server: Arc::clone(&server),
        standby: None,
        cluster: &cluster,
        sessions: &sessions,
        lease: Duration::from_secs(4),
        pause: Duration::from_secs(10),
        claims: 0,
    };
    let mut rng = Rng::new();
    in_calm(&cluster, &sessions).await;
    let manner = Manner { longest_turn: 100, ..Manner::default() };
    let callers = Callers::start(&cluster, &sessions, 6, manner, &mut rng);
    let refused = || cluster.recorder.counts().get("STORE_UNAVAILABLE").copied();
    for number in 1.. {
        stage.suffer(nemesis, &cluster.nodes[0], rng.fork()).await;
        // It may be back before anybody has missed it.
        if number >= times && refused().is_some() {
            break;
        }
        assert!(number < 20, "the database was never missed: {:?}", cluster.recorder.counts());
    }
    callers.stop().await;
    in_calm(&cluster, &sessions).await;
    let recorder = cluster.end().await;
    assert_right(&recorder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_turn_that_was_told_is_lost_when_the_database_of_several_nodes_is_killed() {
    let _place = place().await;
    under_load(Nemesis::KillDatabase, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_turn_that_was_told_is_lost_when_the_database_stands_still_for_ten_seconds() {
    let _place = place().await;
    under_load(Nemesis::PauseDatabase, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_claims_at_once_each_session_gets_one() {
    let _place = place().await;
    let Some(server) = shared() else { return };
    let database = server.database().await;
    // What there is to claim needs tables, which a node makes.
    claims::at_once(server, &database, crate::many()).await;
}
