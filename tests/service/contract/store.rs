//! What the store promises, seen by callers and operators: what was told is there, what was
//! forgotten is gone, and nothing else is lost.

use std::{fs, path::PathBuf, time::Duration};

use session_pool::{config::Config, proto::CloseSessionRequest, server::Server};
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tonic::Code;

use crate::support::{
    eventually, failure, log,
    service::{Service, fake_cli, process_tree, script},
};

fn file(state: &TempDir) -> PathBuf {
    state.path().join("session-pool.db")
}

/// A connection of somebody else's.
async fn connect(state: &TempDir) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file(state)).create_if_missing(false);
    options.connect().await.expect("opened")
}

/// A service that was used and has ended; what it left.
async fn used() -> TempDir {
    let service = Service::start(|_| {}).await;
    service.query("kept", &script(&["say one"])).await.result();
    service.end().await.1
}

async fn begin(state: &TempDir, change: impl FnOnce(&mut Config)) -> anyhow::Result<Server> {
    let mut config = fake_cli(state.path());
    change(&mut config);
    Server::bind(config, process_tree()).await
}

#[tokio::test]
async fn a2_what_is_told_as_forgotten_is_gone_and_what_is_not_can_be_tried_again() {
    for hibernated in [false, true] {
        let service = Service::start(|config| {
            config.store.commit_timeout = Duration::from_millis(300);
            if hibernated {
                config.pool.hibernate_after = Duration::from_millis(10);
            }
        })
        .await;
        service.query("a", &script(&["say one"])).await.result();
        if hibernated {
            eventually("it hibernates", async || {
                (service.stats().await.hibernated_sessions == 1).then_some(())
            })
            .await;
        }
        let mut other = connect(&service.state).await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
        let request = CloseSessionRequest { session_id: "a".into(), forget: true };
        let mut client = service.client.clone();
        let refused = client.close_session(request.clone()).await.expect_err("it is still there");
        failure(&refused, Code::Unavailable, "STORE_UNAVAILABLE");
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("unlocked");
        client.close_session(request.clone()).await.expect("the same again");
        let turn = service.query("a", &script(&["recite"])).await;
        assert!(!turn.result().result.contains("say one"), "{:?}", turn.result().result);
        service.stop().await;
    }
}

#[tokio::test]
async fn a4_a_clock_on_the_wall_that_jumps_erases_nothing() {
    let state = used().await;
    // By the wall nobody has used it for half a century.
    let mut other = connect(&state).await;
    sqlx::raw_sql("UPDATE sessions SET last_used_ms = 1, created_ms = 1")
        .execute(&mut other)
        .await
        .expect("written");
    drop(other);
    let retention = |config: &mut Config| {
        config.store.retention = Duration::from_secs(3600);
        config.pool.cleanup_interval = Duration::from_millis(20);
    };
    let mut config = fake_cli(state.path());
    retention(&mut config);
    let service = Service::with(config, state).await;
    // Rounds of the cleanup that would have found it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(service.stats().await.total_sessions, 1, "nor does it leave the pool");
    let turn = service.query("kept", &script(&["recite"])).await;
    assert!(turn.result().result.contains("say one"), "{:?}", turn.result().result);
    service.stop().await;
}

#[tokio::test]
async fn a4_what_is_erased_by_age_is_logged_with_its_id() {
    let service = Service::start(|config| {
        config.store.retention = Duration::from_millis(200);
        config.pool.cleanup_interval = Duration::from_millis(50);
        config.pool.idle_threshold = Duration::from_millis(10);
    })
    .await;
    service.query("a4-erased", &script(&["say one"])).await.result();
    eventually("it is erased", async || {
        log::mentioning("conversation_forgotten")
            .into_iter()
            .find(|logged| format!("{logged:?}").contains("a4-erased"))
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a5_a_lost_database_is_no_empty_one() {
    for lose in [
        |file: &PathBuf| fs::remove_file(file).expect("removed"),
        |file: &PathBuf| fs::write(file, "").expect("cut"),
    ] {
        let state = used().await;
        lose(&file(&state));
        let error = begin(&state, |_| {}).await.expect_err("refused");
        let text = format!("{error:#}");
        assert!(text.contains("session-pool.db"), "{text}");
        assert!(text.contains("tenants") && text.contains("store.allow_empty"), "{text}");
        // Refused before anything is touched: whoever restores a backup has lost nothing.
        assert!(!file(&state).exists() || fs::read(file(&state)).expect("read").is_empty());
        let mut config = fake_cli(state.path());
        config.store.allow_empty = true;
        let service = Service::with(config, state).await;
        assert_eq!(service.stats().await.total_sessions, 0);
        service.query("kept", &script(&["say anew"])).await.result();
        service.stop().await;
    }
}

#[tokio::test]
async fn a5_a_file_that_is_no_database_of_ours_is_refused_by_name() {
    let state = used().await;
    fs::write(file(&state), "no database".repeat(1000)).expect("written");
    let error = begin(&state, |_| {}).await.expect_err("refused");
    let text = format!("{error:#}");
    assert!(text.contains("session-pool.db") && text.contains("not a database"), "{text}");
}
