//! A session without work lets its process go and, later, its task; nothing is lost.

use tokio::time::{Instant, sleep};

use super::{SECOND, Session, read, request, settings, text};
use crate::{
    domain::options::Options,
    session::{CloseReason, HibernateReason, Settings, status::SessionState},
};

fn sleepy() -> Settings {
    Settings { hibernate_after: Some(120 * SECOND), ..settings() }
}

fn condition(session: &Session) -> SessionState {
    session.handle.status().condition
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lets_its_process_go_after_its_time() {
    let session = Session::start(Settings { turn_retention: 3600 * SECOND, ..sleepy() });
    read(session.run("a ok").await).await;
    sleep(119 * SECOND).await;
    assert_eq!((session.supply.alive(), condition(&session)), (1, SessionState::Active));
    sleep(2 * SECOND).await;
    assert_eq!((session.supply.alive(), condition(&session)), (0, SessionState::Hibernated));
    assert_eq!(session.tenant.counters.hibernations.get(), 1);

    let again = read(session.run("b ok").await).await;
    assert!(again.end.is_ok() && text(&again).contains("b ok #2"));
    assert_eq!(session.supply.alive(), 1);
    assert_eq!(session.tenant.counters.sessions_resumed.get(), 1, "its conversation goes on");
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_keeps_its_process() {
    let session = Session::start(sleepy());
    let slow = session.run("a tool 500000").await;
    sleep(400 * SECOND).await;
    assert!(!session.handle.hibernate(HibernateReason::Pressure).await);
    assert_eq!(session.supply.alive(), 1);
    assert!(read(slow).await.end.is_ok());
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    assert_eq!(session.supply.alive(), 0);
    assert_eq!(session.tenant.counters.hibernations_under_pressure.get(), 1);
    assert!(session.handle.hibernate(HibernateReason::Pressure).await, "it has none already");
    assert_eq!(session.tenant.counters.hibernations.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_time_a_process_is_kept_for_ever() {
    let session = Session::start(Settings { hibernate_after: None, ..settings() });
    read(session.run("a ok").await).await;
    // Not only another time: whatever is due on the way happens.
    sleep(1_000_000 * SECOND).await;
    assert_eq!((session.supply.alive(), condition(&session)), (1, SessionState::Active));
}

#[tokio::test(start_paused = true)]
async fn an_ended_turn_can_be_joined_after_its_process_was_let_go() {
    let session = Session::start(settings());
    let mut asked = request("a ok");
    asked.turn_id = crate::domain::ids::TurnId::parse("t").ok();
    let first = read(session.handle.run(asked.clone()).await.expect("taken")).await;
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    let joined = session.join().await.expect("kept");
    assert_eq!(read(joined).await.frames, first.frames);
    let retried = read(session.handle.run(asked).await.expect("kept")).await;
    assert_eq!(retried.frames, first.frames);
    assert_eq!(session.supply.alive(), 0, "a retry runs nothing");
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_when_no_turn_can_be_joined_any_more() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    let began = Instant::now();
    session.handle.ended().await;
    let (lasted, retention) = (began.elapsed(), settings().turn_retention);
    assert!(lasted >= retention - SECOND && lasted <= retention + 2 * SECOND, "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_keeps_the_task_for_a_moment() {
    let session = Session::start(Settings { turn_retention: SECOND / 10, ..settings() });
    read(session.run("a ok").await).await;
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    for _ in 0..5 {
        sleep(SECOND * 9 / 10).await;
        let model = Options { model: Some("m".into()), ..Options::default() };
        session.handle.update(model).await.expect("still there");
    }
    assert_eq!(condition(&session), SessionState::Hibernated);
    session.handle.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_hibernated_session_that_cannot_be_connected_stays() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    *session.supply.broken.lock().expect("no panic") = true;
    assert!(read(session.run("b ok").await).await.end.is_err());
    assert_eq!(condition(&session), SessionState::Hibernated);
    *session.supply.broken.lock().expect("no panic") = false;
    assert!(text(&read(session.run("c ok").await).await).contains("c ok #2"));
    let report = session.handle.close(CloseReason::Idle).await.expect("answered");
    assert!(report.closed);
}

#[tokio::test(start_paused = true)]
async fn recovery_that_is_off_does_not_concern_a_process_that_was_let_go() {
    let session = Session::start(Settings { connection_recovery: false, ..settings() });
    read(session.run("a ok").await).await;
    assert!(session.handle.hibernate(HibernateReason::Pressure).await);
    assert!(read(session.run("b ok").await).await.end.is_ok());
}
