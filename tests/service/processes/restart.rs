//! The service ends, in order or not, and another life of it goes on where it was: what a
//! caller was told is there.

use std::{fs, path::Path};

use rustix::process::Signal;
use session_pool::proto::{
    AttachRequest, CloseSessionRequest, GetSessionRequest, GetStatsRequest, InterruptOutcome,
    InterruptRequest, ListSessionsRequest, Session, SessionOptions, SessionStatus, TurnOrigin,
    UpdateSessionRequest,
};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::support::{
    daemon::Daemon,
    failure,
    service::{query, script},
};

async fn recite(daemon: &Daemon, session: &str) -> Vec<String> {
    let turn = daemon.run(session, &script(&["recite"])).await;
    let said = turn.result().result.lines().map(str::to_owned);
    // What it was asked to recite before is a part of the conversation too.
    said.filter(|line| !line.contains("recite")).collect()
}

async fn stop(mut daemon: Daemon) -> TempDir {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    daemon.state
}

async fn listed(daemon: &Daemon) -> Vec<Session> {
    let request = ListSessionsRequest { page_size: 2, ..ListSessionsRequest::default() };
    let (mut sessions, mut request) = (Vec::new(), request);
    loop {
        let page = daemon.client.clone().list_sessions(request.clone()).await.expect("listed");
        let page = page.into_inner();
        assert!(page.sessions.len() <= 2);
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            return sessions;
        }
        request.page_token = page.next_page_token;
    }
}

async fn get(daemon: &Daemon, session: &str) -> Result<Session, Status> {
    let request = GetSessionRequest { session_id: session.into() };
    Ok(daemon.client.clone().get_session(request).await?.into_inner().session.expect("one"))
}

#[tokio::test]
async fn a_service_that_was_stopped_goes_on_where_it_was() {
    let daemon = Daemon::start(&[]).await;
    for session in ["a", "b", "c"] {
        daemon.run(session, &format!("I am {session}")).await.result();
    }
    let before = get(&daemon, "a").await.expect("there");
    let daemon = Daemon::start_in(stop(daemon).await, &[]).await;

    let sessions = listed(&daemon).await;
    let shown: Vec<_> = sessions.iter().map(|s| (s.session_id.as_str(), s.status())).collect();
    let hibernated = SessionStatus::Hibernated;
    assert_eq!(shown, [("a", hibernated), ("b", hibernated), ("c", hibernated)]);
    let after = get(&daemon, "a").await.expect("there");
    assert_eq!(after.cli_session_id, before.cli_session_id);
    assert_eq!(
        (after.message_count, after.create_time.map(|t| t.seconds)),
        (1, before.create_time.map(|t| t.seconds))
    );
    let stats = daemon.client.clone().get_stats(GetStatsRequest::default()).await;
    let stats = stats.expect("answered").into_inner();
    assert_eq!((stats.total_sessions, stats.hibernated_sessions, stats.processes), (3, 3, 0));
    assert_eq!(stats.total_messages, 3, "totals go on");
    assert!(stats.total_cost_usd > 0.0);

    let turn = daemon.run("b", &script(&["recite"])).await;
    assert_eq!(turn.result().result, "I am b");
    assert_eq!(turn.started().origin(), TurnOrigin::Resumed);
    // Live and hibernated sessions share the pages.
    let sessions = listed(&daemon).await;
    let shown: Vec<_> = sessions.iter().map(|s| (s.session_id.as_str(), s.status())).collect();
    assert_eq!(shown, [("a", hibernated), ("b", SessionStatus::Active), ("c", hibernated)]);
    stop(daemon).await;
}

#[tokio::test]
async fn what_a_caller_was_told_survives_a_kill_at_that_instant() {
    let mut daemon = Daemon::start(&[]).await;
    let mut said = Vec::new();
    for number in 0..50 {
        let prompt = format!("number {number}");
        daemon.run("s", &prompt).await.result();
        said.push(prompt);
        daemon = Daemon::start_in(daemon.killed().await, &[]).await;
    }
    assert_eq!(recite(&daemon, "s").await, said);
    stop(daemon).await;
}

