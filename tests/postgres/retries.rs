//! A turn that its caller named, asked for again at other nodes: what was told is told again from the
//! database, and nothing runs twice by itself.

use std::time::Duration;

use rustix::process::Signal;
use session_pool::proto::{CloseSessionRequest, QueryRequest};
use tokio::time::sleep;
use tonic::Code;

use super::{
    Server, ask, asks,
    nodes::{reachable, turn_at},
    support::{
        cutting_proxy::Proxy,
        eventually, failure,
        service::{query, script},
        turn::Turn,
    },
};

fn named(turn: &str, session: &str, text: &str) -> QueryRequest {
    QueryRequest { turn_id: turn.into(), ..asks(session, text) }
}

/// Asks a node until the answer is another one than to ask again.
async fn settled(node: &super::Daemon, request: &QueryRequest) -> Turn {
    eventually("it is settled", async || {
        let turn = turn_at(node, request.clone()).await;
        let waits = matches!(&turn.end, Some(Err(status)) if status.code() == Code::Unavailable);
        (!waits).then_some(turn)
    })
    .await
}

#[track_caller]
fn result(turn: &Turn) -> String {
    assert!(matches!(turn.end, Some(Ok(()))), "{turn:?}");
    turn.result().result.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_whose_owner_is_killed_is_told_again_or_runs_once_more_when_it_is_asked_for() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    let proxy = Proxy::to(server.address()).await;
    // A heartbeat would take the cut that is meant for the turn.
    let rare = [("CLUSTER__HEARTBEAT", "1m"), ("CLUSTER__LEASE", "5m")];
    let one = reachable("one", &Server::url_by(proxy.address(), &database), &rare).await;
    let two = reachable("two", &url, &[]).await;
    let three = reachable("three", &url, &[]).await;

    // Told, and then killed.
    let at_one = named("told", "k", "told");
    let told_at_one = turn_at(&one, at_one.clone()).await;
    let answer = result(&told_at_one);

    // In the middle of a turn; and one that waits behind it was passed on.
    let tool = script(&["tool a Bash {}", "tool-result a done", "say begun", "hang"]);
    let mut running = one.open(QueryRequest { turn_id: "mid".into(), ..query("m", &tool) }).await;
    running.until_text("begun").await;
    let mut forwarded = two.open(query("m", &script(&["say queued"]))).await;
    // Kept, and killed before it was told: no answer to COMMIT comes, and nobody is reached again.
    turn_at(&one, asks("c", "before")).await;
    let lines = script(&["say begun", "sleep 1000", "say kept"]);
    let kept = QueryRequest { turn_id: "kept".into(), ..query("c", &lines) };
    let mut untold = one.open(kept.clone()).await;
    untold.until_text("begun").await;
    proxy.hang_after_commit();
    eventually("it is kept", async || (proxy.cut() == 1).then_some(())).await;

    drop(one.killed().await);
    for turn in [&mut untold, &mut running, &mut forwarded] {
        turn.finish().await;
        assert!(matches!(turn.end, Some(Err(_))), "{turn:?}");
    }
    let Some(Err(status)) = &forwarded.end else { panic!("{forwarded:?}") };
    let told = failure(status, Code::Unavailable, "SESSION_MOVED");
    assert!(!told.contains_key("tool_use_seen"), "who passes a call on does not know: {told:?}");

    // As the next start of the killed node does: it is dead at once.
    let mut connection = server.connect(&database).await;
    let dies = sqlx::query("DELETE FROM nodes WHERE name = 'one'").execute(&mut connection);
    dies.await.expect("gone");

    // Both of the others are asked at once.
    for (request, said) in [(&at_one, vec!["told"]), (&kept, vec!["before", "kept"])] {
        let (a, b) = tokio::join!(settled(&two, request), settled(&three, request));
        assert_eq!(result(&a), result(&b));
        if request.turn_id == "told" {
            assert_eq!(result(&a), answer);
        }
        assert_eq!(ask(&two, &request.session_id, "after").await, said, "it ran once");
    }
    let again = QueryRequest { turn_id: "mid".into(), ..asks("m", "again") };
    let (a, b) = tokio::join!(settled(&two, &again), settled(&three, &again));
    assert_eq!((result(&a), a.started()), (result(&b), b.started()), "one runs, the other joins");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_holds_at_every_node_until_it_is_forgotten_or_past_its_time() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let more = [("POOL__HIBERNATE_AFTER", "100ms"), ("STORE__TURN_RETENTION", "4s")];
    let mut one = reachable("one", &url, &more).await;
    let two = reachable("two", &url, &more).await;
    let request = named("t", "s", "first");
    let first = turn_at(&one, request.clone()).await;
    let started = first.started().clone();
    let is_told_again = async |node: &super::Daemon, request: &QueryRequest| {
        let turn = turn_at(node, request.clone()).await;
        (result(&turn), turn.started().client_id.clone())
            == (result(&first), started.client_id.clone())
    };
    assert!(is_told_again(&two, &request).await);
    // Whatever else is asked under this name, by whatever prompt.
    assert!(is_told_again(&two, &named("t", "s", "another prompt")).await);
    eventually("it hibernates", async || one.processes().is_empty().then_some(())).await;
    assert!(is_told_again(&two, &request).await && is_told_again(&one, &request).await);
    let closes = |forget| CloseSessionRequest { session_id: "s".into(), forget };
    two.client.clone().close_session(closes(false)).await.expect("closed");
    assert!(is_told_again(&two, &request).await && is_told_again(&one, &request).await);
    // Nor does it end with its node.
    one.signal(Signal::TERM);
    assert!(one.ended().await.success());
    assert!(is_told_again(&two, &request).await);
    // Past its time it runs again: who still retries then has waited for too long.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(super::recited(&turn_at(&two, request.clone()).await), ["first"]);
    two.client.clone().close_session(closes(true)).await.expect("forgotten");
    assert_eq!(
        super::recited(&turn_at(&two, request).await),
        [""; 0],
        "a conversation that begins"
    );
}

#[tokio::test]
async fn a_turn_that_is_stopped_because_its_session_moved_says_whether_a_tool_ran() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    let one = reachable("one", &url, &[]).await;
    let turns = [("a", ["say begun", "hang"], "false"), ("b", ["tool a Bash {}", "hang"], "true")];
    let mut running = Vec::new();
    for (session, lines, seen) in turns {
        let mut turn = one.open(query(session, &script(&lines))).await;
        turn.until(|kind| matches!(kind, session_pool::proto::turn_event::Kind::Assistant(_)))
            .await;
        running.push((turn, seen));
    }
    // Another service takes its name.
    let _other = reachable("one", &url, &[]).await;
    for (mut turn, seen) in running {
        turn.finish().await;
        let Some(Err(status)) = &turn.end else { panic!("{turn:?}") };
        let told = failure(status, Code::Unavailable, "SESSION_MOVED");
        assert_eq!(told["tool_use_seen"], seen);
    }
}
