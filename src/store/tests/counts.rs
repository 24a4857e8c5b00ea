//! What was counted is added up, and each of it once.

use sqlx::ConnectOptions as _;

use super::*;

fn counted(turns: u64, cost_usd: f64) -> Totals {
    Totals {
        counts: [("turns".to_owned(), turns)].into(),
        spent: Spent {
            cost_usd,
            usage: TokenUsage { output_tokens: 10 * turns, ..TokenUsage::default() },
        },
        today: Today { day: 20_000, cost_usd },
    }
}

#[tokio::test]
async fn what_two_services_have_counted_is_added_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let (one, two) = (open(&file).await.expect("open"), open(&file).await.expect("open"));
    let tenant = TenantId::default();
    one.count(&tenant, counted(2, 0.5)).await.expect("kept");
    two.count(&tenant, counted(3, 0.25)).await.expect("kept");
    one.count(&tenant, counted(4, 1.5)).await.expect("kept");
    let totals = one.totals().await.expect("read");
    assert_eq!(totals, [(tenant.clone(), counted(7, 1.75))]);
    assert_eq!(two.totals().await, Ok(totals));
    // The next day begins anew, and all of it is one sum.
    let tomorrow = Today { day: 20_001, cost_usd: 0.125 };
    let next = Totals { today: tomorrow, ..counted(5, 1.625) };
    one.count(&tenant, next).await.expect("kept");
    let expected = Totals { today: tomorrow, ..counted(8, 1.875) };
    assert_eq!(two.totals().await, Ok(vec![(tenant, expected)]));
}

#[tokio::test]
async fn what_is_told_twice_or_late_is_counted_once() {
    on_each(async |store| {
        let tenant = TenantId::default();
        for turns in [1, 3, 3, 2, 3] {
            store.count(&tenant, counted(turns, 0.5)).await.expect("kept");
        }
        assert_eq!(store.totals().await, Ok(vec![(tenant, counted(3, 0.5))]));
    })
    .await;
}

#[tokio::test]
async fn what_a_commit_that_failed_had_counted_is_in_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let opening = Opening { commit_timeout: Duration::from_millis(100), ..Opening::default() };
    let store = SqlStore::open(&file, opening, &Tasks::default()).await.expect("open");
    let (mine, id) = (key("a", "s"), CliSessionId::fresh());
    let with = |totals: Totals| Commit { totals, ..commit(&mine, record(id, 1), vec![]) };
    store.commit(with(counted(1, 0.5))).await.expect("kept");
    let mut other = opening::options(&file).connect().await.expect("opened");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
    store.commit(with(counted(2, 0.75))).await.expect_err("locked");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("free");
    assert_eq!(store.totals().await, Ok(vec![(mine.tenant.clone(), counted(1, 0.5))]));
    store.commit(with(counted(3, 1.0))).await.expect("kept");
    assert_eq!(store.totals().await, Ok(vec![(mine.tenant.clone(), counted(3, 1.0))]));
    // What was refused for its own sake counts nothing either.
    let theirs = key("a", "other");
    let forged = Commit { totals: counted(9, 9.0), ..commit(&theirs, record(id, 1), vec![]) };
    store.commit(forged).await.expect_err("another's conversation");
    assert_eq!(store.totals().await, Ok(vec![(mine.tenant, counted(3, 1.0))]));
}

#[tokio::test]
async fn lives_that_are_long_over_are_not_remembered_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    let tenant = TenantId::default();
    for _ in 0..70 {
        let tasks = Tasks::default();
        let store = SqlStore::open(&file, Opening::default(), &tasks).await.expect("open");
        store.count(&tenant, counted(1, 0.5)).await.expect("kept");
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
    let mut other = opening::options(&file).connect().await.expect("opened");
    let remembered: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM counted")
        .fetch_one(&mut other)
        .await
        .expect("read");
    assert!(remembered <= 64, "{remembered}");
    let store = open(&file).await.expect("open");
    assert_eq!(store.totals().await, Ok(vec![(tenant, counted(70, 35.0))]));
}
