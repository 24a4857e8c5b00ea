//! A session whose process starts, or does not.

use tokio::time::sleep;

use super::{SECOND, Session, cause, read, request, settings, text};
use crate::{
    domain::failure::Cause,
    session::{InterruptOutcome, Settings},
};

#[tokio::test(start_paused = true)]
async fn s08_without_recovery_the_caller_gets_the_failure() {
    let session = Session::start(Settings { connection_recovery: false, ..settings() });
    read(session.run("a ok").await).await;
    session.supply.kill();
    sleep(SECOND).await;
    let seen = read(session.run("b ok").await).await;
    assert!(matches!(cause(&seen), Cause::ConnectFailed { .. }), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn s09_a_session_that_cannot_connect_leaves_with_its_queue() {
    let session = Session::start(settings());
    *session.supply.broken.lock().expect("no panic") = true;
    *session.supply.start_time.lock().expect("no panic") = SECOND;
    let (a, b) = (session.run("a ok").await, session.run("b ok").await);
    for seen in [read(a).await, read(b).await] {
        assert!(matches!(cause(&seen), Cause::ConnectFailed { .. }), "{seen:?}");
    }
    session.handle.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_is_given_up_when_its_caller_leaves() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    drop(session.run("a ok").await);
    sleep(6 * SECOND).await;
    assert_eq!(session.supply.alive(), 0);
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_takes_over_a_start_has_its_own_options() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let with = |prompt: &str, system_prompt: &str| {
        let mut asked = request(prompt);
        asked.options.system_prompt = Some(system_prompt.into());
        session.handle.run(asked)
    };
    let first = with("a ok", "sp=one").await.expect("taken");
    let second = with("b ok", "sp=two").await.expect("taken");
    drop(first);
    let seen = read(second).await;
    assert!(seen.end.is_ok(), "{seen:?}");
    assert!(text(&seen).contains("sp=two") && !text(&seen).contains("sp=one"), "{seen:?}");
    let options = session.handle.status().options.clone();
    assert_eq!(options.system_prompt.as_deref(), Some("sp=two"));
}

#[tokio::test(start_paused = true)]
async fn options_of_a_turn_that_never_began_are_not_kept() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let mut asked = request("a ok");
    asked.options.system_prompt = Some("sp=one".into());
    let given_up = session.handle.run(asked).await.expect("taken");
    sleep(SECOND).await;
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert_eq!(cause(&read(given_up).await), Cause::TurnInterrupted);
    let seen = read(session.run("b ok").await).await;
    assert!(seen.end.is_ok() && !text(&seen).contains("sp=one"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_joined_by_its_id_while_its_process_starts() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let mut asked = request("a ok");
    asked.turn_id = Some(crate::domain::ids::TurnId::parse("t").expect("a name"));
    let first = session.handle.run(asked.clone()).await.expect("taken");
    let again = session.handle.run(asked).await.expect("joined");
    let joined = session.join().await.expect("joined");
    let first = read(first).await;
    assert!(first.end.is_ok());
    assert_eq!(first.frames, read(again).await.frames);
    assert_eq!(first.frames, read(joined).await.frames);
    assert_eq!(session.handle.status().message_count, 1);
}
