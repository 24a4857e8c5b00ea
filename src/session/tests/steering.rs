//! Messages for the turn that runs: what becomes of each is told once, whatever becomes of the
//! process, and they keep their order.

use std::sync::atomic::Ordering;

use tokio::{task::JoinHandle, time::sleep};

use super::{SECOND, Seen, Session, answered, read, request, settings, text};
use crate::{
    domain::failure::Cause,
    session::{BusyPolicy, InterruptOutcome, Refusal, Settings, TurnRequest},
    tasks::spawn_owned,
    test_support::settle,
    turn::{
        event::Class,
        listener::{Follow, Listener},
    },
};

/// A message for the turn that runs.
pub(super) fn steer(words: &str) -> TurnRequest {
    TurnRequest { on_busy: BusyPolicy::Steer, ..request(words) }
}

/// Reads what the caller of a message hears: the turn that it came in, and those behind that.
pub(super) async fn read_all(mut listener: Listener) -> Vec<Seen> {
    async fn next(follow: &mut Follow) -> Option<Listener> {
        let next = std::future::poll_fn(|cx| follow.poll_next(cx)).await;
        next.map(|next| next.expect("a turn"))
    }
    let mut follow = listener.take_follow();
    let mut all = vec![read(listener).await];
    while let Some(listener) = match &mut follow {
        Some(follow) => next(follow).await,
        None => None,
    } {
        all.push(read(listener).await);
    }
    all
}

async fn say(session: &Session, words: &str) -> JoinHandle<Vec<Seen>> {
    let listener = session.handle.run(steer(words)).await.expect("taken");
    spawn_owned(read_all(listener))
}

/// What was told of messages, the oldest first.
pub(super) fn told(seen: &Seen) -> Vec<&'static str> {
    let told = seen.frames.iter().filter(|(class, _)| *class == Class::Steered);
    told.map(|(_, line)| if line.contains("Taken") { "taken" } else { "became" }).collect()
}

