//! The session's phases, one behaviour a test, in paused time.

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::{SECOND, Session, cause, read, request, settings, text};
use crate::{
    domain::failure::Cause,
    session::{
        BusyPolicy, CloseReason, DisconnectPolicy, InterruptOutcome, Refusal, Settings,
        status::SessionState,
    },
    turn::event::Class,
};

#[tokio::test(start_paused = true)]
async fn turns_are_served_in_order_by_one_process() {
    let session = Session::start(settings());
    let (a, b) = (session.run("a slow 10").await, session.run("b ok").await);
    let (a, b) = (read(a).await, read(b).await);
    assert!(a.end.is_ok() && b.end.is_ok());
    assert!(text(&a).contains("a slow 10 #2") && !text(&a).contains("b ok"));
    assert!(text(&b).contains("b ok #2") && !text(&b).contains("a slow"));
    assert_eq!(session.supply.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn s10_a_query_during_an_interrupt_waits_for_it() {
    let session = Session::start(settings());
    let hanging = session.run("a lose 3").await;
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let interrupt = crate::tasks::spawn_owned(async move { handle.interrupt(true).await });
    yield_now().await;
    let next = session.run("b ok").await;
    let report = interrupt.await.expect("no panic").expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert!(read(next).await.end.is_ok());
    assert!(matches!(read(hanging).await.frames.last(), Some((Class::InterruptedResult, _))));
}

#[tokio::test(start_paused = true)]
async fn s14_two_callers_never_read_one_answer() {
    let session = Session::start(settings());
    let mut turns = Vec::new();
    for n in 0..4 {
        turns.push((n, session.run(&format!("p{n} slow 5")).await));
    }
    for (n, turn) in turns {
        let seen = read(turn).await;
        assert_eq!(text(&seen).matches(" #").count(), 2, "{seen:?}");
        assert!(text(&seen).contains(&format!("p{n} slow 5 #2")));
    }
}

#[tokio::test(start_paused = true)]
async fn s23_the_last_listener_that_leaves_stops_the_turn() {
    let session = Session::start(settings());
    let first = session.run("a hang").await;
    sleep(SECOND).await;
    let second = session.join().await.expect("joined");
    drop(first);
    sleep(SECOND).await;
    assert!(session.handle.status().is_busy(), "one still listens");
    drop(second);
    sleep(SECOND).await;
    assert!(!session.handle.status().is_busy());
    assert_eq!(session.supply.alive(), 1, "the process serves on");
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s23_a_turn_told_to_continue_outlives_its_listeners() {
    let session = Session::start(settings());
    let mut asked = request("a slow 1000");
    asked.on_disconnect = DisconnectPolicy::Continue;
    drop(session.handle.run(asked).await.expect("taken"));
    sleep(5 * SECOND).await;
    let seen = read(session.join().await.expect("retained")).await;
    assert!(text(&seen).contains("a slow 1000 #2") && seen.end.is_ok());
    sleep(61 * SECOND).await;
    let refused = session.join().await.expect_err("not retained any more");
    assert!(matches!(refused, Refusal::Failed(failure) if failure.cause == Cause::TurnNotFound));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_leaves_the_queue() {
    let session = Session::start(settings());
    let running = session.run("a slow 1000").await;
    drop(session.run("b ok").await);
    let third = session.run("c ok").await;
    assert!(read(running).await.end.is_ok());
    assert!(read(third).await.end.is_ok());
    let heard: Vec<_> = session.supply.heard.lock().expect("no panic").values().cloned().collect();
    assert_eq!(heard, [["a slow 1000", "c ok"]]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_rejects_or_is_interrupted_as_asked() {
    let session = Session::start(settings());
    let running = session.run("a hang").await;
    sleep(SECOND).await;
    let with = |policy, prompt| {
        let mut asked = request(prompt);
        asked.on_busy = policy;
        session.handle.run(asked)
    };
    let refused = with(BusyPolicy::Reject, "b ok").await.expect_err("busy");
    assert!(matches!(refused, Refusal::Failed(failure) if failure.cause == Cause::SessionBusy));
    let queued = session.run("c ok").await;
    let next = with(BusyPolicy::Interrupt, "d ok").await.expect("taken");
    assert!(read(next).await.end.is_ok());
    assert!(read(queued).await.end.is_ok());
    assert!(matches!(read(running).await.frames.last(), Some((Class::InterruptedResult, _))));
    let heard: Vec<_> = session.supply.heard.lock().expect("no panic").values().cloned().collect();
    assert_eq!(heard, [["a hang", "d ok", "c ok"]]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let session = Session::start(settings());
    let _running = session.run("a hang").await;
    sleep(SECOND).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(session.run("b ok").await);
    }
    let refused = session.handle.run(request("c ok")).await.expect_err("full");
    let Refusal::Failed(failure) = refused else { panic!("closed") };
    assert_eq!(failure.cause, Cause::QueueFull { limit: 4 });
}

#[tokio::test(start_paused = true)]
async fn a_lost_interrupt_is_repeated() {
    let session = Session::start(settings());
    let turn = session.run("a lose 4").await;
    sleep(SECOND).await;
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert!(read(turn).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_came_before_the_turn_began_is_repeated_when_it_begins() {
    let session = Session::start(settings());
    // Lost are those of 0, 50, 150 and 350 ms; the next would be at 750 ms.
    let turn = session.run("a late 500 lose 4").await;
    yield_now().await;
    let began = Instant::now();
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert!(began.elapsed() < SECOND / 2 + SECOND / 10, "{:?}", began.elapsed());
    assert!(read(turn).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s16_an_interrupt_that_is_not_answered_ends_the_process_and_all_who_ask_hear_the_same() {
    let session = Session::start(settings());
    let turn = session.run("a deaf").await;
    sleep(SECOND).await;
    let began = Instant::now();
    let (one, two) = tokio::join!(session.handle.interrupt(true), session.handle.interrupt(true));
    let (one, two) = (one.expect("answered"), two.expect("answered"));
    assert_eq!(one, two);
    assert_eq!(one.outcome, InterruptOutcome::Terminated);
    assert!(began.elapsed() < 13 * SECOND, "{:?}", began.elapsed());
    assert_eq!(cause(&read(turn).await), Cause::TurnInterrupted);
    assert_eq!(session.supply.alive(), 0);
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s08_a_session_whose_process_died_continues_on_another() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let before = session.handle.status().cli_session_id;
    session.supply.kill();
    sleep(SECOND).await;
    assert_eq!(session.handle.status().condition, SessionState::Disconnected);
    assert!(read(session.run("b ok").await).await.end.is_ok());
    assert_eq!(session.handle.status().cli_session_id, before);
    assert_eq!(session.tenant.counters.sessions_resumed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_death_in_mid_turn_fails_the_turn_and_repeats_nothing() {
    let session = Session::start(settings());
    let seen = read(session.run("a die").await).await;
    assert!(matches!(cause(&seen), Cause::CliExited { tool_use_seen: false, .. }), "{seen:?}");
    assert!(read(session.run("b ok").await).await.end.is_ok());
    let heard: Vec<_> = session.supply.heard.lock().expect("no panic").values().cloned().collect();
    assert_eq!(heard, [["a die", "b ok"]]);
}

#[tokio::test(start_paused = true)]
async fn d3_rubbish_is_counted_and_a_turn_without_a_result_fails() {
    let session = Session::start(settings());
    assert!(read(session.run("a rubbish").await).await.end.is_ok());
    assert_eq!(session.tenant.counters.stray_lines.get(), 1);
    let seen = read(session.run("b mute-end").await).await;
    assert!(matches!(cause(&seen), Cause::Protocol { .. }), "{seen:?}");
    assert!(read(session.run("c ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_late_first_message_answers_its_own_query() {
    let session = Session::start(settings());
    let (late, next) = (session.run("a late 4000").await, session.run("b ok").await);
    assert!(text(&read(late).await).contains("a late 4000 #2"));
    let next = read(next).await;
    assert!(text(&next).contains("b ok #2") && !text(&next).contains("a late"));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_asked_for_is_not_mixed_with_the_next() {
    let session = Session::start(settings());
    let asked = read(session.run("a background").await).await;
    assert!(!text(&asked).contains("unasked"));
    sleep(SECOND).await;
    let unasked = read(session.join().await.expect("kept")).await;
    assert!(text(&unasked).contains("unasked"));
    let next = read(session.run("b ok").await).await;
    assert!(!text(&next).contains("unasked"));
}

#[tokio::test(start_paused = true)]
async fn s07_a_session_past_its_time_is_as_new_and_goes_on() {
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let (client, conversation) = {
        let status = session.handle.status();
        (status.client_id, status.cli_session_id)
    };
    sleep(3601 * SECOND).await;
    assert!(read(session.run("b ok").await).await.end.is_ok());
    let status = session.handle.status();
    assert_ne!(status.client_id, client);
    assert_eq!(status.cli_session_id, conversation);
    assert_eq!(status.message_count, 1);
    assert_eq!(session.tenant.counters.expired.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn s07_a_running_turn_outlives_the_time_of_its_session() {
    let limits = Settings { stuck_threshold: None, ..settings() };
    let session = Session::start(limits);
    let turn = session.run("a tool 4000000").await;
    sleep(3700 * SECOND).await;
    assert!(session.handle.status().is_busy());
    assert!(read(turn).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s15_a_session_interrupted_without_being_kept_leaves_with_its_process() {
    let session = Session::start(settings());
    let running = session.run("a hang").await;
    let queued = session.run("b ok").await;
    sleep(SECOND).await;
    let report = session.handle.interrupt(false).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    session.handle.ended().await;
    assert_eq!(session.supply.alive(), 0);
    assert!(matches!(read(running).await.frames.last(), Some((Class::InterruptedResult, _))));
    assert_eq!(cause(&read(queued).await), Cause::TurnInterrupted);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_keeps_the_session_keeps_its_queue() {
    let session = Session::start(settings());
    let _running = session.run("a hang").await;
    let queued = session.run("b ok").await;
    sleep(SECOND).await;
    session.handle.interrupt(true).await.expect("answered");
    assert!(read(queued).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_turn_id_runs_once() {
    let session = Session::start(settings());
    let mut asked = request("a slow 100");
    asked.turn_id = Some(crate::domain::ids::TurnId::parse("t").expect("a name"));
    let first = session.handle.run(asked.clone()).await.expect("taken");
    let again = session.handle.run(asked.clone()).await.expect("joined");
    let (first, again) = (read(first).await, read(again).await);
    assert_eq!(first.frames, again.frames);
    let late = read(session.handle.run(asked).await.expect("joined")).await;
    assert_eq!(first.frames, late.frames);
    assert_eq!(session.handle.status().message_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_the_turn_and_the_process_and_the_cleanup_spares_the_busy() {
    let session = Session::start(settings());
    let turn = session.run("a hang").await;
    sleep(SECOND).await;
    let spared = session.handle.close(CloseReason::Idle).await.expect("answered");
    assert!(!spared.closed);
    let report =
        session.handle.close(CloseReason::Requested { forget: false }).await.expect("answered");
    assert!(report.closed && report.had_active_turn);
    session.handle.ended().await;
    assert_eq!(session.supply.alive(), 0);
    assert!(read(turn).await.end.is_ok());
    let refused = session.handle.run(request("b ok")).await.expect_err("gone");
    assert!(matches!(refused, Refusal::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_reads_can_be_interrupted() {
    let session = Session::start(settings());
    let unread = session.run("a slow 1000").await;
    sleep(SECOND).await;
    let report = session.handle.interrupt(true).await.expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Interrupted);
    assert!(read(unread).await.end.is_ok());
}
