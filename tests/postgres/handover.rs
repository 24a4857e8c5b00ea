//! A node that is told to stop: each of its sessions goes on at another one as soon as no turn runs
//! in it, whatever else it still has to end.

use std::time::Duration;

use rustix::process::Signal;
use session_pool::proto::{AttachRequest, GetSessionRequest, QueryRequest};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Daemon, Server, ask, asks,
    nodes::{reachable, recited_at_last, turn_at},
    support::{
        cutting_proxy::Proxy,
        eventually, failure, retry_after,
        service::{query, script},
        turn::Turn,
    },
};

/// Longer than any test: nobody waits for a lease.
const LEASE: (&str, &str) = ("CLUSTER__LEASE", "1h");

/// A turn that shows that it has begun, and goes on for so long.
async fn begun(node: &Daemon, session: &str, lines: &[&str]) -> Turn {
    let mut turn = node.open(query(session, &script(&[&["say begun"], lines].concat()))).await;
    turn.until_text("begun").await;
    turn
}

async fn run(database: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(database).await.expect("done");
}

#[track_caller]
fn is_stopping(turn: &Turn) {
    let Some(Err(status)) = &turn.end else { panic!("{turn:?}") };
    failure(status, Code::Unavailable, "SHUTTING_DOWN");
    assert!(retry_after(status).is_some(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_leaves_each_session_to_others_when_no_turn_runs_in_it() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let mut one = reachable("one", &url, &[LEASE, ("SERVER__DRAIN_TIMEOUT", "9s")]).await;
    let two = reachable("two", &url, &[LEASE]).await;
    assert_eq!(ask(&one, "idle", "one").await, [""; 0]);
    one.run("works", &script(&["tasks 1 10", "say on"])).await.result();
    let named = QueryRequest {
        turn_id: "t".into(),
        ..query("ends", &script(&["say begun", "sleep 3500", "say the end"]))
    };
    let mut ends = one.open(named.clone()).await;
    ends.until_text("begun").await;
    let mut hangs = begun(&one, "hangs", &["hang"]).await;
    let mut waits = one.open(asks("ends", "queued")).await;
    eventually("it waits", async || {
        let id = GetSessionRequest { session_id: "ends".into() };
        let shown = one.client.clone().get_session(id).await.ok()?.into_inner().session?;
        (shown.queued_turns == 1).then_some(())
    })
    .await;
    one.signal(Signal::TERM);

    // What has not begun begins sooner elsewhere.
    waits.finish().await;
    is_stopping(&waits);
    // What rests is another's at once.
    assert_eq!(recited_at_last(&two, "idle", "two").await, ["one"]);
    assert!(ends.end.is_none(), "its turns go on");
    assert_eq!(one.processes().len(), 3, "and so does what works behind turns");
    // The one that stops passes on what is elsewhere, and takes up nothing.
    assert_eq!(ask(&one, "idle", "three").await, ["one", "two"]);
    for session in ["new", "ends", "hangs"] {
        is_stopping(&turn_at(&one, asks(session, "late")).await);
    }
    is_stopping(&turn_at(&two, asks("hangs", "late")).await);
    // A turn that runs can be joined, by either way and either node.
    let attach = AttachRequest { session_id: "ends".into(), ..AttachRequest::default() };
    let attached = two.client.clone().attach(attach).await.expect("it runs").into_inner();
    let mut attached = Turn::attached(attached);
    let joined = turn_at(&one, named.clone());
    let ((), (), joined) = tokio::join!(ends.finish(), attached.finish(), joined);
    for turn in [&ends, &attached, &joined] {
        assert_eq!(turn.result().result, "the end");
    }
    // Then it goes on elsewhere, while the other one still runs.
    let said = recited_at_last(&two, "ends", "after").await;
    assert_eq!(said, ["the end"]);
    assert_eq!(turn_at(&two, named).await.result().result, "the end", "it was told");
    assert!(hangs.end.is_none());
    hangs.finish().await;
    assert!(hangs.result().interrupted);
    recited_at_last(&two, "hangs", "after").await;
    assert_eq!(one.ended().await.code(), Some(1), "a turn had to be ended");
    assert_eq!((one.processes(), one.logged("node_deregistered").len()), (vec![], 1));
}

/// Keeps what nodes say of draining beyond their rows.
async fn note_draining(database: &mut PgConnection) {
    run(
        database,
        "CREATE TABLE told (name TEXT); \
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO told VALUES (NEW.name); RETURN NULL; END $$; \
         CREATE TRIGGER tells AFTER UPDATE OF draining ON nodes FOR EACH ROW \
         WHEN (NEW.draining) EXECUTE FUNCTION tell()",
    )
    .await;
}

#[tokio::test]
async fn others_are_told_of_a_stop_without_turns_and_late_if_the_database_answers_late() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    let mut watching = server.connect(&database).await;
    for late in [false, true] {
        let mut one = reachable("one", &url, &[LEASE]).await;
        if !late {
            note_draining(&mut watching).await;
        }
        run(&mut watching, "TRUNCATE told").await;
        if late {
            run(&mut watching, "BEGIN; SELECT 1 FROM nodes FOR UPDATE").await;
        }
        one.signal(Signal::TERM);
        if late {
            let tried = async || one.logged("node_not_drained").pop();
            eventually("it has tried", tried).await;
            run(&mut watching, "COMMIT").await;
        }
        assert!(one.ended().await.success(), "{:?}", one.log());
        let told: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM told")
            .fetch_one(&mut watching)
            .await
            .expect("read");
        assert_eq!(told, 1, "late: {late}");
    }
}

#[tokio::test]
async fn a_stop_is_bounded_although_the_database_is_gone() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let proxy = Proxy::to(server.address()).await;
    let limits = [LEASE, ("STORE__COMMIT_TIMEOUT", "2s"), ("STORE__ACQUIRE_TIMEOUT", "1s")];
    let by_proxy = Server::url_by(proxy.address(), &database);
    let mut one = reachable("one", &by_proxy, &limits).await;
    for session in ["a", "b"] {
        assert_eq!(ask(&one, session, "one").await, [""; 0]);
    }
    proxy.close();
    let began = Instant::now();
    one.signal(Signal::TERM);
    one.ended().await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(one.processes(), [0; 0]);
}