fn heard(session: &Session) -> Vec<String> {
    session.supply.heard().into_iter().flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_mid_tool_is_the_turns_and_what_comes_later_a_turn() {
    for names_prompts in [true, false] {
        let session = Session::start(settings());
        session.supply.names_prompts.store(names_prompts, Ordering::SeqCst);
        let turn = spawn_owned(read(session.run("<0> tool 1000").await));
        settle().await;
        let messages = [say(&session, "<1> ok").await, say(&session, "<2> ok").await];
        let seen = turn.await.expect("no panic");
        assert_eq!(told(&seen), ["taken", "taken"], "{seen:?}");
        for message in messages {
            assert_eq!(message.await.expect("no panic").len(), 1);
        }
        assert_eq!(heard(&session), ["<0> tool 1000", "<1> ok", "<2> ok"]);

        let turn = spawn_owned(read(session.run("<3> slow 400").await));
        settle().await;
        let messages = [say(&session, "<4> ok").await, say(&session, "<5> ok").await];
        assert!(told(&turn.await.expect("no panic")).is_empty());
        for message in messages {
            let all = message.await.expect("no panic");
            assert_eq!(all.len(), 2, "{all:?}");
            assert_eq!(told(&all[1]), ["became", "taken"]);
        }
        assert_eq!(heard(&session)[3..], ["<3> slow 400", "<4> ok", "<5> ok"]);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_outlive_their_process_keep_their_order_and_are_told() {
    let session = Session::start(settings());
    let turn = answered(session.run("<0> hang").await).await;
    let turn = spawn_owned(read(turn));
    let mut messages = Vec::new();
    for words in ["<1> ok", "<2> ok", "<3> ok"] {
        messages.push(say(&session, words).await);
    }
    session.supply.kill();
    messages.push(say(&session, "<4> ok").await);
    messages.push(say(&session, "<5> ok").await);
    assert!(
        matches!(turn.await.expect("no panic").end, Err(failure) if matches!(failure.cause, Cause::CliExited { .. }))
    );
    let mut became = 0;
    for message in messages {
        let all = message.await.expect("no panic");
        let last = all.last().expect("a turn");
        assert!(last.end.is_ok(), "{last:?}");
        became += told(last).len();
    }
    assert!(became >= 3, "{became}");
    assert_eq!(heard(&session), ["<0> hang", "<1> ok", "<2> ok", "<3> ok", "<4> ok", "<5> ok"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_told_of_although_the_process_dies_that_was_to_begin_with_it() {
    let session = Session::start(settings());
    let turn = spawn_owned(read(session.run("<0> slow 500").await));
    settle().await;
    let message = say(&session, "<1> ok").await;
    session.supply.die_at_prompt.store(1, Ordering::SeqCst);
    turn.await.expect("no panic").end.expect("its own end");
    let all = message.await.expect("no panic");
    assert_eq!(all.len(), 2);
    assert!(all[1].end.is_ok(), "{all:?}");
    assert_eq!(told(&all[1]), ["became"]);
    assert_eq!(heard(&session), ["<0> slow 500", "<1> ok"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_with_which_a_dying_process_has_begun_does_not_run_again() {
    for names_prompts in [true, false] {
        let session = Session::start(settings());
        session.supply.names_prompts.store(names_prompts, Ordering::SeqCst);
        let turn = spawn_owned(read(session.run("a late 900").await));
        settle().await;
        // It dies in the moment in which it has the result of the turn before.
        let message = say(&session, "b die").await;
        assert!(turn.await.expect("read").end.is_ok());
        let all = message.await.expect("read");
        let last = all.last().expect("a turn");
        let failure = last.end.as_ref().expect_err("its process died");
        assert!(matches!(failure.cause, Cause::CliExited { .. }), "{failure}");
        assert_eq!(told(last), ["became"]);
        assert!(read(session.run("c").await).await.end.is_ok());
        assert_eq!(heard(&session), ["a late 900", "b die", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_comes_too_late_for_its_turn_is_told_where_it_stops_a_message() {
    let session = Session::start(settings());
    let turn = answered(session.run("<0> stop-late").await).await;
    let turn = spawn_owned(read(turn));
    let message = say(&session, "<1> ok").await;
    settle().await;
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::TurnEnded);
    turn.await.expect("no panic").end.expect("its own end");
    let all = message.await.expect("no panic");
    let last = all[1].frames.last().expect("a result");
    assert_eq!(last.0, Class::InterruptedResult, "{all:?}");
    // What fails by itself later was stopped by nobody.
    let next = read(session.run("<2> ok").await).await;
    assert_eq!(next.frames.last().expect("a result").0, Class::Result);
}

#[tokio::test(start_paused = true)]
async fn more_messages_than_a_turn_may_hold_wait_as_turns_do_within_their_bound() {
    let session = Session::start(Settings { max_queued_turns: 2, ..settings() });
    let turn = answered(session.run("<0> hang").await).await;
    let turn = spawn_owned(read(turn));
    let mut messages = Vec::new();
    for number in 1..=34 {
        messages.push(say(&session, &format!("<{number}> ok")).await);
    }
    let refused = session.handle.run(steer("<35> ok")).await;
    let Err(Refusal::Failed(failure)) = refused else { panic!("{refused:?}") };
    assert!(matches!(failure.cause, Cause::QueueFull { limit: 2 }), "{failure:?}");
    session.handle.interrupt(true).await.expect("answered");
    drop(turn.await);
    for message in messages {
        let all = message.await.expect("no panic");
        assert!(all.last().is_some_and(|seen| seen.end.is_ok()), "{all:?}");
    }
    let expected: Vec<String> = (1..=34).map(|number| format!("<{number}> ok")).collect();
    assert_eq!(heard(&session)[1..], expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_does_not_overtake_one_that_has_to_wait() {
    let session = Session::start(settings());
    let turn = spawn_owned(read(session.run("<0> slow 1000").await));
    settle().await;
    let mut other = steer("<1> slow 1000");
    other.options.model = Some("m1".into());
    let first = spawn_owned(read_all(session.handle.run(other).await.expect("taken")));
    let second = say(&session, "<2> ok").await;
    turn.await.expect("no panic").end.expect("a result");
    sleep(SECOND).await;
    // While the first runs the second still waits.
    let third = say(&session, "<3> ok").await;
    for message in [first, second, third] {
        let all = message.await.expect("no panic");
        assert!(all.iter().all(|seen| seen.end.is_ok() && told(seen).is_empty()), "{all:?}");
    }
    assert_eq!(heard(&session)[1..], ["<1> slow 1000", "<2> ok", "<3> ok"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_cli_says_of_a_task_that_ended_in_a_long_turn_is_no_part_of_the_next_turn() {
    for names_prompts in [true, false] {
        let session = Session::start(settings());
        session.supply.names_prompts.store(names_prompts, Ordering::SeqCst);
        assert!(read(session.run("<0> task 300").await).await.end.is_ok());
        // The task ends in this turn, and its own turn waits for the end of it.
        let turn = spawn_owned(read(session.run("<1> hang").await));
        sleep(10 * SECOND).await;
        let next = TurnRequest { on_busy: BusyPolicy::Interrupt, ..request("<2> ok") };
        let next = read(session.handle.run(next).await.expect("taken")).await;
        assert!(next.end.is_ok() && !text(&next).contains("unasked"), "{next:?}");
        assert!(turn.await.expect("no panic").end.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cli_prints_while_its_folders_are_looked_at_is_no_part_of_the_next_turn() {
    let session = Session::start(settings());
    session.supply.names_prompts.store(false, Ordering::SeqCst);
    assert!(read(session.run("<0> task 300").await).await.end.is_ok());
    *session.supply.recheck_time.lock().expect("no panic") = 2 * SECOND;
    let next = read(session.run("<1> ok").await).await;
    assert!(next.end.is_ok() && !text(&next).contains("unasked"), "{next:?}");
}
