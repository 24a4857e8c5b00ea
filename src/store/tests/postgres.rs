//! What PostgreSQL alone promises: who owns a session among nodes that live and die, what
//! becomes of a commit whose answer is lost, and of a server that is gone for a while.

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinSet;

use super::{cutting_proxy::Proxy, *};
use crate::domain::redacted::Redacted;

/// How a test's store is opened.
pub fn opening(url: &str, node: &str, lease: Duration) -> PostgresOpening {
    PostgresOpening {
        url: Redacted(url.to_owned()),
        max_connections: 6,
        acquire_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(3),
        commit_timeout: Duration::from_secs(30),
        node: node.to_owned(),
        last_life: None,
        address: format!("{node}.test:1"),
        heartbeat: Duration::from_millis(50),
        lease,
    }
}

/// A node's store, whose tasks end with the test.
pub async fn open(url: &str, node: &str, lease: Duration) -> PostgresStore {
    PostgresStore::open(opening(url, node, lease), &Tasks::default()).await.expect("open")
}

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(600);

/// A server with a new database on it, and a connection of the test's own.
pub async fn bed() -> Option<(&'static Server, String, PgConnection)> {
    let server = Server::shared()?;
    let database = server.database().await;
    let connection = server.connect(&database).await;
    Some((server, Server::url_by(&server.address(), &database), connection))
}

/// A proxy before the server, and the address by it of the database that this URL names.
pub async fn proxied(server: &Server, url: &str) -> (Proxy, String) {
    let proxy = Proxy::to(server.address()).await;
    let name = url.rsplit_once('/').expect("a path").1.trim_end_matches("?sslmode=disable");
    let by_proxy = Server::url_by(proxy.address(), name);
    (proxy, by_proxy)
}

pub async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect("done");
}

pub fn said(mine: &SessionKey, id: CliSessionId, epoch: Epoch, text: &str) -> Commit {
    Commit { epoch, ..commit(mine, record(id, 1), vec![line(id, "", None, text)]) }
}

pub async fn texts(store: &dyn Store, mine: &SessionKey, id: CliSessionId) -> Vec<String> {
    let lines = transcript(store, &mine.tenant, id).await.expect("read");
    lines.into_iter().map(|line| line.json).collect()
}

/// Claims a session as soon as it is free.
pub async fn claimed(store: &dyn Store, mine: &SessionKey) -> Epoch {
    loop {
        match store.claim(mine).await {
            Ok(epoch) => return epoch,
            Err(StoreError::Elsewhere { .. } | StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn is_fenced<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Fenced { .. }))
}

#[tokio::test]
async fn a_session_of_a_node_that_lives_is_elsewhere_until_it_is_given_back() {
    let Some((_, url, _)) = bed().await else { return };
    let (one, two) = (open(&url, "one", LONG).await, open(&url, "two", LONG).await);
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    let elsewhere =
        StoreError::Elsewhere { owner: "one".to_owned(), address: "one.test:1".to_owned() };
    assert_eq!(two.claim(&mine).await, Err(elsewhere));
    let first = one.claim(&mine).await.expect("its own, again");
    one.commit(said(&mine, id, first, "2")).await.expect("nothing was lost");
    one.release(&mine, first).await.expect("given back");
    let second = two.claim(&mine).await.expect("free");
    two.commit(said(&mine, id, second, "3")).await.expect("its own");
    assert_eq!(texts(&two, &mine, id).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_session_of_a_node_whose_lease_is_over_by_the_databases_clock_is_claimed() {
    let Some((_, url, mut database)) = bed().await else { return };
    let tasks = Tasks::default();
    let lease = Duration::from_secs(3600);
    let opening = PostgresOpening { heartbeat: LONG, ..opening(&url, "one", lease) };
    let one = PostgresStore::open(opening, &tasks).await.expect("open");
    let two = open(&url, "two", LONG).await;
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    // Its first heartbeat comes with its start.
    one.renewed().wait_for(|renewed| *renewed > Duration::ZERO).await.expect("registered");
    let aged = |by: &str| {
        format!(
            "UPDATE nodes SET heartbeat = clock_timestamp() - INTERVAL '{by}' WHERE name = 'one'"
        )
    };
    run(&mut database, &aged("59 minutes")).await;
    assert!(matches!(two.claim(&mine).await, Err(StoreError::Elsewhere { .. })), "it lives");
    run(&mut database, &aged("61 minutes")).await;
    let second = two.claim(&mine).await.expect("its lease is over");
    assert!(is_fenced(one.commit(said(&mine, id, Epoch::NONE, "lost")).await));
    two.commit(said(&mine, id, second, "2")).await.expect("its own");
    assert_eq!(texts(&two, &mine, id).await, ["1", "2"]);
}

#[tokio::test]
async fn a_number_that_was_given_twice_lets_only_one_write() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (one, two) = (open(&url, "one", LONG).await, open(&url, "two", LONG).await);
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    let first = one.claim(&mine).await.expect("claimed");
    // As a backup from before the claim leaves it; and then another claims.
    run(&mut database, "UPDATE sessions SET owner = '', owner_name = '', epoch = epoch - 1").await;
    let second = two.claim(&mine).await.expect("free");
    assert_eq!(first, second, "the same number");
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await));
    two.commit(said(&mine, id, second, "2")).await.expect("its own");
    assert_eq!(texts(&two, &mine, id).await, ["1", "2"]);
}

