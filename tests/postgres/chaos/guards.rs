//! The proof can fail: for each guard a schedule in which it alone stands between two owners.
//! With the guard nothing is wrong, and without it (`src/store/postgres/guards.rs`) the recorder
//! says what is.
//!
//! From the database's point of view a node dies when a test says so: leases are hours, and the
//! heartbeat that the database has is made older.

use std::{sync::Arc, time::Duration};

use session_pool::proto::DisconnectPolicy::Continue;
use tokio::time::{sleep, timeout};

use crate::{
    callers::{Asking, Outcome},
    cluster::{Cluster, Plan},
    link::Weather,
    node::Node,
    place,
    recorder::{Recorder, Wrong},
    shared,
    support::eventually,
};

/// Leases that nobody waits for.
const LONG: [(&str, &str); 2] = [("CLUSTER__LEASE", "1h"), ("CLUSTER__HEARTBEAT", "1m")];

/// Leases that are over soon.
const SHORT: [(&str, &str); 3] = [
    ("CLUSTER__LEASE", "1500ms"),
    ("CLUSTER__HEARTBEAT", "300ms"),
    ("STORE__STATEMENT_TIMEOUT", "1s"),
];

/// Two nodes with these settings, that do without a guard or not.
async fn two(without: Option<&str>, settings: &[(&str, &str)], clock: Option<&str>) -> Cluster {
    let without = without.map(|guard| ("TEST_WITHOUT", guard));
    let settings: Vec<_> = settings.iter().copied().chain(without).collect();
    let plan = Plan { nodes: &["one", "two"], settings: &settings, clock, ..Plan::default() };
    Cluster::start(shared().expect("installed"), plan).await
}

/// Plays a schedule with a guard and without it.
async fn guards(guard: &str, wrong: Wrong, schedule: impl AsyncFn(Option<&str>) -> Arc<Recorder>) {
    if shared().is_none() {
        return;
    }
    let seen = |recorder: &Recorder| recorder.all_wrong().iter().any(|(it, _)| *it == wrong);
    let with = schedule(None).await;
    assert!(with.all_wrong().is_empty(), "with {guard}: {:#?}", with.all_wrong());
    let without = schedule(Some(guard)).await;
    assert!(seen(&without), "nobody sees that {guard} is missing: {:#?}", without.all_wrong());
}

/// Asks until the result is told.
async fn until_told(by: &Asking, node: &Node, session: &str, turn: &str) {
    eventually("the turn is told", async || {
        match by.attempt(node, session, (turn, 1), (0, Continue)).await {
            Outcome::Told(result) => {
                by.told(session, turn, node, &result);
                Some(())
            }
            Outcome::Again(_) => None,
            Outcome::Refused(status) => panic!("{status:?}"),
        }
    })
    .await;
}

