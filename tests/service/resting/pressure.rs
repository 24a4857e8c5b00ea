//! All processes are taken: whoever was used least recently gives its own up, and nobody
//! who is busy does.

use std::time::Duration;

use session_pool::proto::{SessionStatus, TurnOrigin};
use tonic::{Code, Request};

use crate::support::{
    eventually, failure,
    service::{Service, query, script},
    turn::Turn,
};

async fn crowded(processes: usize) -> Service {
    Service::start(|config| config.pool.max_processes = processes).await
}

/// A turn whose caller waits only so long.
async fn impatient(service: &Service, id: &str, patience: Duration) -> Turn {
    let mut request = Request::new(query(id, "hello"));
    request.set_timeout(patience);
    Turn::new(service.client.clone().query(request).await.expect("taken").into_inner())
}

async fn status(service: &Service, id: &str) -> SessionStatus {
    service.session(id).await.expect("it stays in the pool").status()
}

#[tokio::test]
async fn the_least_recently_used_session_gives_its_place() {
    let service = crowded(2).await;
    service.query("a", "I am a").await.result();
    service.query("b", "I am b").await.result();
    service.query("a", "I am a again").await.result();
    let asked = service.query("c", "I am c").await;
    assert_eq!(asked.text(), "echo: I am c");
    assert_eq!(status(&service, "a").await, SessionStatus::Active);
    assert_eq!(status(&service, "b").await, SessionStatus::Hibernated);
    assert_eq!(service.processes().len(), 2);
    let back = service.query("b", &script(&["recite"])).await;
    assert_eq!((back.text().as_str(), back.started().origin()), ("I am b", TurnOrigin::Resumed));
    assert_eq!(status(&service, "a").await, SessionStatus::Hibernated);
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.hibernations, counters.hibernations_under_pressure), (2, 2));
    service.stop().await;
}

#[tokio::test]
async fn busy_sessions_keep_theirs_and_the_first_that_rests_gives_it() {
    let service = crowded(2).await;
    let mut long = service.open(query("a", &script(&["say a", "hang"]))).await.expect("taken");
    long.until_text("a").await;
    let mut short = service.open(query("b", &script(&["say b", "hang"]))).await.expect("taken");
    short.until_text("b").await;
    let mut waiting = service.open(query("c", "hello")).await.expect("taken");
    eventually("somebody who waits", async || {
        (status(&service, "c").await == SessionStatus::Connecting).then_some(())
    })
    .await;
    assert_eq!(service.processes().len(), 2);
    assert!(service.interrupt("b", true).await.interrupted);
    waiting.finish().await;
    assert_eq!(waiting.text(), "echo: hello");
    assert_eq!(status(&service, "a").await, SessionStatus::Active);
    assert_eq!(status(&service, "b").await, SessionStatus::Hibernated);
    long.leave();
    service.stop().await;
}

#[tokio::test]
async fn a_background_task_is_not_given_up_for_another_session() {
    let service = crowded(1).await;
    service.query("a", &script(&["say a", "background-turn 400"])).await.result();
    let asked = service.query("b", "hello").await;
    assert_eq!(asked.text(), "echo: hello");
    // It had to wait for the task and the turn that the task began.
    let mut background = service.attach("a", "", 0).await.expect("kept");
    background.finish().await;
    assert_eq!(background.text(), "background task done");
    service.stop().await;
}

#[tokio::test]
async fn a_query_without_a_process_waits_up_to_its_deadline_and_says_for_what() {
    let service = crowded(1).await;
    let mut busy = service.open(query("a", &script(&["say a", "hang"]))).await.expect("taken");
    busy.until_text("a").await;
    let mut turn = impatient(&service, "b", Duration::from_millis(800)).await;
    turn.finish().await;
    let metadata = failure(turn.error(), Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert_eq!(metadata["limit"], "1");
    assert!(turn.error().message().contains("pool.max_processes"), "{:?}", turn.error());
    assert_eq!(status(&service, "a").await, SessionStatus::Active, "nobody was disturbed");
    busy.leave();
    service.stop().await;
}

#[tokio::test]
async fn who_has_more_patience_than_the_turn_before_gets_the_process() {
    let service = crowded(1).await;
    let mut busy = service.open(query("a", &script(&["say a", "hang"]))).await.expect("taken");
    busy.until_text("a").await;
    let mut hasty = impatient(&service, "b", Duration::from_millis(500)).await;
    let mut patient = service.open(query("b", "I can wait")).await.expect("queued");
    hasty.finish().await;
    failure(hasty.error(), Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert!(service.interrupt("a", true).await.interrupted);
    patient.finish().await;
    assert_eq!(patient.text(), "echo: I can wait");
    busy.leave();
    service.stop().await;
}

#[tokio::test]
async fn a_hibernated_session_stays_in_the_pool_when_no_process_is_to_be_had() {
    let service = Service::start(|config| {
        config.pool.max_processes = 1;
        config.pool.connect_timeout = Duration::from_millis(300);
    })
    .await;
    service.query("a", "I am a").await.result();
    let mut busy = service.open(query("b", &script(&["say b", "hang"]))).await.expect("taken");
    busy.until_text("b").await;
    let refused = service.query("a", "again").await;
    failure(refused.error(), Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert_eq!(status(&service, "a").await, SessionStatus::Hibernated);
    assert!(service.interrupt("b", true).await.interrupted);
    assert_eq!(service.query("a", &script(&["recite"])).await.text(), "I am a");
    busy.leave();
    service.stop().await;
}
