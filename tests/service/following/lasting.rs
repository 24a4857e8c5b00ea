//! Following a session lasts as long as the session does, whatever becomes of its process and of
//! its task.

use std::time::Duration;

use session_pool::proto::{InterruptOutcome, SessionStatus};
use tonic::Code;

use crate::support::{
    eventually, failure,
    follower::{Follower, from, of},
    service::{Service, query, script},
};

/// A service whose sessions rest soon, and leave their task soon after.
async fn sleepy() -> Service {
    Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(100);
        config.pool.turn_retention = Duration::from_millis(1);
    })
    .await
}

/// Waits until a session that rests has no task any more.
async fn unloaded(service: &Service, session: &str) {
    eventually("hibernation", async || {
        let shown = service.session(session).await.expect("it stays in the pool");
        (shown.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    let before = service.stats().await.tasks;
    eventually("the end of the task", async || {
        (service.stats().await.tasks < before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_is_followed_over_hibernation_and_without_a_task() {
    let service = sleepy().await;
    service.query("a", "first").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    unloaded(&service, "a").await;
    // Neither who follows it all the time nor who comes now wakes it.
    let mut late = Follower::open(&service.client, of("a")).await.expect("taken");
    late.until_live().await;
    let cursor = late.cursor();
    let tasks = service.stats().await.tasks;
    tokio::time::timeout(Duration::from_millis(300), late.next()).await.expect_err("nothing");
    assert_eq!(late.pictures.last().map(|shown| shown.status()), Some(SessionStatus::Hibernated));
    assert_eq!(service.processes(), [0; 0]);
    assert_eq!(service.stats().await.tasks, tasks);

    let second = service.query("a", "second").await;
    for follower in [&mut follower, &mut late] {
        follower.until_result(&second.started().turn_id).await;
        assert_eq!(follower.of_turn(&second.started().turn_id), second.events);
        assert_eq!(follower.gaps(), []);
    }
    // Who was away meanwhile has lost what is not kept any more, or nothing.
    let behind = follower.cursor();
    unloaded(&service, "a").await;
    let again = Follower::open(&service.client, from("a", &cursor)).await.err().expect("expired");
    failure(&again, Code::OutOfRange, "EVENTS_EXPIRED");
    let mut again = Follower::open(&service.client, from("a", &behind)).await.expect("taken");
    again.until_live().await;
    assert_eq!(again.gaps(), []);
    service.stop().await;
}

#[tokio::test]
async fn it_ends_well_when_the_session_is_closed() {
    let service = sleepy().await;
    service.query("a", "first").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let turn = service.query("a", "second").await;
    service.close("a", false).await.expect("closed");
    follower.finish().await;
    assert!(matches!(follower.end, Some(Ok(()))), "{:?}", follower.end);
    assert_eq!(follower.of_turn(&turn.started().turn_id), turn.events);
    let gone = Follower::open(&service.client, of("a")).await.err().expect("gone");
    failure(&gone, Code::NotFound, "SESSION_NOT_FOUND");

    // One that has no task is loaded to be closed.
    service.query("b", "first").await.result();
    unloaded(&service, "b").await;
    let mut follower = Follower::open(&service.client, of("b")).await.expect("taken");
    follower.until_live().await;
    service.close("b", true).await.expect("closed");
    follower.finish().await;
    assert!(matches!(follower.end, Some(Ok(()))), "{:?}", follower.end);
    service.stop().await;
}

#[tokio::test]
async fn it_ends_well_when_the_session_leaves_the_pool_by_an_interrupt() {
    let service = Service::start(|_| {}).await;
    service.query("a", "first").await.result();
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.until_live().await;
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let report = service.interrupt("a", false).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    follower.finish().await;
    assert!(matches!(follower.end, Some(Ok(()))), "{:?}", follower.end);
    assert_eq!(follower.of_turn(&turn.started().turn_id), turn.events);
    service.stop().await;
}

#[tokio::test]
async fn it_ends_when_the_cleanup_removes_a_session_that_has_no_task() {
    let service = Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(100);
        config.pool.turn_retention = Duration::from_millis(1);
        config.pool.idle_threshold = Duration::from_secs(3);
        config.pool.cleanup_interval = Duration::from_millis(200);
    })
    .await;
    service.query("a", "first").await.result();
    unloaded(&service, "a").await;
    let mut follower = Follower::open(&service.client, of("a")).await.expect("taken");
    follower.finish().await;
    assert!(matches!(follower.end, Some(Ok(()))), "{:?}", follower.end);
    service.stop().await;
}

#[tokio::test]
async fn it_ends_with_the_service_and_says_that_another_call_makes_sense() {
    let service = sleepy().await;
    service.query("live", "first").await.result();
    service.query("rests", "first").await.result();
    unloaded(&service, "rests").await;
    let turn = service.query("live", "second").await;
    let mut live = Follower::open(&service.client, of("live")).await.expect("taken");
    let mut rests = Follower::open(&service.client, of("rests")).await.expect("taken");
    live.until_live().await;
    rests.until_live().await;
    drop(turn);
    let (stopped, (), ()) = tokio::join!(service.stop(), live.finish(), rests.finish());
    assert!(stopped, "nothing has held it up");
    for follower in [live, rests] {
        let status = follower.end.expect("ended").expect_err("the service stops");
        failure(&status, Code::Unavailable, "SHUTTING_DOWN");
        assert!(crate::support::retry_after(&status).is_some());
    }
}
