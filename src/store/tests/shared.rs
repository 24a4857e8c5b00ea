//! What nodes know of each other by the store that they share.

use tokio::task::JoinSet;

use super::{postgres::open, *};

const LONG: Duration = Duration::from_secs(600);

/// Two nodes on one database, and its name.
async fn two() -> Option<([Arc<PostgresStore>; 2], String)> {
    let server = Server::shared()?;
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    let stores = [open(&url, "one", LONG).await, open(&url, "two", LONG).await];
    Some((stores.map(Arc::new), database))
}

fn counted(turns: u64, today: Today) -> Totals {
    Totals {
        counts: [("turns".to_owned(), turns)].into(),
        spent: Spent { cost_usd: today.cost_usd, ..Spent::default() },
        today,
    }
}

#[tokio::test]
async fn of_many_who_ask_at_once_no_more_get_a_place_than_there_is_room() {
    let Some((stores, _)) = two().await else { return };
    let mut asked = JoinSet::new();
    for number in 0..60 {
        let (store, mine) = (Arc::clone(&stores[number % 2]), key("a", &format!("s{number}")));
        asked.spawn(async move { (number % 2, mine.clone(), store.take_place(&mine, 7).await) });
    }
    let mut taken = Vec::new();
    for (node, mine, place) in asked.join_all().await {
        taken.extend(place.expect("asked").map(|place| (node, mine, place)));
    }
    assert_eq!(taken.len(), 7);
    let more = key("a", "more");
    assert_eq!(stores[0].take_place(&more, 7).await, Ok(None));
    assert!(stores[0].take_place(&key("b", "s"), 1).await.expect("asked").is_some(), "another's");
    // Its session is kept, and counts once; that it is there it may be asked for again.
    let (node, mine, place) = taken.pop().expect("seven");
    let (its, other) = (&stores[node], &stores[1 - node]);
    let id = CliSessionId::fresh();
    its.commit(commit(&mine, record(id, 1), vec![])).await.expect("kept");
    assert_eq!(other.take_place(&more, 7).await, Ok(None));
    assert!(other.take_place(&mine, 7).await.expect("asked").is_some());
    // It sleeps: its place is given back, and it counts still.
    its.give_place_back(place);
    assert_eq!(its.take_place(&more, 7).await, Ok(None));
    let gone = Record { in_pool: false, ..record(id, 2) };
    its.commit(commit(&mine, gone, vec![])).await.expect("kept");
    // The other has a place for it still, which counts again.
    assert_eq!(its.take_place(&more, 7).await, Ok(None));
}

#[tokio::test]
async fn a_place_that_is_given_back_is_free_at_once_for_its_node_and_soon_for_others() {
    let Some(([one, two], database)) = two().await else { return };
    let (mine, more) = (key("a", "s"), key("a", "t"));
    for _ in 0..20 {
        let place = one.take_place(&mine, 1).await.expect("asked").expect("there is room");
        assert_eq!(two.take_place(&more, 1).await, Ok(None));
        one.give_place_back(place);
    }
    // Whoever does not wait for it has none, once the server has noticed.
    for number in 0..20 {
        let wait = Duration::from_micros(300 * number);
        let taken = tokio::time::timeout(wait, one.take_place(&mine, 1)).await;
        if let Ok(Ok(Some(place))) = taken {
            one.give_place_back(place);
        }
    }
    let free = async {
        loop {
            one.survey(&[], 0).await.expect("looked");
            if two.take_place(&more, 1).await.expect("asked").is_some() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("as others see it, too");
    // That of a node that is dead is free.
    assert_eq!(one.take_place(&mine, 1).await, Ok(None));
    let mut connection = Server::shared().expect("there").connect(&database).await;
    let dead = "UPDATE nodes SET lease_ms = -1 WHERE name = 'two'";
    sqlx::raw_sql(dead).execute(&mut connection).await.expect("done");
    assert!(one.take_place(&mine, 1).await.expect("asked").is_some());
}

#[tokio::test]
async fn what_others_have_spent_and_counted_is_told_without_what_is_known_here() {
    let Some(([one, two], _)) = two().await else { return };
    let (tenant, other) = (key("a", "s").tenant, key("b", "s").tenant);
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    let day = now.as_secs() / 86_400;
    let today = |cost_usd| Today { day, cost_usd };
    one.count(&tenant, counted(2, today(0.5))).await.expect("kept");
    two.count(&tenant, counted(3, today(0.25))).await.expect("kept");
    two.count(&other, counted(9, today(9.0))).await.expect("kept");
    let spent = async |store: &PostgresStore, day| {
        let survey = store.survey(std::slice::from_ref(&tenant), day).await.expect("looked");
        survey.spent[0].1
    };
    assert!((spent(&one, day).await - 0.25).abs() < 1e-9);
    assert!((spent(&two, day).await - 0.5).abs() < 1e-9);
    assert!(spent(&two, day + 1).await.abs() < 1e-9, "another day");
    let names = [one.counts_as().to_owned(), two.counts_as().to_owned()];
    let turns = async |tenant: Option<&TenantId>, but_by: &[String]| {
        let totals = one.counted(tenant, but_by).await.expect("read");
        totals.counts.get("turns").copied().unwrap_or_default()
    };
    assert_eq!(turns(Some(&tenant), &[]).await, 5);
    assert_eq!(turns(Some(&tenant), &names[..1]).await, 3);
    assert_eq!(turns(Some(&tenant), &names).await, 0);
    assert_eq!(turns(None, &[]).await, 14);
}

#[tokio::test]
async fn where_sessions_live_is_told_of_those_of_others_that_live() {
    let Some(([one, two], database)) = two().await else { return };
    for (store, name) in [(&one, "a"), (&two, "b"), (&two, "c"), (&one, "d"), (&two, "e")] {
        let mine = key("t", name);
        store.commit(commit(&mine, record(CliSessionId::fresh(), 1), vec![])).await.expect("kept");
    }
    let epoch = two.claim(&key("t", "c")).await.expect("its own");
    two.release(&key("t", "c"), epoch).await.expect("given back");
    let tenant = key("t", "a").tenant;
    let id = |name: &str| SessionId::parse(name).expect("a name");
    let owners = async |after: Option<&str>, last: &str| {
        let owners = one.owners(&tenant, after.map(id).as_ref(), &id(last)).await.expect("read");
        let mut owners: Vec<_> =
            owners.into_iter().map(|(id, name)| (id.to_string(), name)).collect();
        owners.sort();
        owners
    };
    let at_two = |name: &str| (name.to_owned(), "two".to_owned());
    assert_eq!(owners(None, "e").await, [at_two("b"), at_two("e")]);
    assert_eq!(owners(Some("b"), "d").await, []);
    let (living, problem) = one.living().await;
    let living: Vec<_> = living.iter().map(|node| node.name.as_str()).collect();
    assert_eq!((living, problem), (vec!["one", "two"], None));
    let mut connection = Server::shared().expect("there").connect(&database).await;
    let dead = "UPDATE nodes SET lease_ms = -1 WHERE name = 'two'";
    sqlx::raw_sql(dead).execute(&mut connection).await.expect("done");
    assert_eq!(owners(None, "e").await, []);
}
