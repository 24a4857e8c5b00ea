//! A session answers while its process dies in a turn: before it is known what that printed last,
//! and so what becomes of the turn.

use std::{future::Future, sync::atomic::Ordering};

use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{SECOND, Seen, Session, cause, read, request, settings, text};
use crate::{
    domain::{decision::Decision, exit::Exit, failure::Cause},
    session::{
        BusyPolicy, CloseReason, HibernateReason, InterruptOutcome, InterruptReport, Refusal,
    },
    tasks::spawn_owned,
};

/// Without waiting for what the process printed last.
async fn at_once<T>(answer: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = answer.await;
    assert!(began.elapsed().as_millis() < 10, "{:?}", began.elapsed());
    answer
}

#[track_caller]
fn died(seen: &Seen) -> Exit {
    let Cause::CliExited { exit, .. } = cause(seen) else { panic!("{seen:?}") };
    exit
}

/// Which of the ways to die.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// It has ended, and a child of its own holds its output open.
    Orphan,
    /// It has closed its output, and ends a little later.
    Shut,
}

const DEATHS: [Death; 2] = [Death::Orphan, Death::Shut];

impl Session {
    /// A session whose process is dying in a turn that has printed something.
    async fn dying(death: Death) -> (Self, JoinHandle<Seen>) {
        let session = Self::start(settings());
        let prompt = match death {
            Death::Orphan => "x hang",
            Death::Shut => "x shut 400",
        };
        let turn = spawn_owned(read(session.run(prompt).await));
        if let Death::Orphan = death {
            sleep(SECOND).await;
            session.leave_an_orphan(&[]);
            session.supply.kill();
        }
        // It is being waited for: 100 ms for what it printed, 500 ms for its end.
        sleep(SECOND / 100).await;
        assert!(!turn.is_finished(), "{death:?}");
        (session, turn)
    }

    /// The next CLI that dies leaves a child, which prints these.
    fn leave_an_orphan(&self, frames: &[Value]) {
        *self.supply.orphan.lock().expect("no panic") = Some(frames.to_vec());
    }

    /// Those that end later end at once.
    fn leave_no_orphan(&self) {
        *self.supply.orphan.lock().expect("no panic") = None;
    }

