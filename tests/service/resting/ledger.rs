//! Sessions without processes cost next to nothing, however many there are.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use session_pool::{
    internals::{
        counters::{Spent, Totals},
        domain::{
            acquired::Acquired,
            ids::{CliSessionId, SessionId, SessionKey, TenantId},
            options::Options,
        },
        store::{Commit, Epoch, Opening, Record, SqlStore, Store as _},
        tasks::Tasks,
    },
    proto::{ListSessionsRequest, SessionStatus},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{
    daemon::Daemon,
    service::{query, script},
};

const SESSIONS: usize = 10_000;

/// What one of them may cost, in bytes.
const BOUND: u64 = 2048;

fn name(number: usize) -> String {
    format!("session-{number:05}-of-a-caller-with-long-names")
}

fn commit(number: usize) -> Commit {
    let session = SessionId::parse(&name(number)).expect("a name");
    let options =
        Options { system_prompt: Some("You are brief. ".repeat(20)), ..Options::default() };
    Commit {
        key: SessionKey::new(TenantId::default(), session),
        epoch: Epoch::NONE,
        releases: false,
        record: Record {
            cli_session_id: CliSessionId::fresh(),
            options,
            acquired: Acquired::default(),
            create_time: SystemTime::now(),
            last_used_time: SystemTime::now(),
            age: Duration::ZERO,
            unused_for: Duration::ZERO,
            message_count: 3,
            error_count: 0,
            spent: Spent::default(),
            reported_cost_usd: 0.0,
            in_pool: true,
            epoch: Epoch::NONE,
        },
        turn: None,
        lines: Arc::default(),
        totals: Totals::default(),
    }
}

/// A state folder with a ledger of an earlier life.
async fn state_with(sessions: usize) -> TempDir {
    let state = TempDir::new().expect("a folder");
    let tasks = Tasks::default();
    let file = state.path().join("session-pool.db");
    let store = Arc::new(SqlStore::open(&file, Opening::default(), &tasks).await.expect("opened"));
    // As many at once as one transaction takes.
    for first in (0..sessions).step_by(256) {
        let mut commits = JoinSet::new();
        for number in first..sessions.min(first + 256) {
            let store = Arc::clone(&store);
            commits.spawn(async move { store.commit(commit(number)).await });
        }
        for committed in commits.join_all().await {
            committed.expect("committed");
        }
    }
    drop(store);
    assert!(tasks.stop(Duration::from_secs(5)).await);
    state
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.split_whitespace().next().expect("kB").parse::<u64>().expect("a number") << 10
}

async fn started(sessions: usize) -> (Daemon, u64) {
    let settings = [("POOL__MAX_SESSIONS", "20000")];
    let daemon = Daemon::start_in(state_with(sessions).await, &settings).await;
    let memory = resident(daemon.id());
    (daemon, memory)
}

#[tokio::test]
async fn ten_thousand_sessions_cost_two_kilobytes_each_at_most() {
    let (none, empty) = started(0).await;
    let (daemon, full) = started(SESSIONS).await;
    let each = full.saturating_sub(empty) / SESSIONS as u64;
    println!("{each} bytes for each session");
    assert!(each <= BOUND, "{each} bytes: {empty} without and {full} with {SESSIONS} sessions");
    drop(none.killed().await);

    let mut names = Vec::new();
    let mut request = ListSessionsRequest { page_size: 700, ..ListSessionsRequest::default() };
    loop {
        let page = daemon.client.clone().list_sessions(request.clone()).await.expect("listed");
        let page = page.into_inner();
        assert!(page.sessions.iter().all(|it| it.status() == SessionStatus::Hibernated));
        names.extend(page.sessions.into_iter().map(|it| it.session_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, (0..SESSIONS).map(name).collect::<Vec<_>>(), "each once and in order");

    // One of them goes on, and is one of many all the same.
    let mut turn = daemon.open(query(&name(7000), &script(&["say there"]))).await;
    turn.finish().await;
    assert_eq!(turn.text(), "there");
    drop(daemon.killed().await);
}
