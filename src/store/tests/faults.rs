//! A database that cannot be written to for a while, that others hold, or that is not what
//! it was.

use sqlx::ConnectOptions as _;

use super::*;

/// What another connection to the file sees.
async fn sessions_in(file: &Path) -> Vec<String> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = options.connect().await.expect("opened");
    sqlx::query_scalar("SELECT session_id FROM sessions ORDER BY session_id")
        .fetch_all(&mut connection)
        .await
        .expect("read")
}

#[tokio::test]
async fn a1_a_failed_transaction_never_swallows_later_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let store = open(&file).await.expect("open");
    let first = commit(&key("a", "first"), record(CliSessionId::fresh(), 1), vec![]);
    store.commit(first).await.expect("kept");
    let mut database = connection::Database::of(&file).expect("there");
    let work = async |database: &mut connection::Database, name: &str, fails: bool| {
        let until = tokio::time::Instant::now() + Duration::from_secs(5);
        let mut transaction = database.begin(0, |_| true).await.expect("begun");
        if fails {
            // SQLite rolls this one back by itself, and the depth that anybody counts is off.
            let connection = transaction.connection();
            connection.batch("PRAGMA max_page_count = 1").expect("set");
        }
        let big = line(CliSessionId::fresh(), "", None, &"x".repeat(100_000));
        let one = commit(&key("a", name), record(big.conversation, 1), vec![big]);
        let kept = keeping::keep(transaction.connection(), &one, "writer", 0).await;
        match kept {
            Ok(kept) => kept.and(transaction.commit(until).await),
            Err(error) => {
                transaction.abandon().await;
                Err(error)
            }
        }
    };
    for name in ["one", "two"] {
        let error = work(&mut database, name, true).await.expect_err("full");
        assert!(error.is_temporary() && error.to_string().contains("full"), "{error}");
    }
    work(&mut database, "three", false).await.expect("room again");
    assert_eq!(sessions_in(&file).await, ["first", "three"], "what is told is in the file");
}

#[tokio::test]
async fn a1_a_transaction_that_is_dropped_holds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let store = open(&file).await.expect("open");
    let mut database = connection::Database::of(&file).expect("there");
    drop(database.begin(0, |_| true).await.expect("begun"));
    let one = commit(&key("a", "one"), record(CliSessionId::fresh(), 1), vec![]);
    store.commit(one).await.expect("nobody holds the database");
    assert_eq!(sessions_in(&file).await, ["one"]);
}

#[tokio::test]
async fn a1_a_database_that_cannot_be_read_is_told_as_a_disk_that_fails() {
    use std::os::unix::fs::FileExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    drop(open(&file).await.expect("open"));
    let store = open(&file).await.expect("open");
    // All but the first page, which says that it is a database. SQLite says the same of a
    // page that the disk does not read.
    let opened = std::fs::File::options().write(true).open(&file).expect("opened");
    let length = opened.metadata().expect("there").len();
    opened.write_all_at(&vec![0xff; length as usize - 4096], 4096).expect("overwritten");
    let error = store.load(&key("a", "s")).await.expect_err("it cannot be read");
    assert!(error.to_string().contains("malformed") && error.is_temporary(), "{error}");
}

#[tokio::test]
async fn a1_nothing_is_told_kept_in_a_file_that_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let store = open(&file).await.expect("open");
    let one = || commit(&key("a", "one"), record(CliSessionId::fresh(), 1), vec![]);
    store.commit(one()).await.expect("kept");
    std::fs::remove_file(&file).expect("removed");
    assert!(store.commit(one()).await.expect_err("gone").is_temporary());
    let reason = store.status().borrow().failing.clone().expect("it fails").reason;
    assert!(reason.contains("database file"), "{reason}");
    std::fs::write(&file, "").expect("another one");
    let error = store.commit(one()).await.expect_err("another file").to_string();
    assert!(error.contains("replaced"), "{error}");
}