#[tokio::test]
async fn a_turn_that_was_cut_is_lost_and_nothing_before_it() {
    let daemon = Daemon::start(&[]).await;
    daemon.run("s", "remember me").await.result();
    let mut turn = daemon.open(query("s", &script(&["say half", "hang"]))).await;
    turn.until_text("half").await;
    let daemon = Daemon::start_in(daemon.killed().await, &[]).await;
    turn.finish().await;
    assert_ne!(turn.error().code(), Code::Ok, "the connection broke");
    assert_eq!(recite(&daemon, "s").await[0], "remember me");
    stop(daemon).await;
}

#[tokio::test]
async fn calls_about_a_hibernated_session_find_it() {
    let daemon = Daemon::start(&[]).await;
    for session in ["attach", "close", "forget", "interrupt", "keep", "update"] {
        daemon.run(session, "remember me").await.result();
    }
    let daemon = Daemon::start_in(stop(daemon).await, &[]).await;
    let mut client = daemon.client.clone();

    let request = AttachRequest { session_id: "attach".into(), ..AttachRequest::default() };
    let status = client.attach(request).await.expect_err("its turns are gone");
    failure(&status, Code::NotFound, "TURN_NOT_FOUND");
    let options = Some(SessionOptions { model: Some("opus".into()), ..SessionOptions::default() });
    let request = UpdateSessionRequest { session_id: "update".into(), options };
    let updated = client.update_session(request).await.expect("changed").into_inner();
    assert_eq!(updated.changed_options, ["model"]);
    for (session_id, keep_session) in [("interrupt", false), ("keep", true)] {
        let request = InterruptRequest {
            session_id: session_id.into(),
            keep_session,
            ..InterruptRequest::default()
        };
        let answer = client.interrupt(request).await.expect("answered").into_inner();
        assert_eq!(answer.outcome(), InterruptOutcome::NoActiveTurn);
    }
    for (session_id, forget) in [("close", false), ("forget", true)] {
        let request = CloseSessionRequest { session_id: session_id.into(), forget };
        client.close_session(request).await.expect("closed");
    }

    // What left the pool is not listed, also by the next life; it goes on all the same.
    let daemon = Daemon::start_in(daemon.killed().await, &[]).await;
    let sessions = listed(&daemon).await;
    let names: Vec<&str> = sessions.iter().map(|session| session.session_id.as_str()).collect();
    assert_eq!(names, ["attach", "keep", "update"]);
    assert_eq!(sessions[2].options.as_ref().and_then(|o| o.model.as_deref()), Some("opus"));
    let status = get(&daemon, "close").await.expect_err("not in the pool");
    failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
    assert_eq!(recite(&daemon, "close").await, ["remember me"]);
    assert_eq!(recite(&daemon, "interrupt").await, ["remember me"]);
    assert_eq!(recite(&daemon, "forget").await, [""; 0]);
    stop(daemon).await;
}

/// Whether a text is in any file below a folder.
fn holds(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).expect("readable").filter_map(Result::ok).any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        let content = fs::read(&path).unwrap_or_default();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn what_is_forgotten_is_in_no_file_any_more() {
    let daemon = Daemon::start(&[]).await;
    daemon.run("s", "an-unmistakable-secret").await.result();
    assert!(holds(daemon.state.path(), "an-unmistakable-secret"));
    let request = CloseSessionRequest { session_id: "s".into(), forget: true };
    daemon.client.clone().close_session(request).await.expect("closed");
    let state = stop(daemon).await;
    assert!(!holds(state.path(), "an-unmistakable-secret"));
}

#[tokio::test]
async fn what_nobody_used_for_long_is_forgotten() {
    let settings = [
        ("STORE__RETENTION", "1s"),
        ("POOL__IDLE_THRESHOLD", "100ms"),
        ("POOL__CLEANUP_INTERVAL", "100ms"),
    ];
    let daemon = Daemon::start(&settings).await;
    daemon.run("s", "another-secret").await.result();
    crate::support::eventually("it is forgotten", async || {
        let gone = get(&daemon, "s").await.is_err();
        (gone && !holds(&daemon.state.path().join("tenants"), "another-secret")).then_some(())
    })
    .await;
    assert_eq!(recite(&daemon, "s").await, [""; 0]);
    stop(daemon).await;
}

