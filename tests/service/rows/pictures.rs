//! s18, s19, s24: what GetSession, ListSessions and GetStats say.

use std::time::Duration;

use session_pool::proto::{InterruptOutcome, Session, SessionOptions, SessionStatus};
use tonic::Code;

use crate::support::{
    eventually, failure,
    service::{Service, model, query, query_with, script},
};

fn seconds(duration: Option<prost_types::Duration>) -> f64 {
    let duration = duration.expect("a duration");
    duration.seconds as f64 + f64::from(duration.nanos) / 1e9
}

#[tokio::test]
async fn s18_whether_a_session_is_in_the_pool() {
    let service = Service::start(|_| {}).await;
    failure(&service.session("a").await.expect_err("not yet"), Code::NotFound, "SESSION_NOT_FOUND");
    service.query("a", "hello").await.result();
    assert_eq!(service.session("a").await.expect("there").session_id, "a");
    service.close("a", false).await.expect("closed");
    failure(&service.session("a").await.expect_err("gone"), Code::NotFound, "SESSION_NOT_FOUND");
    service.stop().await;
}

#[tokio::test]
async fn s19_the_figures_of_the_pool() {
    let service = Service::start(|config| config.pool.max_sessions = 7).await;
    let empty = service.stats().await;
    assert!(empty.enabled && !empty.draining);
    assert_eq!((empty.total_sessions, empty.active_sessions, empty.max_sessions), (0, 0, 7));
    assert_eq!((empty.total_messages, empty.processes, empty.max_processes), (0, 0, 64));
    assert_eq!((seconds(empty.session_ttl), seconds(empty.cleanup_interval)), (3600.0, 300.0));
    assert_eq!(empty.service_version, env!("CARGO_PKG_VERSION"));

    service.query("a", "one").await.result();
    service.query("a", "two").await.result();
    service.query("lost", "hello").await.result();
    crate::support::processes::kill(service.session("lost").await.expect("there").process_id);
    let mut busy = service.open(query("b", &script(&["say word", "hang"]))).await.expect("taken");
    busy.until_text("word").await;
    let _waiting = service.open(query("b", "next")).await.expect("queued");
    let stats = eventually("the loss shows", async || {
        let stats = service.stats().await;
        (stats.hibernated_sessions == 1).then_some(stats)
    })
    .await;
    assert_eq!((stats.total_sessions, stats.active_sessions), (3, 2));
    assert_eq!((stats.total_messages, stats.processes), (4, 2));
    assert_eq!((stats.streaming_turns, stats.queued_turns), (1, 1));
    assert!(stats.process_memory_bytes > 0);
    assert!(stats.total_cost_usd > 0.0);
    assert!(stats.usage.as_ref().is_some_and(|usage| usage.output_tokens > 0), "{stats:?}");
    let counters = stats.counters.expect("counters");
    assert_eq!((counters.turns, counters.turns_completed, counters.turns_failed), (5, 3, 0));
    assert_eq!((counters.sessions_created, counters.sessions_reused), (3, 1));
    assert!(counters.frames > 10, "{counters:?}");
    let version = eventually("the CLI has said its version", async || {
        let version = service.stats().await.cli_version;
        (!version.is_empty()).then_some(version)
    })
    .await;
    assert!(version.contains("Claude Code"), "{version}");
    service.stop().await;
}

#[tokio::test]
async fn s24_the_figures_of_a_session() {
    let service = Service::start(|_| {}).await;
    let options = SessionOptions {
        permission_mode: Some("plan".into()),
        allowed_tools: vec!["Read".into()],
        ..model("opus")
    };
    let first = service.run(query_with("a", "one", options.clone())).await;
    service.query("a", "two").await.result();
    let session = service.session("a").await.expect("there");
    assert_eq!(session.status(), SessionStatus::Active);
    assert_eq!(session.client_id, first.started().client_id);
    assert_eq!(session.cli_session_id, first.started().cli_session_id);
    assert_eq!(service.processes(), [session.process_id]);
    assert_eq!((session.message_count, session.error_count), (2, 0));
    assert_eq!((session.last_error.as_str(), session.running_turn_id.as_str()), ("", ""));
    assert!(seconds(session.age) >= seconds(session.idle_time));
    let [made, used] = [session.create_time, session.last_used_time].map(|time| {
        let time = time.expect("a time");
        (time.seconds, time.nanos)
    });
    assert!(used >= made, "{session:?}");
    assert!(session.total_cost_usd > 0.0 && session.usage.is_some());
    assert_eq!(session.options, Some(options));

    let turn = service.query("a", &script(&["exit 9"])).await;
    failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    let session = eventually("it is disconnected", async || {
        let session = service.session("a").await.expect("there");
        (session.status() == SessionStatus::Disconnected).then_some(session)
    })
    .await;
    assert_eq!((session.message_count, session.error_count), (3, 1));
    assert!(session.last_error.contains("exit code 9"), "{}", session.last_error);
    assert_eq!((session.client_id.as_str(), session.process_id), ("", 0));
    service.stop().await;
}

#[tokio::test]
async fn s24_a_session_shows_what_it_is_doing() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(400);
    })
    .await;
    let doing = async |status: SessionStatus| -> Session {
        eventually(status.as_str_name(), async || {
            let session = service.session("a").await.ok()?;
            (session.status() == status).then_some(session)
        })
        .await
    };
    let script = script(&["deaf", "say word", "hang"]);
    let mut turn =
        service.open(query_with("a", &script, model("fake:boot=1000"))).await.expect("taken");
    let connecting = doing(SessionStatus::Connecting).await;
    assert_eq!(connecting.process_id, 0);
    // It connects before its process is started: its options are looked at once more.
    eventually("its process starts", async || {
        (service.stats().await.starting_processes == 1).then_some(())
    })
    .await;
    turn.until_text("word").await;
    let active = doing(SessionStatus::Active).await;
    assert_eq!(active.running_turn_id, turn.started().turn_id);
    assert_eq!(seconds(active.idle_time), 0.0);
    let interrupting = doing(SessionStatus::Interrupting);
    let (report, shown) = tokio::join!(service.interrupt("a", true), interrupting);
    assert_eq!(report.outcome(), InterruptOutcome::Terminated);
    assert_eq!(shown.running_turn_id, turn.started().turn_id);
    let disconnected = doing(SessionStatus::Disconnected).await;
    assert_eq!((disconnected.process_id, disconnected.error_count), (0, 1));
    turn.finish().await;
    assert!(turn.end.is_some_and(|end| end.is_err()));
    service.stop().await;
}
