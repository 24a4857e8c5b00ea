//! Several nodes seen as one: their figures and sessions asked for at any of them, their turns
//! stopped at any of them, and what a tenant may use of all of them together.

use std::time::Duration;

use rustix::process::Signal;
use session_pool::proto::{
    CloseSessionRequest, GetStatsRequest, GetStatsResponse, InterruptAllRequest,
    ListSessionsRequest, ListSessionsResponse, Session, SessionStatus, StatsScope,
};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Status};

use super::{Daemon, Server, ask, nodes::reachable, query, script, support::eventually};
use crate::support::{failure, processes, reason, turn::Turn};

/// Long enough that a node that was killed or stopped counts as living for a while.
const LEASE: (&str, &str) = ("CLUSTER__LEASE", "6s");

async fn stats(node: &Daemon) -> GetStatsResponse {
    let request = GetStatsRequest { all_tenants: true, scope: StatsScope::Cluster.into() };
    node.client.clone().get_stats(request).await.expect("answered").into_inner()
}

async fn list(node: &Daemon) -> ListSessionsResponse {
    let request = ListSessionsRequest::default();
    node.client.clone().list_sessions(request).await.expect("answered").into_inner()
}

async fn hang(node: &Daemon, session: &str) -> Turn {
    let mut turn = node.open(query(session, &script(&["say begun", "hang"]))).await;
    turn.until_text("begun").await;
    turn
}

/// A turn that is taken, or the refusal.
async fn open(node: &Daemon, session: &str) -> Result<Turn, Status> {
    let turn = node.client.clone().query(query(session, &script(&["say begun", "hang"]))).await;
    let mut turn = Turn::new(turn?.into_inner());
    turn.until_text("begun").await;
    Ok(turn)
}

fn reached(stats: &GetStatsResponse) -> Vec<(&str, bool)> {
    stats.nodes.iter().map(|row| (row.name.as_str(), row.reached)).collect()
}

fn shown(session: &Session) -> (&str, SessionStatus, &str) {
    (&session.session_id, session.status(), &session.node)
}

#[tokio::test]
async fn three_nodes_are_seen_and_stopped_as_one_though_one_is_killed_and_one_is_stopped() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let (one, two, three) = tokio::join!(
        reachable("one", &url, &[LEASE]),
        reachable("two", &url, &[LEASE]),
        reachable("three", &url, &[LEASE]),
    );
    for (number, node) in [&one, &two, &three].into_iter().enumerate() {
        ask(node, &format!("idle{number}"), "hello").await;
    }
    let mut turns = [hang(&one, "s0").await, hang(&two, "s1").await, hang(&three, "s2").await];
    let all = stats(&one).await;
    assert_eq!(reached(&all), [("one", true), ("three", true), ("two", true)]);
    // The new ones are in no database yet, the others are there once.
    assert_eq!((all.total_sessions, all.active_sessions, all.hibernated_sessions), (6, 6, 0));
    assert_eq!((all.streaming_turns, all.processes), (3, 6));
    let counters = all.counters.expect("counted");
    assert_eq!((counters.turns, counters.turns_completed, all.total_messages), (6, 3, 6));
    let listed = list(&two).await;
    use SessionStatus::{Active, Hibernated, Unknown};
    assert_eq!(
        listed.sessions.iter().map(shown).collect::<Vec<_>>(),
        [
            ("idle0", Active, "one"),
            ("idle1", Active, "two"),
            ("idle2", Active, "three"),
            ("s0", Active, "one"),
            ("s1", Active, "two"),
            ("s2", Active, "three"),
        ]
    );
    let running: Vec<_> =
        listed.sessions.iter().map(|session| !session.running_turn_id.is_empty()).collect();
    assert_eq!(running, [false, false, false, true, true, true]);

    processes::signal(two.id(), Signal::STOP);
    let killed = three.killed().await;
    let began = Instant::now();
    let all = stats(&one).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(reached(&all), [("one", true), ("three", false), ("two", false)]);
    assert!(all.nodes.iter().all(|row| row.reached == row.reason.is_empty()), "{all:?}");
    // What they had committed is known, and counts once.
    assert_eq!((all.total_sessions, all.active_sessions, all.hibernated_sessions), (4, 2, 2));
    assert_eq!(all.counters.expect("counted").sessions_created, 4);
    let listed = list(&one).await;
    assert_eq!(
        listed.sessions.iter().map(shown).collect::<Vec<_>>(),
        [
            ("idle0", Active, "one"),
            ("idle1", Unknown, "two"),
            ("idle2", Unknown, "three"),
            ("s0", Active, "one"),
        ]
    );
    assert_eq!(listed.unreached_nodes.len(), 2);

    processes::signal(two.id(), Signal::CONT);
    let all = one.client.clone().interrupt_all(InterruptAllRequest::default()).await;
    let all = all.expect("answered").into_inner();
    let stopped: Vec<_> = all.results.iter().filter(|it| it.had_active_turn).collect();
    let stopped: Vec<_> = stopped.iter().map(|it| (&*it.session_id, &*it.node)).collect();
    assert_eq!(stopped, [("s0", "one"), ("s1", "two")], "{all:?}");
    let unreached: Vec<_> = all.unreached_nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(unreached, ["three"]);
    for turn in &mut turns {
        turn.finish().await;
    }
    // Nobody waits for one that is dead, and its sessions are everybody's.
    let dead = async || {
        let all = stats(&one).await;
        (reached(&all) == [("one", true), ("two", true)]).then_some(())
    };
    eventually("it is dead", dead).await;
    let listed = list(&one).await;
    let theirs: Vec<_> = listed.sessions.iter().filter(|it| it.session_id == "idle2").collect();
    assert_eq!(theirs.into_iter().map(shown).collect::<Vec<_>>(), [("idle2", Hibernated, "")]);
    assert!(listed.unreached_nodes.is_empty());
    drop(killed);
}

