//! A session whose store waits or fails: it goes on, tells nothing that is not kept, and
//! begins nothing that might be lost.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    SECOND, Seen, Session, Settings, cause,
    gated_store::{Gate, LOCK_LIMIT},
    read, request, settings, text,
};
use crate::{
    domain::{failure::Cause, options::Options},
    session::{CloseReason, InterruptOutcome, Refusal, status::SessionState},
    tasks::spawn_owned,
    turn::event::Class,
};

/// A session that ends is waited for so long, whatever the store does.
const ENDED: Duration = Duration::from_secs(4);

const FORGET: CloseReason = CloseReason::Requested { forget: true };

impl Session {
    /// A session that has had a turn, and whose store waits from now on.
    async fn locked() -> Self {
        let session = Self::start(settings());
        assert!(read(session.run("first ok").await).await.end.is_ok());
        session.store.set(Gate::Locked);
        session
    }

    /// A turn whose result is in, but not kept.
    async fn untold(&self, prompt: &str) -> JoinHandle<Seen> {
        let turn = spawn_owned(read(self.run(prompt).await));
        sleep(SECOND).await;
        assert!(!turn.is_finished(), "told before it is kept");
        turn
    }

    async fn told(&self, turn: JoinHandle<Seen>) -> Seen {
        self.store.set(Gate::Open);
        sleep(SECOND).await;
        assert!(turn.is_finished(), "kept, and not told");
        turn.await.expect("no panic")
    }
}

#[tokio::test(start_paused = true)]
async fn a3_an_interrupt_does_not_wait_for_the_commit_of_a_turn_that_has_ended() {
    let session = Session::locked().await;
    let turn = session.untold("a ok").await;
    assert!(session.handle.status().is_busy(), "it is not over for its caller");
    let began = Instant::now();
    let report = session.handle.interrupt(true).await.expect("answered");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(report.outcome, InterruptOutcome::TurnEnded);
    assert!(report.had_active_turn);
    // Who joins it waits, too.
    let joined = session.join().await.expect("joined");
    assert!(!turn.is_finished());
    let seen = session.told(turn).await;
    assert!(seen.end.is_ok() && text(&seen).contains("a ok #2"), "{seen:?}");
    assert_eq!(text(&read(joined).await), text(&seen));
    assert!(!session.handle.status().is_busy());
    assert_eq!(session.supply.alive(), 1, "the process serves on");
}

