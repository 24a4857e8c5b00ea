//! An interrupt that names a turn is about that turn alone, whatever else the session does.

use tokio::time::{Instant, sleep};

use super::{SECOND, Seen, Session, cause, gated_store::Gate, read, request, settings, text};
use crate::{
    domain::{failure::Cause, ids::TurnId},
    session::{CloseReason, InterruptOutcome, InterruptReport, InterruptTarget},
    tasks::spawn_owned,
    turn::listener::Listener,
};

fn id(name: &str) -> TurnId {
    TurnId::parse(name).expect("a name")
}

impl Session {
    /// Asks for a turn of this name.
    async fn ask(&self, name: &str, behaviour: &str) -> Listener {
        let mut asked = request(&format!("{name} {behaviour}"));
        asked.turn_id = Some(id(name));
        self.handle.run(asked).await.expect("taken")
    }

    async fn stop(&self, name: &str) -> InterruptReport {
        self.handle.stop(InterruptTarget::Named(id(name)), false).await.expect("answered")
    }

    /// Asked to stop a turn that is over or unknown, it does nothing.
    async fn has_no(&self, name: &str) {
        let report = self.stop(name).await;
        assert_eq!(report.outcome, InterruptOutcome::NoActiveTurn, "{name}");
        assert!(!report.had_active_turn && report.interrupted());
    }
}

fn was_stopped(report: &InterruptReport) {
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert!(report.had_active_turn);
}

fn ran(seen: &Seen, name: &str) {
    assert!(seen.end.is_ok() && text(seen).contains(&format!("{name} ok")), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_waits_is_cancelled_and_the_one_that_runs_goes_on() {
    let session = Session::start(settings());
    let running = session.ask("a", "slow 5000").await;
    sleep(SECOND).await;
    let (first, second) = (session.ask("b", "ok").await, session.ask("c", "ok").await);
    let began = Instant::now();
    was_stopped(&session.stop("b").await);
    assert!(began.elapsed() < SECOND / 100, "{:?}", began.elapsed());
    assert_eq!(cause(&read(first).await), Cause::TurnInterrupted);
    let shown =
        session.handle.status().queue.iter().map(|turn| turn.id.clone()).collect::<Vec<_>>();
    assert_eq!(shown, [id("c")]);
    let running = read(running).await;
    assert!(running.end.is_ok(), "{running:?}");
    ran(&read(second).await, "c");
    session.has_no("b").await;
    assert_eq!(session.tenant.counters.interrupted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_runs_is_stopped_and_the_next_one_begins() {
    let session = Session::start(settings());
    let running = session.ask("a", "hang").await;
    sleep(SECOND).await;
    let next = session.ask("b", "ok").await;
    was_stopped(&session.stop("a").await);
    assert!(read(running).await.end.is_ok());
    ran(&read(next).await, "b");
    assert_eq!(session.supply.alive(), 1, "the session stays");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_over_or_was_never_there_touches_nothing() {
    let session = Session::start(settings());
    session.has_no("a").await;
    ran(&read(session.ask("a", "ok").await).await, "a");
    session.has_no("a").await;
    let running = session.ask("b", "slow 5000").await;
    sleep(SECOND).await;
    session.has_no("a").await;
    session.has_no("unknown").await;
    let running = read(running).await;
    assert!(running.end.is_ok(), "{running:?}");
    assert_eq!(session.tenant.counters.interrupted.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_a_process_starts_the_named_turn_alone_is_given_up() {
    let session = Session::start(settings());
    *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
    let (first, second) = (session.ask("a", "ok").await, session.ask("b", "ok").await);
    let third = session.ask("c", "ok").await;
    sleep(SECOND).await;
    session.has_no("unknown").await;
    was_stopped(&session.stop("b").await);
    assert_eq!(cause(&read(second).await), Cause::TurnInterrupted);
    was_stopped(&session.stop("a").await);
    assert_eq!(cause(&read(first).await), Cause::TurnInterrupted);
    ran(&read(third).await, "c");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_being_stopped_is_stopped_once_and_all_who_ask_hear_the_same() {
    let session = Session::start(settings());
    let running = session.ask("a", "deaf").await;
    sleep(SECOND).await;
    let next = session.ask("b", "ok").await;
    let handle = session.handle.clone();
    let first = spawn_owned(async move { handle.interrupt(true).await.expect("answered") });
    sleep(SECOND).await;
    // Neither the stop nor the process is concerned by one that names another turn.
    session.has_no("unknown").await;
    let (second, third) = (session.stop("a").await, first.await.expect("no panic"));
    assert_eq!(second, third);
    assert_eq!(second.outcome, InterruptOutcome::Terminated);
    assert_eq!(cause(&read(running).await), Cause::TurnInterrupted);
    ran(&read(next).await, "b");
}

#[tokio::test(start_paused = true)]
async fn while_another_is_stopped_one_that_waits_is_cancelled_at_once() {
    let session = Session::start(settings());
    let running = session.ask("a", "deaf").await;
    sleep(SECOND).await;
    let next = session.ask("b", "ok").await;
    let handle = session.handle.clone();
    let stop = spawn_owned(async move { handle.interrupt(true).await.expect("answered") });
    sleep(SECOND).await;
    was_stopped(&session.stop("b").await);
    assert_eq!(cause(&read(next).await), Cause::TurnInterrupted);
    assert!(!stop.is_finished());
    assert_eq!(stop.await.expect("no panic").outcome, InterruptOutcome::Terminated);
    assert_eq!(cause(&read(running).await), Cause::TurnInterrupted);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_ended_and_is_not_told_yet_has_ended() {
    let session = Session::start(settings());
    ran(&read(session.ask("a", "ok").await).await, "a");
    session.store.set(Gate::Locked);
    let untold = session.ask("b", "ok").await;
    sleep(SECOND).await;
    let next = session.ask("c", "ok").await;
    session.has_no("a").await;
    let report = session.stop("b").await;
    assert_eq!((report.outcome, report.had_active_turn), (InterruptOutcome::TurnEnded, true));
    was_stopped(&session.stop("c").await);
    assert_eq!(cause(&read(next).await), Cause::TurnInterrupted);
    session.store.set(Gate::Open);
    ran(&read(untold).await, "b");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_still_answers() {
    let session = Session::start(settings());
    session.supply.stubborn.store(true, std::sync::atomic::Ordering::SeqCst);
    ran(&read(session.ask("a", "ok").await).await, "a");
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let close = CloseReason::Requested { forget: false };
    let closed = spawn_owned(async move { handle.close(close).await });
    sleep(SECOND / 10).await;
    session.has_no("a").await;
    assert!(closed.await.expect("no panic").expect("answered").closed);
}