    fn interrupting(&self) -> JoinHandle<InterruptReport> {
        let handle = self.handle.clone();
        spawn_owned(async move { handle.interrupt(true).await.expect("answered") })
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_process_dies_in_a_turn_a_session_answers() {
    for death in DEATHS {
        let (session, turn) = Session::dying(death).await;
        let joined = at_once(session.join()).await.expect("it can be joined");
        let joined = spawn_owned(read(joined));
        assert!(!at_once(session.handle.hibernate(HibernateReason::Pressure)).await);
        let next = spawn_owned(read(at_once(session.run("a ok")).await));
        let mut busy = request("b ok");
        busy.on_busy = BusyPolicy::Reject;
        let Err(Refusal::Failed(failure)) = at_once(session.handle.run(busy)).await else {
            panic!("it is busy")
        };
        assert!(matches!(failure.cause, Cause::SessionBusy), "{failure}");
        assert!(!turn.is_finished(), "{death:?}");
        session.leave_no_orphan();
        for seen in [turn.await.expect("no panic"), joined.await.expect("no panic")] {
            died(&seen);
            assert!(text(&seen).contains("x "), "what it printed comes before its end: {seen:?}");
            let numbers: Vec<_> = (1..=seen.sequences.len() as u64).collect();
            assert_eq!(seen.sequences, numbers, "{death:?}");
        }
        let next = next.await.expect("no panic");
        assert!(next.end.is_ok() && text(&next).contains("a ok #2"), "{next:?}");
        assert_eq!(session.supply.most_alive(), 1, "one after the other");
    }
}

/// What is asked meanwhile is of no turn: the log has what was printed in its order, then the end.
#[tokio::test(start_paused = true)]
async fn what_a_dead_process_printed_last_comes_before_the_end_of_its_turn() {
    let words = json!({"type": "system", "subtype": "news", "text": "last words"});
    let result = json!({"type": "result", "is_error": false, "result": "just in time"});
    for (printed, is_ok) in [(vec![words.clone()], false), (vec![words, result], true)] {
        let session = Session::start(settings());
        let turn = spawn_owned(read(session.run("x hang").await));
        sleep(SECOND).await;
        session.leave_an_orphan(&printed);
        session.supply.kill();
        sleep(SECOND / 100).await;
        let interrupt = session.interrupting();
        let next = spawn_owned(read(at_once(session.run("a ok")).await));
        session.leave_no_orphan();
        let seen = turn.await.expect("no panic");
        let lines: Vec<_> = seen.frames.iter().map(|(_, line)| line.as_str()).collect();
        let place = |word: &str| lines.iter().position(|line| line.contains(word));
        assert!(place("x hang #1") < place("last words"), "{lines:?}");
        assert_eq!(seen.end.is_ok(), is_ok, "{seen:?}");
        if is_ok {
            assert_eq!(place("just in time"), Some(lines.len() - 1), "{lines:?}");
        } else {
            assert_eq!(died(&seen), Exit::Signal(9));
            assert_eq!(place("last words"), Some(lines.len() - 1), "{lines:?}");
        }
        // It had ended by itself, which could not be known before.
        let report = interrupt.await.expect("no panic");
        assert_eq!((report.outcome, report.had_active_turn), (InterruptOutcome::TurnEnded, true));
        assert!(next.await.expect("no panic").end.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_of_a_turn_whose_process_dies_says_that_it_had_ended() {
    for death in DEATHS {
        let (session, turn) = Session::dying(death).await;
        let report = session.interrupting().await.expect("no panic");
        assert_eq!((report.outcome, report.had_active_turn), (InterruptOutcome::TurnEnded, true));
        died(&turn.await.expect("no panic"));
        assert_eq!(session.tenant.counters.interrupted.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_while_a_process_dies_ends_the_session_behind_it() {
    for death in DEATHS {
        let (session, turn) = Session::dying(death).await;
        let handle = session.handle.clone();
        let close = CloseReason::Requested { forget: false };
        let closed = spawn_owned(async move { handle.close(close).await });
        sleep(SECOND / 100).await;
        let refused = at_once(session.handle.run(request("b ok"))).await;
        assert!(matches!(refused, Err(Refusal::Closed)), "it leaves");
        died(&turn.await.expect("no panic"));
        let report = closed.await.expect("no panic").expect("answered");
        assert!(report.closed && report.had_active_turn, "{report:?}");
        session.handle.ended().await;
        assert_eq!(session.supply.alive(), 0);
    }
}

/// A prompt that no frame has answered would run on another process.
#[tokio::test(start_paused = true)]
async fn a_turn_that_is_stopped_while_its_process_dies_is_not_sent_again() {
    for by_another_turn in [false, true] {
        let session = Session::start(settings());
        assert!(read(session.run("a ok").await).await.end.is_ok());
        session.supply.die_at_prompt.store(1, Ordering::SeqCst);
        session.leave_an_orphan(&[]);
        let turn = spawn_owned(read(session.run("b ok").await));
        sleep(SECOND / 100).await;
        assert!(!turn.is_finished());
        if by_another_turn {
            let mut next = request("c ok");
            next.on_busy = BusyPolicy::Interrupt;
            let next = at_once(session.handle.run(next)).await.expect("taken");
            session.leave_no_orphan();
            assert!(read(next).await.end.is_ok());
        } else {
            let report = session.interrupting().await.expect("no panic");
            let (outcome, had) = (report.outcome, report.had_active_turn);
            assert_eq!((outcome, had), (InterruptOutcome::Interrupted, true));
        }
        let seen = turn.await.expect("no panic");
        assert_eq!(cause(&seen), Cause::TurnInterrupted);
        assert!(seen.started.is_empty(), "it has not begun: {seen:?}");
        assert!(session.supply.heard().concat().iter().all(|prompt| prompt != "b ok"));
        assert_eq!(session.tenant.counters.interrupted.get(), 1);
    }
}

/// Nobody is left who could be given it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_while_the_process_dies_that_asked_is_refused_behind_it() {
    let (session, turn) = Session::dying(Death::Shut).await;
    let handle = session.handle.clone();
    let answer =
        spawn_owned(async move { handle.respond("p".into(), Decision::Raw("{}".into())).await });
    // What comes behind it is answered before it.
    at_once(session.join()).await.expect("it can be joined");
    assert!(!answer.is_finished());
    died(&turn.await.expect("no panic"));
    let Err(Refusal::Failed(failure)) = answer.await.expect("no panic") else {
        panic!("it has ended")
    };
    assert!(matches!(failure.cause, Cause::PromptNotFound { .. }), "{failure}");
    assert!(session.supply.answers.lock().expect("no panic").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_turn_whose_caller_leaves_while_its_process_dies_is_not_sent_again() {
    let session = Session::start(settings());
    assert!(read(session.run("a ok").await).await.end.is_ok());
    session.supply.die_at_prompt.store(1, Ordering::SeqCst);
    session.leave_an_orphan(&[]);
    let left = session.run("b ok").await;
    sleep(SECOND / 100).await;
    drop(left);
    session.leave_no_orphan();
    sleep(5 * SECOND).await;
    assert!(!session.handle.status().is_busy());
    assert_eq!(session.supply.heard(), [["a ok"]]);
    assert!(read(session.run("c ok").await).await.end.is_ok());
}
