//! A state folder of version 0.1.0, as that version left it on the scripted CLI
//! (`state-0.1.0`; its write-ahead log was moved into the database): this version takes it up.
//! Session `kept` has heard `say one`, `say two` and `recite`, `with-options` was begun with a
//! model, `closed` was closed and not forgotten.

use std::{
    fs,
    path::{Path, PathBuf},
};

use session_pool::{
    proto::{
        GetSessionRequest, ListSessionsRequest, QueryRequest, SessionOptions, SessionStatus,
        TurnOrigin,
    },
    server::Server,
};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::service::{Service, fake_cli, process_tree, query, script};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("read").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), &target).expect("copied")),
        }
    }
}

/// A copy of what 0.1.0 left.
fn state() -> TempDir {
    let left = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let state = TempDir::new().expect("a folder");
    copy(&left.join("tests/service/contract/state-0.1.0"), state.path());
    state
}

async fn listed(service: &Service) -> Vec<(String, SessionStatus)> {
    let listed = service.client.clone().list_sessions(ListSessionsRequest::default()).await;
    let sessions = listed.expect("listed").into_inner().sessions;
    sessions.into_iter().map(|it| (it.session_id.clone(), it.status())).collect()
}

#[tokio::test]
async fn a_state_folder_of_0_1_0_is_taken_up() {
    let state = state();
    let service = Service::with(fake_cli(state.path()), state).await;
    let hibernated = SessionStatus::Hibernated;
    let expected = [("kept".to_owned(), hibernated), ("with-options".to_owned(), hibernated)];
    assert_eq!(listed(&service).await, expected);

    let stats = service.stats().await;
    assert_eq!((stats.total_sessions, stats.hibernated_sessions, stats.total_messages), (2, 2, 5));
    assert!((stats.total_cost_usd - 0.00123).abs() < 1e-12, "{}", stats.total_cost_usd);
    let counters = stats.counters.expect("counters");
    assert_eq!((counters.turns_completed, counters.sessions_created, counters.frames), (5, 3, 45));
    let usage = stats.usage.expect("tokens");
    assert_eq!((usage.input_tokens, usage.output_tokens), (50, 25));

    let request = GetSessionRequest { session_id: "with-options".to_owned() };
    let shown = service.client.clone().get_session(request).await.expect("there").into_inner();
    let options = shown.session.expect("a session").options.expect("options");
    assert_eq!(options.model.as_deref(), Some("opus"));

    // Conversations go on, also of a session that was closed.
    let turn = service.query("kept", &script(&["recite"])).await;
    assert_eq!(turn.started().origin(), TurnOrigin::Resumed);
    let said = &turn.result().result;
    assert!(said.contains("say one") && said.contains("say two"), "{said}");
    let turn = service.query("closed", &script(&["recite"])).await;
    assert!(turn.result().result.contains("say four"), "{:?}", turn.result());
    service.stop().await;
}

#[tokio::test]
async fn what_0_1_0_counted_and_what_was_counted_since_is_kept_together() {
    let state = state();
    let service = Service::with(fake_cli(state.path()), state).await;
    let request = QueryRequest {
        options: Some(SessionOptions::default()),
        ..query("new", &script(&["say five"]))
    };
    let mut turn = service.open(request).await.expect("taken");
    turn.finish().await;
    let before = service.stats().await;
    let (_, state) = service.end().await;
    let service = Service::with(fake_cli(state.path()), state).await;
    let after = service.stats().await;
    assert_eq!((after.total_messages, before.total_messages), (6, 6));
    assert!((after.total_cost_usd - before.total_cost_usd).abs() < 1e-12, "{after:?}");
    assert_eq!(after.usage, before.usage);
    assert_eq!(after.total_sessions, 3);
    service.stop().await;
}

#[tokio::test]
async fn a_database_that_is_one_migration_ahead_is_refused_by_name() {
    let state = state();
    let service = Service::with(fake_cli(state.path()), state).await;
    let (_, state) = service.end().await;
    let file = state.path().join("session-pool.db");
    let mut database = SqliteConnectOptions::new().filename(&file).connect().await.expect("opened");
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT MAX(version) + 1, 'next', 1, x'00', 0 FROM _sqlx_migrations",
    )
    .execute(&mut database)
    .await
    .expect("written");
    drop(database);
    let refused = Server::bind(fake_cli(state.path()), process_tree()).await;
    let text = format!("{:#}", refused.expect_err("refused"));
    assert!(text.contains("session-pool.db") && text.contains("newer version"), "{text}");
}