#[tokio::test]
async fn a3_orders_wait_for_a_lock_together_and_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let opening = Opening { commit_timeout: Duration::from_secs(2), ..Opening::default() };
    let store = SqlStore::open(&file, opening, &Tasks::default()).await.expect("open");
    let mut other = opening::options(&file).connect().await.expect("opened");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
    let store = Arc::new(store);
    let began = tokio::time::Instant::now();
    let ask = |name: &str| {
        let (store, key) = (Arc::clone(&store), key("a", name));
        crate::tasks::spawn_owned(async move {
            store.commit(commit(&key, record(CliSessionId::fresh(), 1), vec![])).await
        })
    };
    let asked: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(ask).into();
    for one in asked {
        let error = one.await.expect("ended").expect_err("locked");
        assert!(error.is_temporary() && error.to_string().contains("locked"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}: one after the other", began.elapsed());
    assert!(store.status().borrow().failing.is_some());
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("free");
    let mut status = store.status();
    status.wait_for(|status| status.failing.is_none()).await.expect("well by itself");
    ask("7").await.expect("ended").expect("kept");
    assert_eq!(sessions_in(&file).await, ["7"], "what was refused is not there");
}

#[tokio::test]
async fn a4_conversations_age_by_what_was_seen_and_not_by_the_wall() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let store = open(&file).await.expect("open");
    let mine = key("a", "s");
    // Its wall time is of 1970: by the wall it is as old as can be.
    store.commit(commit(&mine, record(CliSessionId::fresh(), 1), vec![])).await.expect("kept");
    let old = async |store: &SqlStore, time| store.unused_for(time, 10).await.expect("read");
    assert_eq!(old(&store, Duration::from_secs(600)).await, []);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(old(&store, Duration::from_millis(20)).await, std::slice::from_ref(&mine));
    drop(store);
    // Between two lives of the service no time is seen to pass.
    let store = open(&file).await.expect("open");
    assert_eq!(old(&store, Duration::from_secs(600)).await, []);
    assert_eq!(store.in_pool().await, Ok(vec![(mine.tenant.clone(), 1)]));
    let listed = store.list(&mine.tenant, None, 9).await.expect("read");
    assert_eq!(listed[0].0, mine.session);
}

#[tokio::test]
async fn a5_a_database_of_a_newer_version_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    drop(open(&file).await.expect("open"));
    let mut other = opening::options(&file).connect().await.expect("opened");
    let newer = "INSERT INTO _sqlx_migrations \
        (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'00', 0)";
    sqlx::raw_sql(newer).execute(&mut other).await.expect("written");
    let error = open(&file).await.expect_err("refused").to_string();
    assert!(error.contains("newer version") && error.contains("9999"), "{error}");
}

#[tokio::test]
async fn a7_a_log_that_a_reader_has_made_grow_is_cut_when_it_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let store = open(&file).await.expect("open");
    let id = CliSessionId::fresh();
    store.commit(commit(&key("a", "s"), record(id, 1), vec![])).await.expect("kept");
    let mut reader = opening::options(&file).connect().await.expect("opened");
    sqlx::raw_sql("BEGIN; SELECT * FROM sessions").execute(&mut reader).await.expect("reads");
    let text = "x".repeat(4 << 20);
    for _ in 0..20 {
        let lines = vec![line(id, "", None, &text)];
        store.commit(commit(&key("a", "s"), record(id, 1), lines)).await.expect("kept");
    }
    let mut status = store.status();
    let grown = |status: &StoreStatus| status.log_bytes > opening::LOG_BYTES;
    status.wait_for(grown).await.expect("seen");
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.expect("ended");
    loop {
        let one = commit(&key("a", "s"), record(id, 1), vec![]);
        store.commit(one).await.expect("kept");
        let log_bytes = store.status().borrow().log_bytes;
        if log_bytes <= opening::LOG_BYTES {
            break;
        }
        status.changed().await.expect("it goes on");
    }
}