#[tokio::test]
async fn of_many_claims_at_once_each_has_one_owner_and_a_number_of_its_own() {
    let Some((_, url, _)) = bed().await else { return };
    let stores = [open(&url, "one", Duration::ZERO).await, open(&url, "two", Duration::ZERO).await];
    let stores = stores.map(Arc::new);
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    stores[0].commit(said(&mine, id, Epoch::NONE, "made")).await.expect("made");
    let mut claims = JoinSet::new();
    for number in 0..60 {
        let (store, mine) = (Arc::clone(&stores[number % 2]), mine.clone());
        claims.spawn(async move {
            let epoch = store.claim(&mine).await.expect("claimed");
            let text = epoch.0.to_string();
            (epoch.0, store.commit(said(&mine, id, epoch, &text)).await)
        });
    }
    let outcomes = claims.join_all().await;
    let mut epochs: Vec<i64> = outcomes.iter().map(|(epoch, _)| *epoch).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (2..62).collect::<Vec<_>>(), "each claim has its own number");
    let told = |(epoch, outcome): &(i64, Result<(), StoreError>)| match outcome {
        Ok(()) => Some(epoch.to_string()),
        Err(StoreError::Fenced { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let mut told: Vec<String> = outcomes.iter().filter_map(told).collect();
    told.sort_by_key(|text| text.parse::<i64>().ok());
    let kept = texts(&*stores[0], &mine, id).await;
    assert_eq!(kept[1..], told, "what was told is there, once, and by rising numbers");
    assert_eq!(told.last().map(String::as_str), Some("61"), "the last owner was not fenced");
}

#[tokio::test]
async fn of_claims_at_once_where_all_live_one_has_it() {
    let Some((_, url, _)) = bed().await else { return };
    let stores = [open(&url, "one", LONG).await, open(&url, "two", LONG).await].map(Arc::new);
    for round in 0..10 {
        let (mine, id) = (key("a", &format!("s{round}")), CliSessionId::fresh());
        stores[0].commit(said(&mine, id, Epoch::NONE, "made")).await.expect("made");
        stores[0].release(&mine, Epoch::NONE).await.expect("given back");
        let mut claims = JoinSet::new();
        for number in 0..20 {
            let (store, mine) = (Arc::clone(&stores[number % 2]), mine.clone());
            claims.spawn(async move { (number % 2, store.claim(&mine).await) });
        }
        let mut owners: Vec<usize> = Vec::new();
        for (node, claimed) in claims.join_all().await {
            match claimed {
                Ok(_) => owners.push(node),
                Err(StoreError::Elsewhere { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        owners.dedup();
        assert_eq!(owners.len(), 1, "{owners:?}");
    }
}

#[tokio::test]
async fn a_node_that_leaves_gives_its_name_and_its_sessions_back() {
    let Some((_, url, mut database)) = bed().await else { return };
    let tasks = Tasks::default();
    let one = PostgresStore::open(opening(&url, "one", LONG), &tasks).await.expect("open");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    one.drain().await.expect("told");
    let draining: bool = sqlx::query_scalar("SELECT draining FROM nodes")
        .fetch_one(&mut database)
        .await
        .expect("it is there");
    assert!(draining);
    assert!(tasks.stop(Duration::from_secs(5)).await);
    one.commit(said(&mine, id, Epoch::NONE, "late")).await.expect_err("it is closed");
    let nodes: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM nodes")
        .fetch_one(&mut database)
        .await
        .expect("read");
    assert_eq!(nodes, 0);
    let two = open(&url, "two", LONG).await;
    two.claim(&mine).await.expect("nobody's");
}

#[tokio::test]
async fn what_others_are_taking_up_is_left_alone_while_they_live() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let import = |part| Import { key: mine.clone(), conversation: id, part };
    let one = open(&url, "one", LONG).await;
    let some = |text: &str| Part::Lines(vec![line(id, "", None, text)]);
    one.import(import(Part::Begin)).await.expect("begun");
    one.import(import(some("1"))).await.expect("kept");
    let two = open(&url, "two", LONG).await;
    assert_eq!(texts(&two, &mine, id).await, [""; 0]);
    let taken = StoreError::Conflict { conversation: id, owner: None };
    assert_eq!(two.import(import(Part::Begin)).await, Err(taken.clone()));
    one.import(import(some("2"))).await.expect("nobody took it away");
    run(&mut database, "DELETE FROM nodes WHERE name = 'one'").await;
    assert_eq!(texts(&two, &mine, id).await, [""; 0], "what a dead node left is removed");
    two.import(import(Part::Begin)).await.expect("begun anew");
    assert_eq!(one.import(import(some("lost"))).await, Err(taken));
    for part in [some("3"), Part::End] {
        two.import(import(part)).await.expect("kept");
    }
    two.commit(said(&mine, id, Epoch::NONE, "4")).await.expect("its own");
    assert_eq!(texts(&two, &mine, id).await, ["3", "4"]);
}

#[tokio::test]
async fn nodes_that_start_at_once_make_the_schema_once() {
    let Some((_, url, mut database)) = bed().await else { return };
    let mut starts = JoinSet::new();
    for node in 0..4 {
        let url = url.clone();
        starts.spawn(async move { open(&url, &format!("n{node}"), LONG).await });
    }
    let stores = starts.join_all().await;
    assert_eq!(stores.len(), 4);
    let newer = "INSERT INTO _sqlx_migrations \
        (version, description, success, checksum, execution_time) VALUES (9999, 'x', TRUE, '', 0)";
    run(&mut database, newer).await;
    let refused = PostgresStore::open(opening(&url, "late", LONG), &Tasks::default()).await;
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("newer version") && error.contains("9999"), "{error}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_it_ended() {
    let Some((server, url, _)) = bed().await else { return };
    let (proxy, by_proxy) = proxied(server, &url).await;
    // No heartbeat takes the cut that is meant for a commit.
    let opening = PostgresOpening { heartbeat: LONG, ..opening(&by_proxy, "one", LONG) };
    let store = PostgresStore::open(opening, &Tasks::default()).await.expect("open");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    store.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    for text in ["2", "3"] {
        proxy.cut_after_commit();
        store.commit(said(&mine, id, Epoch::NONE, text)).await.expect("it took effect");
    }
    proxy.cut_after_commit();
    let epoch = store.claim(&mine).await.expect("it took effect");
    assert_eq!(epoch, Epoch(2), "it was not claimed twice");
    proxy.cut_after_commit();
    assert_eq!(store.leave_pool(&mine, Duration::ZERO).await, Ok(true), "as it was");
    assert_eq!(proxy.cut(), 4);
    assert_eq!(texts(&store, &mine, id).await, ["1", "2", "3"], "each once");
    proxy.cut_after_commit();
    assert_eq!(store.forget(&mine, Instant::now()).await, Ok(Some(vec![id])), "as it was");
}

#[tokio::test]
async fn while_the_database_is_gone_orders_wait_and_status_says_so() {
    let Some((server, url, _)) = bed().await else { return };
    let (proxy, by_proxy) = proxied(server, &url).await;
    let opening = PostgresOpening {
        commit_timeout: Duration::from_secs(4),
        acquire_timeout: Duration::from_secs(2),
        ..opening(&by_proxy, "one", LONG)
    };
    let store = PostgresStore::open(opening, &Tasks::default()).await.expect("open");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    store.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    proxy.close();
    let mut status = store.status();
    status.wait_for(|status| status.failing.is_some()).await.expect("told by the heartbeat");
    let lost = store.commit(said(&mine, id, Epoch::NONE, "refused")).await;
    let error = lost.expect_err("nobody is there");
    assert!(error.is_temporary() && !error.to_string().contains("sesame"), "{error}");
    assert!(store.load(&mine).await.expect_err("nor to read from").is_temporary());
    let waiting = store.commit(said(&mine, id, Epoch::NONE, "2"));
    let opens = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.open();
    };
    let (kept, ()) = tokio::join!(waiting, opens);
    kept.expect("it is tried until it succeeds");
    status.wait_for(|status| status.failing.is_none()).await.expect("well by itself");
    assert!(status.borrow().failed_transactions >= 1);
    assert_eq!(texts(&store, &mine, id).await, ["1", "2"]);
}

#[tokio::test]
async fn nobody_waits_behind_a_session_that_somebody_else_holds() {
    let Some((_, url, mut database)) = bed().await else { return };
    let store = Arc::new(open(&url, "one", LONG).await);
    let (held, free, id) = (key("a", "held"), key("a", "free"), CliSessionId::fresh());
    store.commit(said(&held, id, Epoch::NONE, "1")).await.expect("made");
    run(&mut database, "BEGIN; SELECT 1 FROM sessions WHERE session_id = 'held' FOR UPDATE").await;
    let (store_too, held_too) = (Arc::clone(&store), held.clone());
    let waiting = crate::tasks::spawn_owned(async move {
        store_too.commit(said(&held_too, id, Epoch::NONE, "2")).await
    });
    for round in 0..20 {
        let other = commit(&free, record(CliSessionId::fresh(), round), vec![]);
        store.commit(other).await.expect("nobody holds it");
    }
    assert!(!waiting.is_finished(), "it waits for the lock");
    run(&mut database, "ROLLBACK").await;
    waiting.await.expect("ended").expect("waiting is not being fenced");
    assert!(store.status().borrow().failing.is_none(), "nor a failure of the store");
}

#[tokio::test]
async fn a_node_that_cannot_renew_its_lease_stops_before_others_may_claim_and_begins_anew() {
    let Some((_, url, mut database)) = bed().await else { return };
    let lease = Duration::from_secs(8);
    let (one, two) = (open(&url, "one", lease).await, open(&url, "two", LONG).await);
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    let first = one.claim(&mine).await.expect("its own");
    let mut tenure = one.tenure();
    assert!(!tenure.is_over() && one.elsewhere(&mine).await == Ok(None));
    let owner = two.elsewhere(&mine).await.expect("read").expect("it lives");
    assert_eq!((owner.name.as_str(), owner.address.as_str()), ("one", "one.test:1"));

    // Its heartbeats wait.
    run(&mut database, "BEGIN; LOCK TABLE nodes IN SHARE MODE").await;
    tenure.over().await;
    assert!(matches!(two.elsewhere(&mine).await, Ok(Some(_))), "for others it lives still");
    assert!(one.tenure().is_over() && one.status().borrow().failing.is_some());
    run(&mut database, "COMMIT").await;
    one.renewed().wait_for(|_| !one.tenure().is_over()).await.expect("it begins anew");
    assert!(tenure.is_over(), "what was claimed before is not its own any more");
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await));
    let early = two.claim(&mine).await;
    assert!(
        matches!(early, Err(StoreError::Elsewhere { .. })),
        "what it had ends still: {early:?}"
    );
    let second = claimed(&two, &mine).await;
    two.commit(said(&mine, id, second, "2")).await.expect("its own");
    let other = said(&key("a", "t"), CliSessionId::fresh(), Epoch::NONE, "1");
    one.commit(other).await.expect("it serves again");
    assert_eq!(texts(&one, &mine, id).await, ["1", "2"]);
}
