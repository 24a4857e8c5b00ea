//! A session that another service on the same store takes over: it ends here, and nothing that
//! it says is kept any more. So it does where a service may no longer serve what it has claimed,
//! before another one has taken it: at once, whatever the session does, and whatever the store.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::{SECOND, Session, cause, gated_store::Gate, read, request, settings};
use crate::{
    counters::Totals,
    domain::{
        failure::Cause,
        ids::{CliSessionId, ClientId, SessionId, SessionKey, TenantId, TurnId},
    },
    session::{InterruptOutcome, Refusal, Settings, TurnRequest, status::SessionState},
    store::{Commit, Epoch, KeptEnding, KeptTurn, Record, Store as _},
    tasks::spawn_owned,
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

#[tokio::test(start_paused = true)]
async fn a_session_that_comes_back_from_another_service_goes_on_with_what_that_has_kept() {
    let settings = Settings { hibernate_after: Some(10 * SECOND), ..settings() };
    let session = Session::start(settings);
    let asleep = || session.handle.status().condition == SessionState::Hibernated;
    assert!(read(session.run("a ok").await).await.end.is_ok());
    until("it hibernates", asleep).await;
    let other = session.store.inner.beside();
    let epoch = other.claim(&key()).await.expect("claimed");
    let mine = other.load(&key()).await.expect("read").expect("kept");
    let conversation = CliSessionId::fresh();
    let record = Record { cli_session_id: conversation, message_count: 41, ..mine };
    let commit = Commit { epoch, releases: true, ..commit_of(key(), record) };
    other.commit(commit).await.expect("kept");

    assert!(read(session.run("b ok").await).await.end.is_ok());
    let status = session.handle.status();
    assert_eq!((status.cli_session_id, status.message_count), (conversation, 42));
    let kept = session.store.load(&key()).await.expect("read").expect("kept");
    assert_eq!((kept.cli_session_id, kept.message_count), (conversation, 42));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_another_service_has_run_is_not_run_again() {
    let settings = Settings { hibernate_after: Some(10 * SECOND), ..settings() };
    let session = Session::start(settings);
    session.store.share();
    assert!(read(session.run("a ok").await).await.end.is_ok());
    until("it hibernates", || session.handle.status().condition == SessionState::Hibernated).await;
    let other = session.store.inner.beside();
    let epoch = other.claim(&key()).await.expect("claimed");
    let record = other.load(&key()).await.expect("read").expect("kept");
    let turn_id = TurnId::parse("t").expect("a name");
    let now = std::time::SystemTime::now();
    let turn = KeptTurn {
        turn_id: turn_id.clone(),
        client_id: ClientId::fresh(),
        cli_session_id: record.cli_session_id,
        start_time: now,
        end_time: now,
        expire_time: now + 3600 * SECOND,
        ending: KeptEnding::Complete,
        result: "{}".into(),
    };
    let commit = Commit { epoch, releases: true, turn: Some(turn), ..commit_of(key(), record) };
    other.commit(commit).await.expect("kept");

    let named = TurnRequest { turn_id: Some(turn_id), ..request("b ok") };
    let asked = session.handle.run(named).await.expect("taken");
    let moved = cause(&read(asked).await);
    assert_eq!(moved.tool_use_seen(), Some(false), "{moved:?}");
    assert!(is_moved(&moved), "asked again it is told from the store");
    session.handle.ended().await;
    assert_eq!(session.supply.heard().concat(), ["a ok"]);
    assert!(session.store.inner.owner_of(&key()).is_empty(), "and is given back");
}

fn commit_of(key: SessionKey, record: Record) -> Commit {
    Commit {
        key,
        epoch: Epoch::NONE,
        releases: false,
        record,
        turn: None,
        lines: Arc::default(),
        totals: Totals::default(),
    }
}

/// A process that is told to end has ended by then, and everybody has been told.
const AT_ONCE: std::time::Duration = SECOND;

/// The service may not serve the session any more. Returns when all of it has ended.
async fn outlive_tenure(session: &Session) {
    let began = Instant::now();
    session.store.end_tenure();
    session.handle.ended().await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(session.supply.alive(), 0, "its process is gone");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_once_when_its_service_may_not_serve_it_any_more() {
    for gate in [Gate::Open, Gate::Locked, Gate::Broken, Gate::Hanging] {
        for prompt in ["b slow 1000", "b hang", "b tool 100000", "b silent", "b deaf"] {
            let session = Session::start(settings());
            assert!(read(session.run("a ok").await).await.end.is_ok());
            let (turn, waiting) = (session.run(prompt).await, session.run("c ok").await);
            sleep(SECOND / 2).await;
            session.store.set(gate);
            outlive_tenure(&session).await;
            assert!(is_moved(&cause(&read(turn).await)), "{gate:?}, {prompt}");
            assert!(is_moved(&cause(&read(waiting).await)), "{gate:?}, {prompt}");
            assert!(matches!(session.handle.run(request("d ok")).await, Err(Refusal::Closed)));
        }
        let idle = Session::start(settings());
        assert!(read(idle.run("a ok").await).await.end.is_ok());
        idle.store.set(gate);
        outlive_tenure(&idle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whose_process_was_ended_while_the_service_was_stopped_is_told_that_its_session_moved() {
    // The process is seen to have ended before a timer says that the lease is over.
    for prompt in ["b slow 1000", "b hang", "b tool 100000", "b silent"] {
        let session = Session::start(settings());
        assert!(read(session.run("a ok").await).await.end.is_ok());
        let (turn, waiting) = (session.run(prompt).await, session.run("c ok").await);
        sleep(SECOND / 2).await;
        session.store.outlive_lease();
        session.supply.kill();
        assert!(is_moved(&cause(&read(turn).await)), "{prompt}");
        assert!(is_moved(&cause(&read(waiting).await)), "{prompt}");
        session.handle.ended().await;
    }
    let idle = Session::start(settings());
    assert!(read(idle.run("a ok").await).await.end.is_ok());
    idle.store.outlive_lease();
    idle.supply.kill();
    idle.handle.ended().await;
    assert_eq!(idle.supply.alive(), 0, "no other one is started");
    // Nor is a turn begun by one that ends while it starts.
    let starting = Session::start(settings());
    *starting.supply.start_time.lock().expect("no panic") = 20 * SECOND;
    *starting.supply.broken.lock().expect("no panic") = true;
    let turn = starting.run("a ok").await;
    sleep(SECOND).await;
    starting.store.outlive_lease();
    assert!(is_moved(&cause(&read(turn).await)));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_not_kept_is_not_told_when_the_tenure_is_over() {
    for gate in [Gate::Locked, Gate::Hanging] {
        let session = Session::start(settings());
        assert!(read(session.run("a ok").await).await.end.is_ok());
        session.store.set(gate);
        let turn = session.run("b ok").await;
        sleep(SECOND).await;
        outlive_tenure(&session).await;
        assert!(is_moved(&cause(&read(turn).await)), "{gate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_stops_a_turn_is_told_when_its_process_is_gone_with_the_tenure() {
    let session = Session::start(settings());
    let turn = session.run("a deaf").await;
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let stopped = spawn_owned(async move { handle.interrupt(true).await });
    sleep(SECOND).await;
    outlive_tenure(&session).await;
    assert!(is_moved(&cause(&read(turn).await)));
    let report = stopped.await.expect("no panic").expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Terminated);
}

#[tokio::test(start_paused = true)]
async fn no_process_starts_when_the_tenure_is_over() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 20 * SECOND;
    let turn = session.run("a ok").await;
    sleep(SECOND).await;
    outlive_tenure(&session).await;
    assert!(is_moved(&cause(&read(turn).await)));

    // Nor in a session that is made then.
    let (task, session) = Session::task(settings());
    session.store.end_tenure();
    let run = spawn_owned(async move { Box::new(task).run().await.send() });
    let refused = session.handle.run(request("a ok")).await;
    if let Ok(turn) = refused {
        assert!(is_moved(&cause(&read(turn).await)));
    }
    run.await.expect("no panic");
    assert_eq!(session.supply.alive(), 0);
    assert!(session.supply.heard().is_empty());
}
