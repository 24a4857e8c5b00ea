//! A session that another service on the same store takes over: it ends here, and nothing that
//! it says is kept any more.

use super::{SECOND, Session, cause, read, request, settings};
use crate::{
    domain::{
        failure::Cause,
        ids::{SessionId, SessionKey, TenantId},
    },
    session::{Refusal, Settings, status::SessionState},
    store::Store as _,
    test_support::{answered, until},
};

fn key() -> SessionKey {
    SessionKey::new(TenantId::default(), SessionId::parse("s").expect("a name"))
}

/// Another service takes the session over.
async fn take_over(session: &Session) {
    session.store.inner.beside().claim(&key()).await.expect("claimed");
}

fn is_moved(cause: &Cause) -> bool {
    matches!(cause, Cause::SessionMoved { .. })
}

#[tokio::test(start_paused = true)]
async fn a_turn_whose_session_was_taken_over_is_not_told_its_result() {
    let session = Session::start(settings());
    assert!(read(session.run("a ok").await).await.end.is_ok());
    let conversation = session.handle.status().cli_session_id;
    let lines = session.lines(conversation).await;
    take_over(&session).await;
    let seen = read(session.run("b ok").await).await;
    assert!(is_moved(&cause(&seen)), "{seen:?}");
    session.handle.ended().await;
    assert_eq!(session.supply.alive(), 0, "its process is gone");
    assert_eq!(session.lines(conversation).await, lines, "nothing of it is kept");
    let record = session.store.load(&key()).await.expect("read").expect("kept");
    assert_eq!((record.message_count, record.in_pool), (1, true), "nor noted");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_runs_is_stopped_when_a_part_of_it_cannot_be_kept() {
    let session = Session::start(settings());
    assert!(read(session.run("a ok").await).await.end.is_ok());
    take_over(&session).await;
    let turn = session.run("b much 3").await;
    assert!(is_moved(&cause(&read(turn).await)));
    session.handle.ended().await;
    assert_eq!(session.supply.alive(), 0);
    let refused = session.handle.run(request("d ok")).await;
    assert!(matches!(refused, Err(Refusal::Closed)), "whoever comes asks the pool again");
}

#[tokio::test(start_paused = true)]
async fn turns_that_wait_do_not_begin_in_a_session_that_was_taken_over() {
    let session = Session::start(settings());
    assert!(read(session.run("a ok").await).await.end.is_ok());
    let turn = answered(session.run("b slow 1000").await).await;
    let waiting = session.run("c ok").await;
    take_over(&session).await;
    assert!(is_moved(&cause(&read(turn).await)));
    assert!(is_moved(&cause(&read(waiting).await)));
    session.handle.ended().await;
    assert_eq!(session.supply.heard().concat(), ["a ok", "b slow 1000"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_claims_itself_before_a_process_serves_it_and_gives_itself_back() {
    let settings = Settings { hibernate_after: Some(10 * SECOND), ..settings() };
    let session = Session::start(settings);
    let asleep = || session.handle.status().condition == SessionState::Hibernated;
    assert!(read(session.run("a ok").await).await.end.is_ok());
    until("it hibernates", asleep).await;
    // Another service has it for a while.
    take_over(&session).await;
    let turn = answered(session.run("b slow 10").await).await;
    let store = &session.store.inner;
    assert!(read(turn).await.end.is_ok(), "it has claimed it anew");
    until("it hibernates", asleep).await;
    until("it is given back", || store.owner_of(&key()).is_empty()).await;
}
