//! A session that has begun and was never committed, on a database that nodes share: one of them
//! has it, and nobody sees it.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::{
    postgres::{LONG, bed, is_fenced, open, opening, proxied, run, said, texts},
    *,
};

fn elsewhere<T>(node: &str) -> Result<T, StoreError> {
    Err(StoreError::Elsewhere { owner: node.to_owned(), address: format!("{node}.test:1") })
}

/// Rows of claims that are left.
async fn claims(database: &mut sqlx::PgConnection) -> i64 {
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM claims").fetch_one(database).await;
    count.expect("read")
}

#[tokio::test]
async fn a_session_that_has_begun_is_one_node_s_and_is_shown_nowhere() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (one, two) = (open(&url, "one", LONG).await, open(&url, "two", LONG).await);
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let first = one.claim(&mine).await.expect("nobody's");
    assert_eq!(two.claim(&mine).await, elsewhere("one"));
    let owner = two.elsewhere(&mine).await.expect("read").expect("it lives");
    assert_eq!((owner.name.as_str(), owner.address.as_str()), ("one", "one.test:1"));
    assert_eq!(one.elsewhere(&mine).await, Ok(None));
    for store in [&one, &two] {
        assert_eq!(store.load(&mine).await, Ok(None));
        assert_eq!(store.list(&mine.tenant, None, 9).await, Ok(vec![]));
        assert_eq!(store.in_pool().await, Ok(vec![]));
        assert_eq!(store.unused_for(Duration::ZERO, 9).await, Ok(vec![]));
    }
    // Nobody else makes it, not even by a commit that shows no claim.
    let fenced = StoreError::Fenced { owner: "one".to_owned() };
    assert_eq!(two.commit(said(&mine, id, Epoch::NONE, "lost")).await, Err(fenced));
    one.commit(said(&mine, id, first, "1")).await.expect("its own");
    one.commit(said(&mine, id, first, "2")).await.expect("its own, still");
    assert_eq!(two.claim(&mine).await, elsewhere("one"));
    assert_eq!(claims(&mut database).await, 0, "the row is in its place");
    one.release(&mine, first).await.expect("given back");
    let second = two.claim(&mine).await.expect("free");
    assert!(second.follows(first));
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await));
    assert_eq!(texts(&two, &mine, id).await, ["1", "2"]);
}

#[tokio::test]
async fn a_session_that_has_begun_and_was_given_back_leaves_nothing() {
    let Some((_, url, mut database)) = bed().await else { return };
    let tasks = Tasks::default();
    let one = PostgresStore::open(opening(&url, "one", LONG), &tasks).await.expect("open");
    let two = open(&url, "two", LONG).await;
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let earlier = one.claim(&mine).await.expect("nobody's");
    let first = one.claim(&mine).await.expect("its own, again");
    one.release(&mine, earlier).await.expect("nothing to give back");
    assert_eq!(two.claim(&mine).await, elsewhere("one"));
    one.release(&mine, first).await.expect("given back");
    assert_eq!(claims(&mut database).await, 0);
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await));
    let second = two.claim(&mine).await.expect("free");
    two.commit(said(&mine, id, second, "1")).await.expect("its own");
    assert_eq!(texts(&two, &mine, id).await, ["1"]);

    // Nor does a node that leaves, or the next one after one that was killed.
    one.claim(&key("a", "t")).await.expect("nobody's");
    assert_eq!(claims(&mut database).await, 1);
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert_eq!(claims(&mut database).await, 0);
    run(&mut database, "INSERT INTO claims VALUES ('a', 'u', 'gone', 'x', 1)").await;
    drop(open(&url, "three", LONG).await);
    assert_eq!(claims(&mut database).await, 0);
}

