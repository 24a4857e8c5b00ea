//! A session has one owner: whoever claimed it before is refused, whatever they bring.

use super::*;

/// Runs a test on two services that share the same conversations, for each kind of store.
async fn on_two_of_each(test: impl AsyncFn(&dyn Store, &dyn Store)) {
    let one = MemoryStore::default();
    let two = one.beside();
    test(&one, &two).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    test(&open(&file).await.expect("open"), &open(&file).await.expect("open")).await;
    let Some(server) = Server::shared() else { return };
    // Where a lease is over at once, whoever claims takes over.
    let database = server.database().await;
    let url = Server::url_by(&server.address(), &database);
    let one = postgres::open(&url, "one", Duration::ZERO).await;
    let by = Bouncer::shared().map_or_else(|| server.address(), Bouncer::address);
    let two = postgres::open(&Server::url_by(&by, &database), "two", Duration::ZERO).await;
    test(&one, &two).await;
}

fn by(epoch: Epoch, commit: Commit) -> Commit {
    Commit { epoch, ..commit }
}

fn is_fenced<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Fenced { .. }))
}

#[tokio::test]
async fn whoever_claims_a_session_fences_those_who_had_it() {
    on_two_of_each(async |one, two| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        let said = |json: &str| commit(&mine, record(id, 1), vec![line(id, "", None, json)]);
        one.commit(said("1")).await.expect("the first makes it");
        let first = one.claim(&mine).await.expect("claimed");
        one.commit(by(first, said("2"))).await.expect("its own");

        let second = two.claim(&mine).await.expect("taken over");
        let named = Commit { totals: counted(), ..by(first, said("lost")) };
        assert!(is_fenced(one.commit(named).await));
        assert!(is_fenced(one.commit(said("lost")).await), "nor as if it were new");
        two.commit(by(second, said("3"))).await.expect("its own");
        let lines = transcript(one, &mine.tenant, id).await.expect("read");
        let texts: Vec<_> = lines.iter().map(|line| line.json.as_str()).collect();
        assert_eq!(texts, ["1", "2", "3"]);
        let totals = one.totals().await.expect("read");
        let nothing = totals.iter().all(|(_, totals)| *totals == Totals::default());
        assert!(nothing, "nothing of it took effect: {totals:?}");

        // And back again.
        let third = one.claim(&mine).await.expect("taken over");
        assert!(is_fenced(two.commit(by(second, said("lost"))).await));
        one.commit(by(third, said("4"))).await.expect("its own");
    })
    .await;
}

fn counted() -> Totals {
    Totals { counts: [("turns".to_owned(), 1)].into(), ..Totals::default() }
}

#[tokio::test]
async fn of_two_who_make_a_session_one_is_its_owner() {
    on_two_of_each(async |one, two| {
        let mine = key("a", "s");
        if !one.is_shared() {
            assert_eq!(one.claim(&mine).await, Ok(Epoch::NONE), "there is nothing to claim");
            assert_eq!(two.claim(&mine).await, Ok(Epoch::NONE));
        }
        let made = || commit(&mine, record(CliSessionId::fresh(), 1), vec![]);
        one.commit(made()).await.expect("it came first");
        assert!(is_fenced(two.commit(made()).await));
        // Told again after an outcome that it did not hear of, and from then on.
        one.commit(made()).await.expect("its own");
        one.commit(by(Epoch::NONE.kept(), made())).await.expect("its own");
    })
    .await;
}

#[tokio::test]
async fn what_is_read_says_which_claim_it_was_last_under() {
    on_two_of_each(async |one, two| {
        let mine = key("a", "s");
        let epoch = async || two.load(&mine).await.expect("read").expect("kept").epoch;
        one.commit(commit(&mine, record(CliSessionId::fresh(), 1), vec![])).await.expect("kept");
        let first = one.claim(&mine).await.expect("claimed");
        assert_eq!(epoch().await, first);
        let second = two.claim(&mine).await.expect("claimed");
        assert!(second.follows(first) && epoch().await == second);
        two.release(&mine, second).await.expect("given back");
        assert_eq!(epoch().await, second, "nobody has had it since");
    })
    .await;
}

#[tokio::test]
async fn who_has_given_a_session_back_has_to_claim_it_again() {
    on_two_of_each(async |one, two| {
        let mine = key("a", "s");
        let id = CliSessionId::fresh();
        let made = || commit(&mine, record(id, 1), vec![]);
        one.commit(made()).await.expect("kept");
        let first = one.claim(&mine).await.expect("claimed");
        one.release(&mine, first).await.expect("given back");
        assert!(is_fenced(one.commit(by(first, made())).await));
        let second = one.claim(&mine).await.expect("claimed");
        one.commit(Commit { releases: true, ..by(second, made()) }).await.expect("the last");
        assert!(is_fenced(one.commit(by(second, made())).await));
        // Who comes late gives back nothing of others.
        let third = two.claim(&mine).await.expect("claimed");
        one.release(&mine, second).await.expect("nothing to give back");
        two.commit(by(third, made())).await.expect("its own");
    })
    .await;
}

#[tokio::test]
async fn nobody_brings_back_what_another_has_forgotten() {
    on_two_of_each(async |one, two| {
        let (mine, id) = (key("a", "s"), CliSessionId::fresh());
        one.commit(commit(&mine, record(id, 1), vec![])).await.expect("kept");
        let epoch = one.claim(&mine).await.expect("claimed");
        assert_eq!(two.forget(&mine, Instant::now()).await, Ok(Some(vec![id])));
        assert!(is_fenced(one.commit(by(epoch, commit(&mine, record(id, 2), vec![]))).await));
        assert_eq!(one.load(&mine).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn what_an_earlier_life_of_the_service_had_claimed_can_be_claimed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let store = open(&file).await.expect("open");
    store.commit(commit(&mine, record(id, 1), vec![])).await.expect("kept");
    store.claim(&mine).await.expect("claimed");
    // Dropped as a killed service drops it: nothing is given back.
    drop(store);
    let store = open(&file).await.expect("open");
    let epoch = store.claim(&mine).await.expect("claimed");
    store.commit(by(epoch, commit(&mine, record(id, 2), vec![]))).await.expect("its own");
}