#[tokio::test]
async fn a_session_is_given_back_though_its_commit_is_not_answered() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let proxy = Proxy::to(server.address()).await;
    let rare = [LEASE, ("CLUSTER__HEARTBEAT", "1m"), ("SERVER__DRAIN_TIMEOUT", "20s")];
    let one = reachable("one", &Server::url_by(proxy.address(), &database), &rare).await;
    let two = reachable("two", &Server::url_by(&server.address(), &database), &[LEASE]).await;
    // It keeps the node.
    let hangs = begun(&one, "hangs", &["hang"]).await;
    let mut ends = begun(&one, "s", &["sleep 1500", "say one"]).await;
    one.signal(Signal::TERM);
    let mut watching = server.connect(&database).await;
    eventually("it drains", async || {
        let draining = sqlx::query_scalar("SELECT COUNT(*) FROM nodes WHERE draining");
        let draining: i64 = draining.fetch_one(&mut watching).await.expect("read");
        (draining == 1).then_some(())
    })
    .await;
    // That of the turn, of what its process says last, and of what is given back.
    proxy.cut_after_commits(5);
    ends.finish().await;
    assert_eq!(ends.result().result, "one");
    assert_eq!(recited_at_last(&two, "s", "two").await, ["one"]);
    assert!(proxy.cut() >= 2, "{}", proxy.cut());
    // The last may not be known to have taken effect before the other node has the session.
    eventually("each that was cut off is found to have taken effect", async || {
        let found = one.logged("store_commit_took_effect_after_an_error").len();
        (found == proxy.cut()).then_some(())
    })
    .await;
    drop((hangs, one));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_that_rest_are_free_within_moments() {
    let Some(server) = Server::shared() else { return };
    let url = server.url().await;
    let more = [LEASE, ("POOL__MAX_PROCESSES", "64"), ("SERVER__DRAIN_TIMEOUT", "20s")];
    let one = reachable("one", &url, &more).await;
    let two = reachable("two", &url, &more).await;
    let sessions = 12;
    for number in 0..sessions {
        ask(&one, &format!("s{number}"), "one").await;
    }
    // The node is there for as long as this turn.
    let hangs = begun(&one, "hangs", &["hang"]).await;
    let began = Instant::now();
    one.signal(Signal::TERM);
    eventually("all are given back", async || (one.processes().len() == 1).then_some(())).await;
    let gone = began.elapsed();
    for number in 0..sessions {
        assert_eq!(recited_at_last(&two, &format!("s{number}"), "two").await, ["one"]);
    }
    assert!(gone < Duration::from_secs(6), "{gone:?}");
    drop(hangs);
}
