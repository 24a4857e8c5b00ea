//! A session that nobody uses costs no process.

use std::time::Duration;

use session_pool::{
    config::PoolConfig,
    proto::{
        GetSessionRequest, InterruptOutcome, ListSessionsRequest, SessionOptions, SessionStatus,
        TurnOrigin, UpdateSessionRequest,
    },
};

use crate::support::{
    eventually,
    service::{Service, query, query_with, script},
};

/// A service whose sessions hibernate soon.
async fn sleepy(change: impl FnOnce(&mut PoolConfig)) -> Service {
    Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(100);
        change(&mut config.pool);
    })
    .await
}

async fn hibernated(service: &Service, id: &str) {
    eventually("hibernation", async || {
        let session = service.session(id).await.expect("it stays in the pool");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_idle_session_lets_its_process_go_and_goes_on_with_the_next_turn() {
    let service = sleepy(|_| {}).await;
    let options = SessionOptions { system_prompt: Some("sp".into()), ..SessionOptions::default() };
    let first = service.run(query_with("a", "remember this", options)).await;
    hibernated(&service, "a").await;
    assert_eq!(service.processes(), [0; 0]);
    let stats = service.stats().await;
    assert_eq!((stats.total_sessions, stats.hibernated_sessions, stats.processes), (1, 1, 0));
    let counters = stats.counters.expect("counters");
    assert_eq!((counters.hibernations, counters.hibernations_under_pressure), (1, 0));
    let session = service.session("a").await.expect("there");
    assert_eq!(session.process_id, 0);
    assert_eq!(session.options.expect("options").system_prompt.as_deref(), Some("sp"));

    let next = service.query("a", &script(&["recite"])).await;
    assert_eq!(next.text(), "remember this");
    let (first, next) = (first.started(), next.started());
    assert_eq!(next.origin(), TurnOrigin::Resumed);
    assert_eq!(next.cli_session_id, first.cli_session_id);
    assert_ne!(next.client_id, first.client_id);
    assert!(next.connect_time.is_some_and(|time| time.nanos > 0), "{next:?}");
    let counters = service.stats().await.counters.expect("counters");
    // By now it may have hibernated again.
    assert_eq!((counters.sessions_resumed, counters.hibernations_under_pressure), (1, 0));
    assert!(counters.resume_time.is_some_and(|time| time.seconds > 0 || time.nanos > 0));
    service.stop().await;
}

#[tokio::test]
async fn a_session_with_a_turn_or_a_background_task_keeps_its_process() {
    let service = sleepy(|_| {}).await;
    let prompt = script(&["say word", "sleep 600", "say end", "background-turn 700"]);
    let mut turn = service.open(query("a", &prompt)).await.expect("taken");
    turn.until_text("word").await;
    let process = service.session("a").await.expect("there").process_id;
    turn.finish().await;
    assert!(turn.text().ends_with("end"));
    // The background task ends long after the session would have hibernated.
    let background = eventually("the background turn", async || {
        let mut turn = service.attach("a", "", 0).await.expect("there");
        turn.finish().await;
        turn.started().background.then_some(turn)
    })
    .await;
    assert_eq!(background.text(), "background task done");
    assert_eq!(background.started().client_id, turn.started().client_id);
    assert_ne!(process, 0);
    hibernated(&service, "a").await;
    service.stop().await;
}

#[tokio::test]
async fn calls_find_a_session_that_has_no_task_any_more() {
    let service = sleepy(|pool| pool.turn_retention = Duration::from_millis(1)).await;
    service.query("a", "remember this").await.result();
    hibernated(&service, "a").await;
    // Its task ends a second after nobody asks any more; that is seen by nobody.
    let before = service.stats().await.tasks;
    eventually("the end of the task", async || {
        (service.stats().await.tasks < before).then_some(())
    })
    .await;
    let mut client = service.client.clone();
    let listed = client.list_sessions(ListSessionsRequest::default()).await.expect("listed");
    let listed = listed.into_inner().sessions;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].status(), SessionStatus::Hibernated);
    let interrupted = service.interrupt("a", true).await;
    assert_eq!(interrupted.outcome(), InterruptOutcome::NoActiveTurn);
    let update = UpdateSessionRequest {
        session_id: "a".into(),
        options: Some(SessionOptions { model: Some("m".into()), ..SessionOptions::default() }),
    };
    client.update_session(update).await.expect("changed");
    let request = GetSessionRequest { session_id: "a".into() };
    let session = client.get_session(request).await.expect("there").into_inner().session;
    assert_eq!(session.and_then(|it| it.options).and_then(|it| it.model).as_deref(), Some("m"));
    assert_eq!(service.query("a", &script(&["recite"])).await.text(), "remember this");
    service.stop().await;
}

#[tokio::test]
async fn a_hibernated_session_can_be_closed_and_forgotten() {
    let service = sleepy(|_| {}).await;
    service.query("a", "remember this").await.result();
    hibernated(&service, "a").await;
    service.close("a", true).await.expect("closed");
    assert!(service.session("a").await.is_err());
    let fresh = service.query("a", &script(&["recite"])).await;
    assert_eq!((fresh.text().as_str(), fresh.started().origin()), ("", TurnOrigin::Created));
    service.stop().await;
}

#[tokio::test]
async fn zero_means_never() {
    let service = Service::start(|config| {
        config.pool.hibernate_after = Duration::ZERO;
        config.pool.turn_retention = Duration::from_millis(1);
    })
    .await;
    service.query("a", "hello").await.result();
    let first = service.session("a").await.expect("there").process_id;
    // Another session lives and hibernates nowhere either: both still have their processes.
    service.query("b", &script(&["sleep 300", "say end"])).await.result();
    assert_eq!(service.session("a").await.expect("there").process_id, first);
    assert_eq!(service.stats().await.counters.expect("counters").hibernations, 0);
    service.stop().await;
}