#[tokio::test]
async fn a_session_that_a_dead_node_has_begun_is_free() {
    let Some((_, url, mut database)) = bed().await else { return };
    let opening = PostgresOpening { heartbeat: LONG, ..opening(&url, "one", LONG) };
    let one = PostgresStore::open(opening, &Tasks::default()).await.expect("open");
    let two = open(&url, "two", LONG).await;
    one.renewed().wait_for(|renewed| *renewed > Duration::ZERO).await.expect("registered");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let first = one.claim(&mine).await.expect("nobody's");
    assert_eq!(two.claim(&mine).await, elsewhere("one"));
    let dies = "UPDATE nodes SET heartbeat = heartbeat - INTERVAL '1 hour' WHERE name = 'one'";
    run(&mut database, dies).await;
    let second = two.claim(&mine).await.expect("its lease is over");
    assert_eq!(two.elsewhere(&mine).await, Ok(None));
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await), "before it is made");
    two.commit(said(&mine, id, second, "1")).await.expect("its own");
    assert!(is_fenced(one.commit(said(&mine, id, first, "lost")).await), "and afterwards");
    assert_eq!(texts(&two, &mine, id).await, ["1"]);
}

#[tokio::test]
async fn of_nodes_that_begin_a_session_at_once_one_has_it() {
    let Some((_, url, _)) = bed().await else { return };
    let names = ["one", "two", "three"];
    let mut stores = Vec::new();
    for name in names {
        stores.push(Arc::new(open(&url, name, LONG).await));
    }
    for round in 0..10 {
        let (mine, mut claims) = (key("a", &format!("s{round}")), JoinSet::new());
        for number in 0..30 {
            let (store, mine) = (Arc::clone(&stores[number % 3]), mine.clone());
            claims.spawn(async move { (names[number % 3].to_owned(), store.claim(&mine).await) });
        }
        let (mut owners, mut named) = (BTreeSet::new(), BTreeSet::new());
        for (node, claimed) in claims.join_all().await {
            match claimed {
                Ok(_) => drop(owners.insert(node)),
                Err(StoreError::Elsewhere { owner, .. }) => drop(named.insert(owner)),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((owners.len(), &owners), (1, &named), "all agree");
    }
}

#[tokio::test]
async fn nodes_that_begin_commit_and_give_back_one_session_lose_nothing_of_each_other() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let mut nodes = JoinSet::new();
    for node in ["one", "two", "three"] {
        let (url, mine) = (url.clone(), mine.clone());
        nodes.spawn(async move {
            let (store, mut told) = (open(&url, node, LONG).await, Vec::new());
            for round in 0..60 {
                let Ok(epoch) = store.claim(&mine).await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let text = format!("{node}{round}");
                // Some fail before they have anything to keep.
                if round % 4 > 0 {
                    store.commit(said(&mine, id, epoch, &text)).await.expect("its own");
                    told.push(text);
                }
                store.release(&mine, epoch).await.expect("given back");
            }
            told
        });
    }
    let mut told = nodes.join_all().await.concat();
    assert!(!told.is_empty());
    let store = open(&url, "reader", LONG).await;
    let mut kept = texts(&store, &mine, id).await;
    told.sort();
    kept.sort();
    assert_eq!(kept, told, "each once");
    assert_eq!(claims(&mut database).await, 0);
}

#[tokio::test]
async fn what_is_claimed_or_given_back_without_an_answer_is_so() {
    let Some((server, url, mut database)) = bed().await else { return };
    let (proxy, by_proxy) = proxied(server, &url).await;
    // No heartbeat takes the cut.
    let opening = PostgresOpening { heartbeat: LONG, ..opening(&by_proxy, "one", LONG) };
    let one = PostgresStore::open(opening, &Tasks::default()).await.expect("open");
    let mine = key("a", "s");
    proxy.cut_after_commit();
    assert_eq!(one.claim(&mine).await, Ok(Epoch(1)), "once");
    proxy.cut_after_commit();
    let made = said(&mine, CliSessionId::fresh(), Epoch(1), "1");
    one.commit(made).await.expect("it took effect");
    proxy.cut_after_commit();
    one.release(&mine, Epoch(1)).await.expect("it took effect");
    assert_eq!((proxy.cut(), claims(&mut database).await), (3, 0));
    let two = open(&url, "two", LONG).await;
    assert_eq!(two.claim(&mine).await, Ok(Epoch(2)), "it is free");
}