#[tokio::test]
async fn hibernated_sessions_count_and_leave_when_they_are_idle_for_long() {
    let daemon = Daemon::start(&[]).await;
    for session in ["a", "b"] {
        daemon.run(session, "hello").await.result();
    }
    let settings = [("POOL__MAX_SESSIONS", "2")];
    let daemon = Daemon::start_in(stop(daemon).await, &settings).await;
    let status = daemon.client.clone().query(query("c", "hello")).await.expect_err("full");
    failure(&status, Code::ResourceExhausted, "POOL_AT_CAPACITY");
    daemon.run("a", "again").await.result();
    let settings = [("POOL__IDLE_THRESHOLD", "1ms"), ("POOL__CLEANUP_INTERVAL", "50ms")];
    let daemon = Daemon::start_in(stop(daemon).await, &settings).await;
    crate::support::eventually("they leave", async || {
        listed(&daemon).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(recite(&daemon, "b").await, ["hello"]);
    stop(daemon).await;
}

#[tokio::test]
async fn a_budget_of_the_day_is_not_new_after_a_restart() {
    let settings = [("POLICY__TENANT_MAX_COST_USD_PER_DAY", "0.000000001")];
    // A session without a name leaves nothing but what it cost.
    for session in ["s", ""] {
        let daemon = Daemon::start(&settings).await;
        assert!(daemon.run(session, "hello").await.result().total_cost_usd > 0.0);
        crate::support::eventually("the end of a session without a name", async || {
            let stats = daemon.client.clone().get_stats(GetStatsRequest::default()).await;
            let sessions = stats.expect("answered").into_inner().total_sessions;
            (sessions == u32::from(!session.is_empty())).then_some(())
        })
        .await;
        let daemon = Daemon::start_in(daemon.killed().await, &settings).await;
        let status = daemon.client.clone().query(query("t", "again")).await.expect_err("refused");
        failure(&status, Code::ResourceExhausted, "TENANT_QUOTA_EXCEEDED");
        stop(daemon).await;
    }
}

#[tokio::test]
async fn a_store_in_memory_ends_with_the_service() {
    let settings = [("STORE__KIND", "memory")];
    let daemon = Daemon::start(&settings).await;
    daemon.run("s", "remember me").await.result();
    let daemon = Daemon::start_in(stop(daemon).await, &settings).await;
    assert!(listed(&daemon).await.is_empty());
    assert!(!daemon.state.path().join("session-pool.db").exists());
    stop(daemon).await;
}

#[tokio::test]
async fn a_transcript_that_was_damaged_is_written_back() {
    let daemon = Daemon::start(&[]).await;
    let first = daemon.run("s", "one").await;
    let name = format!("{}.jsonl", first.started().cli_session_id);
    let find = |state: &Path| -> std::path::PathBuf {
        let projects = state.join("tenants/default/claude/projects");
        let folders = fs::read_dir(projects).expect("readable").filter_map(Result::ok);
        folders.map(|folder| folder.path().join(&name)).find(|file| file.exists()).expect("there")
    };
    let mut said = vec!["one".to_owned()];
    let mut daemon = daemon;
    for damage in ["delete", "truncate", "rubbish", "empty"] {
        let state = daemon.killed().await;
        let file = find(state.path());
        let text = fs::read(&file).expect("readable");
        match damage {
            "delete" => fs::remove_file(&file).expect("removed"),
            "truncate" => fs::write(&file, &text[..text.len() / 2]).expect("written"),
            "rubbish" => fs::write(&file, b"{\"type\":\"user\"}\n\0\xff rubbish").expect("written"),
            _ => fs::write(&file, b"").expect("written"),
        }
        daemon = Daemon::start_in(state, &[]).await;
        assert_eq!(recite(&daemon, "s").await, said, "{damage}");
        daemon.run("s", damage).await.result();
        said.push(damage.to_owned());
    }
    stop(daemon).await;
}

#[tokio::test]
async fn a_database_that_is_none_stops_the_start() {
    let state = TempDir::new().expect("a folder");
    fs::write(state.path().join("session-pool.db"), "not a database ".repeat(1000))
        .expect("written");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_session-pool"));
    command
        .arg("serve")
        .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
        .env("SESSION_POOL__STATE_DIR", state.path());
    let output = command.output().expect("it ends");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("session-pool.db") && told.contains("not a database"), "{told}");
}