#[tokio::test(start_paused = true)]
async fn a3_a_turn_is_stopped_at_once_and_told_when_that_is_kept() {
    for keep in [true, false] {
        let session = Session::locked().await;
        let turn = session.untold("a hang").await;
        let began = Instant::now();
        let report = session.handle.interrupt(keep).await.expect("answered");
        let bound = if keep { SECOND } else { ENDED };
        assert!(began.elapsed() < bound, "{:?}", began.elapsed());
        assert_eq!(report.outcome, InterruptOutcome::Interrupted);
        assert_eq!(session.supply.alive(), usize::from(keep));
        assert!(!turn.is_finished());
        let seen = session.told(turn).await;
        assert!(matches!(seen.frames.last(), Some((Class::InterruptedResult, _))), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a3_a_close_ends_the_process_and_leaves_the_result_to_be_told() {
    let session = Session::locked().await;
    let turn = session.untold("a ok").await;
    let began = Instant::now();
    let close = CloseReason::Requested { forget: false };
    let report = session.handle.close(close).await.expect("answered");
    assert!(report.closed && report.had_active_turn);
    assert!(began.elapsed() < ENDED, "{:?}", began.elapsed());
    assert_eq!(session.supply.alive(), 0);
    assert_eq!(session.handle.status().condition, SessionState::Disconnected);
    // It can be asked and joined until it is gone; a new turn is for the session after it.
    let again = session.handle.close(close).await.expect("answered");
    assert!(again.closed && began.elapsed() < ENDED);
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::TurnEnded);
    let joined = session.join().await.expect("joined");
    let refused = session.handle.run(request("b ok")).await.expect_err("it ends");
    assert!(matches!(refused, Refusal::Closed));
    assert!(!turn.is_finished());
    let seen = session.told(turn).await;
    assert!(seen.end.is_ok() && text(&seen).contains("a ok #2"), "{seen:?}");
    assert!(read(joined).await.end.is_ok());
    session.handle.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a3_a_close_that_forgets_is_answered_when_it_is_forgotten() {
    for (gate, forgotten) in [(Gate::Open, true), (Gate::Broken, false)] {
        let session = Session::locked().await;
        let turn = session.untold("a ok").await;
        let handle = session.handle.clone();
        let close = spawn_owned(async move {
            handle.close(CloseReason::Requested { forget: true }).await.expect("answered")
        });
        sleep(SECOND).await;
        // Who interrupts it meanwhile, or all sessions, does not wait for that.
        let began = Instant::now();
        session.handle.interrupt(true).await.expect("answered");
        assert!(began.elapsed() < ENDED, "{:?}", began.elapsed());
        sleep(30 * SECOND).await;
        assert!(!close.is_finished(), "it is still there");
        assert_eq!(session.supply.alive(), 0, "its process is not");
        session.store.set(gate);
        let report = close.await.expect("no panic");
        assert_eq!(report.not_forgotten.is_none(), forgotten, "{report:?}");
        if let Some(cause) = report.not_forgotten {
            assert!(matches!(cause, Cause::StoreUnavailable { .. }), "{cause:?}");
        }
        assert_eq!(turn.await.expect("no panic").end.is_ok(), forgotten);
    }
}

#[tokio::test(start_paused = true)]
async fn a3_a_close_that_forgets_waits_for_a_lock_as_long_as_one_commit() {
    for untold in [false, true] {
        let session = Session::locked().await;
        let turn = match untold {
            true => Some(session.untold("a ok").await),
            false => None,
        };
        let began = Instant::now();
        let close = session.handle.close(FORGET).await.expect("answered");
        assert!(began.elapsed() < LOCK_LIMIT + 2 * SECOND, "{:?}", began.elapsed());
        let cause = close.not_forgotten.expect("it is still there");
        assert!(matches!(cause, Cause::StoreUnavailable { .. }), "{cause:?}");
        if let Some(turn) = turn {
            let seen = turn.await.expect("no panic");
            assert!(matches!(super::cause(&seen), Cause::StoreUnavailable { .. }), "{seen:?}");
        }
        session.handle.ended().await;
        assert!(began.elapsed() < LOCK_LIMIT + 2 * SECOND, "{:?}: it is there", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a3_a_close_that_forgets_is_answered_in_time_by_a_store_that_hangs() {
    let session = Session::locked().await;
    session.store.set(Gate::Hanging);
    let turn = session.untold("a ok").await;
    let began = Instant::now();
    // Who comes when it is late already is told so at once.
    for _ in 0..2 {
        let close = session.handle.close(FORGET).await.expect("answered");
        assert!(began.elapsed() < LOCK_LIMIT + 2 * SECOND, "{:?}", began.elapsed());
        let cause = close.not_forgotten.expect("it is still there");
        assert!(matches!(cause, Cause::StoreUnavailable { .. }), "{cause:?}");
    }
    assert!(!turn.is_finished(), "nothing is known of it");
    let conversation = session.handle.status().cli_session_id;
    assert!(session.told(turn).await.end.is_ok());
    session.handle.ended().await;
    assert_eq!(session.lines(conversation).await, 0, "it is forgotten all the same");
}

#[tokio::test(start_paused = true)]
async fn a3_the_next_turn_waits_for_the_commit_of_the_one_before() {
    let session = Session::locked().await;
    let turn = session.untold("a ok").await;
    let next = spawn_owned(read(session.run("b ok").await));
    sleep(30 * SECOND).await;
    let heard = || session.supply.heard.lock().expect("no panic").values().flatten().count();
    assert_eq!(heard(), 2, "what might be lost is not sent");
    assert!(session.told(turn).await.end.is_ok());
    assert!(next.await.expect("no panic").end.is_ok());
    assert_eq!(heard(), 3);
}

#[tokio::test(start_paused = true)]
async fn a3_a_lock_that_lasts_ends_all_that_wait_together() {
    let session = Session::locked().await;
    let began = Instant::now();
    let turn = session.untold("a ok").await;
    let mut next = Vec::new();
    for prompt in ["b ok", "c ok", "d ok"] {
        next.push(spawn_owned(read(session.run(prompt).await)));
    }
    let seen = turn.await.expect("no panic");
    assert!(matches!(cause(&seen), Cause::StoreUnavailable { .. }), "{seen:?}");
    for turn in next {
        let seen = turn.await.expect("no panic");
        assert!(matches!(cause(&seen), Cause::StoreUnavailable { .. }), "{seen:?}");
        assert!(seen.started.is_empty(), "it was never sent: {seen:?}");
    }
    assert!(began.elapsed() < 2 * LOCK_LIMIT + SECOND, "{:?}: one by one", began.elapsed());
    session.store.set(Gate::Open);
    assert!(read(session.run("e ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a3_no_turn_begins_while_the_store_fails() {
    for lost in [false, true] {
        let session = Session::start(settings());
        assert!(read(session.run("first ok").await).await.end.is_ok());
        if lost {
            session.supply.kill();
            sleep(SECOND).await;
        }
        session.store.set(Gate::Broken);
        for prompt in ["a ok", "b ok"] {
            let seen = read(session.run(prompt).await).await;
            assert!(matches!(cause(&seen), Cause::StoreUnavailable { .. }), "{seen:?}");
            assert!(seen.started.is_empty(), "{seen:?}");
        }
        session.store.set(Gate::Open);
        assert!(read(session.run("c ok").await).await.end.is_ok());
        let heard = session.supply.heard.lock().expect("no panic").values().flatten().count();
        assert_eq!(heard, 2, "what could not be kept was not asked");
    }
}

#[tokio::test(start_paused = true)]
async fn a3_what_a_long_turn_says_is_told_while_it_waits_to_be_kept() {
    let session = Session::locked().await;
    let began = Instant::now();
    // Six times what is held for the end of a turn.
    let turn = spawn_owned(read(session.run("a much 6").await));
    sleep(SECOND).await;
    let mut joined = session.join().await.expect("joined");
    let mut said = String::new();
    while !said.contains("a much 6 #2") {
        let batch = joined.batch().await.expect("no failure").expect("it goes on");
        said.extend(batch.events.iter().map(|event| format!("{event:?}")));
    }
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert!(!turn.is_finished());
    assert!(session.told(turn).await.end.is_ok());
    let conversation = session.handle.status().cli_session_id;
    assert_eq!(session.lines(conversation).await, 6, "nothing is lost or kept twice");
}

#[tokio::test(start_paused = true)]
async fn a3_a_cli_waits_when_too_much_waits_to_be_kept() {
    let session = Session::locked().await;
    let turn = session.untold("a much 60").await;
    let joined = spawn_owned(read(session.join().await.expect("joined")));
    sleep(30 * SECOND).await;
    assert!(!turn.is_finished() && !joined.is_finished());
    let read = session.tenant.counters.frames.get();
    assert!((30..50).contains(&read), "{read} frames of 900 kB are read");
    assert!(session.told(turn).await.end.is_ok());
    let conversation = session.handle.status().cli_session_id;
    assert_eq!(session.lines(conversation).await, 60, "nothing is lost or kept twice");
}

#[tokio::test(start_paused = true)]
async fn a3_a_cli_does_not_wait_for_ever_for_a_store_that_goes_on_failing() {
    let session = Session::start(Settings { stuck_threshold: None, ..settings() });
    session.store.set(Gate::Locked);
    let began = Instant::now();
    let turn = spawn_owned(read(session.run("a much 45").await));
    sleep(30 * SECOND).await;
    assert!(!turn.is_finished(), "the CLI waits");
    session.store.set(Gate::Broken);
    let seen = turn.await.expect("no panic");
    assert!(matches!(cause(&seen), Cause::StoreUnavailable { .. }), "{:?}", seen.end);
    assert!(began.elapsed() < LOCK_LIMIT + 2 * SECOND, "{:?}", began.elapsed());
    session.store.set(Gate::Open);
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a3_a_change_of_options_is_answered_when_it_is_kept_and_holds_up_nobody() {
    for lost in [false, true] {
        let session = Session::start(settings());
        assert!(read(session.run("first ok").await).await.end.is_ok());
        if lost {
            session.supply.kill();
            sleep(SECOND).await;
        }
        session.store.set(Gate::Locked);
        let handle = session.handle.clone();
        let options = Options { model: Some("m1".into()), ..Options::default() };
        let update = spawn_owned(async move { handle.update(options).await.expect("changed") });
        sleep(SECOND).await;
        assert!(!update.is_finished(), "it is not kept");
        let began = Instant::now();
        let report = session.handle.interrupt(true).await.expect("answered");
        assert_eq!(report.outcome, InterruptOutcome::NoActiveTurn);
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        session.store.set(Gate::Open);
        assert_eq!(update.await.expect("no panic").changed, ["model"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a3_a_death_in_mid_turn_is_told_when_the_session_is_kept() {
    let session = Session::locked().await;
    let turn = session.untold("a die").await;
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::TurnEnded);
    let seen = session.told(turn).await;
    assert!(matches!(cause(&seen), Cause::CliExited { .. }), "{seen:?}");
}
