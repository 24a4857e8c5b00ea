//! The lives of a node: another service takes its name, it is started again, or its database is put
//! back to an older state. Nobody has its sessions before what it had can have ended.

use super::{
    postgres::{LONG, bed, claimed, is_fenced, open, opening, proxied, run, said, texts},
    *,
};

#[tokio::test]
async fn whoever_takes_a_nodes_name_fences_its_earlier_life_at_once() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (mine, other, id) = (key("a", "s"), key("a", "t"), CliSessionId::fresh());
    let earlier = open(&url, "one", LONG).await;
    earlier.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    let first = earlier.claim(&mine).await.expect("its own");
    let mut status = earlier.status();

    let later = open(&url, "one", LONG).await;
    assert!(is_fenced(earlier.commit(said(&mine, id, first, "lost")).await), "nobody claimed it");
    let made = said(&other, CliSessionId::fresh(), Epoch::NONE, "lost");
    assert!(is_fenced(earlier.commit(made).await), "nor does it make any");
    earlier.claim(&mine).await.expect_err("it has no name");
    // It may have a process for it until it has found out, at the end of its lease at the latest.
    let two = open(&url, "two", LONG).await;
    for store in [&later, &two] {
        let early = store.claim(&mine).await;
        let wanted = StoreError::Elsewhere { owner: "one".to_owned(), address: String::new() };
        assert_eq!(early, Err(wanted));
    }
    let passed = "UPDATE nodes SET earlier_until = clock_timestamp() WHERE name = 'one'";
    run(&mut database, passed).await;
    let second = later.claim(&mine).await.expect("an earlier life of its own");
    later.commit(said(&mine, id, second, "2")).await.expect("its own");
    assert_eq!(texts(&later, &mine, id).await, ["1", "2"]);
    let failing = |status: &StoreStatus| status.failing.is_some();
    let reason = status.wait_for(failing).await.expect("told").failing.clone().expect("failing");
    assert!(reason.reason.contains("taken the name"), "{}", reason.reason);
}

#[tokio::test]
async fn what_a_service_had_is_free_at_once_when_it_has_ended_on_the_same_machine() {
    let Some((_, url, _)) = bed().await else { return };
    let folder = tempfile::TempDir::new().expect("a folder");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let last_life = Some(folder.path().join("incarnation"));
    let again = || PostgresOpening { last_life: last_life.clone(), ..opening(&url, "one", LONG) };
    let store = PostgresStore::open(again(), &Tasks::default()).await.expect("open");
    store.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("made");
    let store = PostgresStore::open(again(), &Tasks::default()).await.expect("open");
    let second = store.claim(&mine).await.expect("of its life before");
    store.commit(said(&mine, id, second, "2")).await.expect("its own");
    // The folder has come to another machine, where nothing is known of processes.
    let text = std::fs::read_to_string(folder.path().join("incarnation")).expect("noted");
    let (incarnation, _) = text.split_once(' ').expect("and the boot");
    std::fs::write(folder.path().join("incarnation"), format!("{incarnation} another\n"))
        .expect("written");
    let store = PostgresStore::open(again(), &Tasks::default()).await.expect("open");
    assert!(matches!(store.claim(&mine).await, Err(StoreError::Elsewhere { .. })));
}

#[tokio::test]
async fn a_node_whose_row_is_gone_registers_again() {
    let Some((_, url, mut database)) = bed().await else { return };
    let one = open(&url, "one", LONG).await;
    let before = one.tenure();
    // As a backup from before its start leaves it.
    run(&mut database, "DELETE FROM nodes").await;
    one.renewed().wait_for(|_| before.is_over() && !one.tenure().is_over()).await.expect("anew");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    one.commit(said(&mine, id, Epoch::NONE, "1")).await.expect("it serves");
}

#[tokio::test]
async fn a_node_that_finds_an_older_state_of_its_database_has_lost_what_it_had() {
    let Some(server) = Server::shared() else { return };
    let database = server.database().await;
    let lease = Duration::from_secs(5);
    let one = open(&Server::url_by(&server.address(), &database), "one", lease).await;
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let said = |epoch| Commit { epoch, ..commit(&mine, record(id, 1), vec![]) };
    one.commit(said(Epoch::NONE)).await.expect("made");
    let first = one.claim(&mine).await.expect("its own");
    // Its heartbeat as a backup has it, which was as good then as it is now.
    let mut by = server.connect(&database).await;
    let back = "UPDATE nodes SET heartbeat = heartbeat - INTERVAL '1 minute'";
    sqlx::raw_sql(back).execute(&mut by).await.expect("done");
    one.tenure().over().await;
    while one.tenure().is_over() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = one.commit(said(first)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    // Another node that has it may not have found out yet.
    for session in [&mine, &key("a", "new")] {
        let Err(StoreError::Unavailable { detail, .. }) = one.claim(session).await else {
            panic!("claimed at once")
        };
        assert!(detail.contains("older state"), "{detail}");
    }
    let second = claimed(&one, &mine).await;
    one.commit(said(second)).await.expect("a node like others again");
}

#[tokio::test]
async fn a_node_that_drains_does_so_in_every_life_that_follows() {
    let Some((_, url, mut database)) = bed().await else { return };
    let (one, two) = (open(&url, "one", LONG).await, open(&url, "two", LONG).await);
    one.drain().await.expect("told");
    let before = one.tenure();
    run(&mut database, "DELETE FROM nodes WHERE name = 'one'").await;
    one.renewed().wait_for(|_| before.is_over() && !one.tenure().is_over()).await.expect("anew");
    let (nodes, _) = two.living().await;
    let drains: Vec<_> = nodes.iter().map(|node| (&*node.name, node.draining)).collect();
    assert_eq!(drains, [("one", true), ("two", false)]);
}

#[tokio::test]
async fn a_node_that_is_not_told_that_it_has_registered_again_is_not_replaced_by_itself() {
    let Some((server, url, mut database)) = bed().await else { return };
    let (proxy, by_proxy) = proxied(server, &url).await;
    let (heartbeat, lease) = (Duration::from_millis(500), Duration::from_secs(5));
    let opening = PostgresOpening { heartbeat, ..opening(&by_proxy, "one", lease) };
    let one = PostgresStore::open(opening, &Tasks::default()).await.expect("open");
    let mut before = one.tenure();
    run(&mut database, "DELETE FROM nodes").await;
    before.over().await;
    proxy.cut_after_commits(2);
    one.renewed().wait_for(|_| !one.tenure().is_over()).await.expect("anew");
    assert_eq!(proxy.cut(), 2, "what it was not told had taken effect");
    claimed(&one, &key("a", "s")).await;
    assert!(one.status().borrow().failing.is_none());
}
