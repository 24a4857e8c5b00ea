//! What works behind the turns, and who stops it: `StopTask`, and an `Interrupt` of all.

use std::time::Duration;

use session_pool::proto::{
    BackgroundTask, InterruptOutcome, InterruptRequest, InterruptResponse, InterruptScope,
    SessionStatus, StopTaskRequest,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::{
    eventually, failure, log, processes,
    service::{Service, query, script},
};

const PATIENCE: Duration = Duration::from_millis(400);

/// A service that waits only so long for a CLI that does not stop what it is to stop.
pub async fn impatient() -> Service {
    Service::start(|config| config.pool.stream_interrupt_timeout = PATIENCE).await
}

/// A line of a script: a task begins that nothing stops.
pub fn stubborn(id: &str) -> String {
    let id = serde_json::Value::from(id);
    format!(
        r#"raw {{"type":"system","subtype":"task_started","task_id":{id},"description":"d","is_backgrounded":true,"task_type":"local_bash"}}"#
    )
}

/// A frame: a task has ended.
pub fn ended(id: &str) -> String {
    let id = serde_json::Value::from(id);
    format!(
        r#"{{"type":"system","subtype":"task_notification","task_id":{id},"status":"completed"}}"#
    )
}

pub async fn stop(service: &Service, session: &str, task: &str) -> Result<(), Status> {
    let request = StopTaskRequest { session_id: session.into(), task_id: task.into() };
    service.client.clone().stop_task(request).await.map(drop)
}

pub async fn interrupt_all(service: &Service, session: &str) -> InterruptResponse {
    let request = InterruptRequest {
        session_id: session.into(),
        keep_session: true,
        scope: InterruptScope::All.into(),
        ..InterruptRequest::default()
    };
    service.client.clone().interrupt(request).await.expect("answered").into_inner()
}

async fn interrupt_turn(service: &Service, turn: &str) -> InterruptResponse {
    let request = InterruptRequest {
        session_id: "a".into(),
        turn_id: turn.into(),
        ..InterruptRequest::default()
    };
    service.client.clone().interrupt(request).await.expect("answered").into_inner()
}

/// The ids of what works behind the turns of a session.
pub async fn tasks(service: &Service, session: &str) -> Vec<String> {
    ids(&service.session(session).await.expect("there").background_tasks)
}

fn ids(tasks: &[BackgroundTask]) -> Vec<String> {
    tasks.iter().map(|task| task.task_id.clone()).collect()
}

#[tokio::test]
async fn a_task_is_stopped_and_who_wants_that_is_answered_when_it_has_ended() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", &script(&["background-turn 600000", "say on"])).await;
    assert_eq!(first.result().result, "on");
    let task = tasks(&service, "a").await.remove(0);
    let unknown = stop(&service, "a", "nothing").await.expect_err("unknown");
    failure(&unknown, Code::NotFound, "TASK_NOT_FOUND");
    stop(&service, "a", &task).await.expect("stopped");
    assert!(tasks(&service, "a").await.is_empty());
    let again = stop(&service, "a", &task).await.expect_err("it has ended");
    failure(&again, Code::NotFound, "TASK_NOT_FOUND");
    assert_eq!(service.query("a", "hello").await.text(), "echo: hello");
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_task_is_stopped_while_a_turn_runs() {
    let service = Service::start(|_| {}).await;
    service.query("a", &script(&["tasks 2 10", "say on"])).await.result();
    let mut turn =
        service.open(query("a", &script(&["say word", "sleep 1500"]))).await.expect("ok");
    turn.until_text("word").await;
    stop(&service, "a", "task-000000000001").await.expect("stopped");
    assert_eq!(tasks(&service, "a").await, ["task-000000000002"]);
    turn.finish().await;
    assert!(!turn.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn a_task_that_ends_by_itself_meanwhile_has_ended() {
    let service = Service::start(|_| {}).await;
    let later = format!("later 500 {}", ended("x"));
    service.query("a", &script(&[&stubborn("x"), &later, "say on"])).await.result();
    stop(&service, "a", "x").await.expect("it has ended");
    assert!(tasks(&service, "a").await.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn who_wants_a_task_stopped_that_does_not_stop_is_told_after_a_while() {
    let service = impatient().await;
    service.query("a", &script(&[&stubborn("x"), "say on"])).await.result();
    let began = Instant::now();
    let told = stop(&service, "a", "x").await.expect_err("it goes on");
    failure(&told, Code::Internal, "PROTOCOL_ERROR");
    assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
    assert_eq!(tasks(&service, "a").await, ["x"]);
    service.stop().await;
}

#[tokio::test]
async fn all_who_want_the_same_task_stopped_are_answered() {
    let service = impatient().await;
    service.query("a", &script(&["tasks 1 10", &stubborn("x"), "say on"])).await.result();
    let task = "task-000000000001";
    let (one, other) = tokio::join!(stop(&service, "a", task), stop(&service, "a", task));
    // The second may come when it has ended.
    one.expect("stopped");
    if let Err(status) = other {
        failure(&status, Code::NotFound, "TASK_NOT_FOUND");
    }
    let (one, other) = tokio::join!(stop(&service, "a", "x"), stop(&service, "a", "x"));
    for told in [one, other] {
        failure(&told.expect_err("it goes on"), Code::Internal, "PROTOCOL_ERROR");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_session_without_a_process_has_no_task_and_gets_none() {
    let service = Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(50);
    })
    .await;
    failure(
        &stop(&service, "a", "x").await.expect_err("unknown"),
        Code::NotFound,
        "SESSION_NOT_FOUND",
    );
    service.query("a", "hello").await.result();
    eventually("it sleeps", async || {
        let session = service.session("a").await.expect("there");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    failure(
        &stop(&service, "a", "x").await.expect_err("unknown"),
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let report = interrupt_all(&service, "a").await;
    assert_eq!(report.outcome(), InterruptOutcome::NoActiveTurn);
    assert_eq!(service.session("a").await.expect("there").status(), SessionStatus::Hibernated);
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}

#[tokio::test]
async fn what_is_being_stopped_has_ended_when_its_process_dies() {
    let service = Service::start(|_| {}).await;
    let id = "work-dies";
    service.query(id, &script(&[&stubborn("x"), "say on"])).await.result();
    let process = service.session(id).await.expect("there").process_id;
    let wanted = stop(&service, id, "x");
    let all = interrupt_all(&service, id);
    let killed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        processes::kill(process);
    };
    let (wanted, all, ()) = tokio::join!(wanted, all, killed);
    wanted.expect("it has ended");
    assert_eq!((ids(&all.stopped), ids(&all.still_running)), (vec!["x".into()], vec![]));
    assert_eq!(log::events("background_work_ended", id).len(), 1);
    assert!(tasks(&service, id).await.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_of_all_without_a_turn_waits_for_what_it_stops_but_not_for_ever() {
    let service = impatient().await;
    service.query("a", &script(&["tasks 2 10", &stubborn("x"), "say on"])).await.result();
    let began = Instant::now();
    let report = interrupt_all(&service, "a").await;
    assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
    assert_eq!(report.outcome(), InterruptOutcome::NoActiveTurn);
    assert!(!report.had_active_turn && report.elapsed.is_some());
    assert_eq!(ids(&report.stopped), ["task-000000000001", "task-000000000002"]);
    assert_eq!(ids(&report.still_running), ["x"]);
    assert_eq!(tasks(&service, "a").await, ["x"]);
    // With nothing to wait for it is answered at once, and harms nobody.
    service.query("b", "hello").await.result();
    let report = interrupt_all(&service, "b").await;
    assert_eq!(report.outcome(), InterruptOutcome::NoActiveTurn);
    assert_eq!(service.processes().len(), 2);
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_of_all_is_answered_with_the_end_of_the_turn() {
    let service = Service::start(|_| {}).await;
    service.query("a", &script(&["tasks 2 10", &stubborn("x"), "say on"])).await.result();
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let report = interrupt_all(&service, "a").await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    assert_eq!(ids(&report.stopped), ["task-000000000001", "task-000000000002"]);
    // Nobody knows whether it would ever end.
    assert_eq!(ids(&report.still_running), ["x"]);
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_of_all_stops_more_than_is_shown() {
    let service = Service::start(|_| {}).await;
    for running in [false, true] {
        service.query("a", &script(&["tasks 350 10", "say on"])).await.result();
        assert_eq!(tasks(&service, "a").await.len(), 100);
        let mut turn = None;
        if running {
            let hangs = query("a", &script(&["say word", "hang"]));
            turn.insert(service.open(hangs).await.expect("taken")).until_text("word").await;
        }
        let report = interrupt_all(&service, "a").await;
        assert_eq!((report.stopped.len(), report.still_running.len()), (100, 0), "{running}");
        assert!(tasks(&service, "a").await.is_empty(), "{running}");
    }
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_of_one_turn_leaves_what_works_behind_the_turns() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", &script(&["tasks 1 10", "say on"])).await;
    let over = interrupt_turn(&service, &first.started().turn_id).await;
    assert_eq!(over.outcome(), InterruptOutcome::NoActiveTurn);
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let mut queued = query("a", "queued");
    queued.turn_id = "8e2f8a4e-6a0e-4c39-a5d7-3f3c1b6a3a10".into();
    let mut waits = service.open(queued.clone()).await.expect("taken");
    let report = interrupt_turn(&service, &queued.turn_id).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    waits.finish().await;
    failure(waits.error(), Code::Cancelled, "TURN_INTERRUPTED");
    let report = interrupt_turn(&service, &turn.started().turn_id).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    assert_eq!(tasks(&service, "a").await.len(), 1);
    service.stop().await;
}