/// Tries once; a result is noted.
async fn once(by: &Asking, node: &Node, turn: &str, number: usize, sleeps: u64) -> Outcome {
    let outcome = by.attempt(node, "s", (turn, number), (sleeps, Continue)).await;
    if let Outcome::Told(result) = &outcome {
        by.told("s", turn, node, result);
    }
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_a_row_keeps_claims_out_until_an_append_is_committed() {
    let _place = place().await;
    guards("row_lock", Wrong::Fenced, async |without| {
        let cluster = two(without, &LONG, None).await;
        let (by, one, two) = (Asking::of(&cluster), cluster.node("one"), cluster.node("two"));
        until_told(&by, one, "s", "token-first").await;
        // Its claim has been looked at, and nothing is written yet.
        one.to_database.trap(b"INSERT INTO sessions");
        let append = once(&by, one, "token-second", 1, 0);
        let claim = async {
            assert!(one.to_database.trapped(Duration::from_secs(10)).await, "it commits");
            cluster.age("one").await;
            // Its process lives on, as far as the database is concerned.
            cluster.recorder.excuse(one.state());
            let claimed = until_told(&by, two, "s", "token-third");
            tokio::pin!(claimed);
            // With the lock nobody gets in however long it is.
            let early = timeout(Duration::from_secs(1), &mut claimed).await.is_ok();
            one.to_database.release();
            if !early {
                claimed.await;
            }
        };
        tokio::join!(append, claim);
        cluster.end().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incarnations_are_compared_since_an_epoch_can_be_given_twice() {
    let _place = place().await;
    guards("incarnation", Wrong::Fenced, async |without| {
        let cluster = two(without, &LONG, None).await;
        let (by, one) = (Asking::of(&cluster), cluster.node("one"));
        until_told(&by, one, "s", "token-first").await;
        let server = shared().expect("installed");
        let twin = Arc::new(one.twin(&server.address(), &cluster.database).await);
        let old = once(&by, one, "token-second", 1, 2500);
        let new = async {
            eventually("the turn runs", async || cluster.has_run("token-second").then_some(()))
                .await;
            // A second life under the name of the first, and a database of before the last claim.
            cluster.recorder.excuse(one.state());
            twin.start().await;
            cluster.run("UPDATE sessions SET owner = '', epoch = epoch - 1").await;
            until_told(&by, &twin, "s", "token-third").await;
        };
        tokio::join!(old, new);
        twin.kill().await;
        cluster.end().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_die_by_the_clock_of_the_database() {
    let _place = place().await;
    guards("database_clock", Wrong::TwoProcesses, async |without| {
        // The wall clock of the first is far ahead of every lease.
        let lease = [("CLUSTER__LEASE", "10m"), ("CLUSTER__HEARTBEAT", "1m")];
        let cluster = two(without, &lease, Some("+1h")).await;
        let (by, one, two) = (Asking::of(&cluster), cluster.node("one"), cluster.node("two"));
        until_told(&by, two, "s", "token-first").await;
        until_told(&by, one, "s", "token-second").await;
        until_sampled(&cluster).await;
        cluster.end().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_renew_its_lease_ends_its_processes_before_others_begin() {
    let _place = place().await;
    guards("self_fencing", Wrong::TwoProcesses, async |without| {
        let cluster = two(without, &SHORT, None).await;
        let (by, one, two) = (Asking::of(&cluster), cluster.node("one"), cluster.node("two"));
        until_told(&by, one, "s", "token-first").await;
        one.to_database.set(Weather::SILENT);
        until_told(&by, two, "s", "token-second").await;
        until_sampled(&cluster).await;
        one.to_database.set(Weather::FAIR);
        cluster.end().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_has_is_ended_before_others_begin_also_when_the_node_is_stopped() {
    let _place = place().await;
    guards("lease_watch", Wrong::TwoProcesses, async |without| {
        let cluster = two(without, &SHORT, None).await;
        let (by, one, two) = (Asking::of(&cluster), cluster.node("one"), cluster.node("two"));
        until_told(&by, one, "s", "token-first").await;
        one.suspend(true, false).await;
        until_told(&by, two, "s", "token-second").await;
        until_sampled(&cluster).await;
        one.suspend(false, false).await;
        cluster.end().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_was_told_is_not_run_again_elsewhere() {
    let _place = place().await;
    guards("stored_turn", Wrong::RunAgain, async |without| {
        let cluster = two(without, &LONG, None).await;
        let (by, one, two) = (Asking::of(&cluster), cluster.node("one"), cluster.node("two"));
        until_told(&by, one, "s", "token-first").await;
        one.kill().await;
        cluster.age("one").await;
        let again = once(&by, two, "token-first", 2, 0).await;
        // What is run again is not kept, which is another guard.
        let is_told = matches!(again, Outcome::Told(_));
        assert_eq!(is_told, without.is_none(), "{again:?}");
        cluster.end().await
    })
    .await;
}

/// Waits until who looks at processes has looked a few times more.
async fn until_sampled(cluster: &Cluster) {
    let looks = cluster.looks();
    while cluster.looks() < looks + 5 {
        sleep(Duration::from_millis(5)).await;
    }
}