#[tokio::test]
async fn no_more_sessions_of_a_tenant_are_made_than_it_may_have_at_all_nodes_together() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let limit = [("POLICY__TENANT_MAX_SESSIONS", "4")];
    let (one, two) = tokio::join!(reachable("one", &url, &limit), reachable("two", &url, &limit));
    let mut asked = JoinSet::new();
    for number in 0..16 {
        let client = [&one, &two][number % 2].client.clone();
        asked.spawn(async move {
            let (session, prompt) = (format!("s{number}"), script(&["say begun", "hang"]));
            let turn = client.clone().query(query(&session, &prompt)).await;
            turn.map(|turn| (session, number % 2, Turn::new(turn.into_inner())))
        });
    }
    let (mut turns, mut refused) = (Vec::new(), 0);
    for outcome in asked.join_all().await {
        match outcome {
            Ok(taken) => turns.push(taken),
            Err(status) => {
                let told = failure(&status, Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED");
                assert_eq!(told["field"], "policy.tenant_max_sessions");
                refused += 1;
            }
        }
    }
    assert_eq!((turns.len(), refused), (4, 12), "as many as there is room for, and no fewer");
    // One ends at one node, and another begins at the other; it makes no odds whether it was kept.
    let (session, at, mut turn) = turns.pop().expect("four");
    let (its, other) = if at == 0 { (&one, &two) } else { (&two, &one) };
    let close = CloseSessionRequest { session_id: session, forget: false };
    its.client.clone().close_session(close).await.expect("closed");
    turn.finish().await;
    let taken = async || open(other, "next").await.ok();
    let next = eventually("there is room at the other node", taken).await;
    let status = open(its, "more").await.expect_err("no room");
    assert_eq!(reason(&status), "TENANT_QUOTA_EXCEEDED");
    drop(next);
    // A session without a name takes a place, and gives it back when its caller is told its end.
    let close = CloseSessionRequest { session_id: "next".to_owned(), forget: true };
    other.client.clone().close_session(close).await.expect("closed");
    for _ in 0..3 {
        let unnamed = async || {
            let turn = other.client.clone().query(query("", &script(&["say hello"]))).await;
            Some(Turn::new(turn.ok()?.into_inner()))
        };
        let mut turn = eventually("there is room", unnamed).await;
        turn.finish().await;
        assert!(matches!(turn.end, Some(Ok(()))), "{turn:?}");
    }
    // What a node held that was killed is free when it is dead.
    let held = turns.iter().filter(|(_, at, _)| *at == 0).count();
    drop(one.killed().await);
    let mut more = Vec::new();
    for number in 0..=held {
        let session = format!("after{number}");
        let taken = async || open(&two, &session).await.ok();
        more.push(eventually("there is room again", taken).await);
    }
    let status = open(&two, "too-many").await.expect_err("no room");
    assert_eq!(reason(&status), "TENANT_QUOTA_EXCEEDED");
}

/// Two and a half turns of the fake CLI.
const BUDGET: (&str, &str) = ("POLICY__TENANT_MAX_COST_USD_PER_DAY", "0.000615");

#[tokio::test]
async fn what_a_tenant_spends_in_a_day_counts_once_wherever_it_is_spent() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    // The second has no room for new ones: who asks it for one spends nothing.
    let full = [BUDGET, LEASE, ("POOL__MAX_SESSIONS", "1")];
    let (one, two) =
        tokio::join!(reachable("one", &url, &[BUDGET, LEASE]), reachable("two", &url, &full));
    ask(&one, "s", "one").await;
    let spent = stats(&two).await.total_cost_usd;
    assert!(spent > 0.0);
    // Its node is gone, another has taken the session over, and it is started again.
    drop(one.killed().await);
    let taken = async || run(&two, "s").await.is_none().then_some(());
    eventually("it takes the session over", taken).await;
    let one = reachable("one", &url, &[BUDGET, LEASE]).await;
    for node in [&one, &two] {
        let told = stats(node).await.total_cost_usd;
        assert!((told - 2.0 * spent).abs() < spent / 10.0, "{told}, not twice {spent}");
    }
    // Half a turn is left: one more begins, and after it none, at any node.
    ask(&one, "t", "three").await;
    assert_eq!(run(&one, "u").await.as_deref(), Some("TENANT_QUOTA_EXCEEDED"));
    let told = async || {
        // Not the one that the first was asked for, which would refuse it here, too.
        let refused = run(&two, "w").await.expect("it has no room");
        (refused == "TENANT_QUOTA_EXCEEDED").then_some(())
    };
    eventually("it learns what is spent elsewhere", told).await;
    assert_eq!(run(&two, "s").await.as_deref(), Some("TENANT_QUOTA_EXCEEDED"));
    drop(one.killed().await);
    let one = reachable("one", &url, &[BUDGET, LEASE]).await;
    assert_eq!(run(&one, "v").await.as_deref(), Some("TENANT_QUOTA_EXCEEDED"), "nor after a start");
    let told = stats(&one).await.total_cost_usd;
    assert!((told - 3.0 * spent).abs() < spent / 10.0, "{told}, not three times {spent}");
}

/// Runs a turn to its end. Returns why it was refused or failed, if it was.
async fn run(node: &Daemon, session: &str) -> Option<String> {
    let mut turn = match node.client.clone().query(super::asks(session, "more")).await {
        Ok(turn) => Turn::new(turn.into_inner()),
        Err(status) => Turn::refused(status),
    };
    turn.finish().await;
    turn.end?.err().map(|status| reason(&status))
}
