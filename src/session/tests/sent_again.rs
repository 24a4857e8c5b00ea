//! A prompt that its process did not answer with a single frame runs on another.

use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep};

use super::{SECOND, Seen, Session, cause, read, request, settings, text};
use crate::{
    domain::{exit::Exit, failure::Cause, options::Options},
    session::{DisconnectPolicy, InterruptOutcome, Settings},
    turn::event::ProcessOrigin,
};

impl Session {
    /// The next CLIs that read a prompt die of it without a word.
    fn die_at_prompt(&self, count: usize) {
        self.supply.die_at_prompt.store(count, Ordering::SeqCst);
    }

    fn heard(&self) -> Vec<Vec<String>> {
        self.supply.heard.lock().expect("no panic").values().cloned().collect()
    }
}

#[track_caller]
fn origin(seen: &Seen) -> ProcessOrigin {
    assert_eq!(seen.started.len(), 1, "started is told once: {seen:?}");
    seen.started[0].origin
}

#[tokio::test(start_paused = true)]
async fn e5_a_prompt_that_no_frame_answered_runs_on_another_process() {
    let session = Session::start(settings());
    let first = read(session.run("a ok").await).await;
    session.die_at_prompt(1);
    let again = read(session.run("b ok").await).await;
    assert!(text(&again).contains("b ok #2") && again.end.is_ok(), "{again:?}");
    // What is told is where it ran.
    assert_eq!(origin(&again), ProcessOrigin::Resumed);
    assert_ne!(again.started[0].client_id, first.started[0].client_id);
    assert_eq!(Some(again.started[0].client_id), session.handle.status().client_id);
    assert_eq!(session.heard(), [["a ok", "b ok"]], "one conversation, each prompt once");
    assert_eq!(session.handle.status().message_count, 2);
    assert_eq!(session.tenant.counters.cli_exits.get(), 1);
    assert_eq!(session.tenant.counters.turns_failed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn e5_the_first_prompt_of_a_session_runs_on_another_process_too() {
    let session = Session::start(settings());
    session.die_at_prompt(1);
    let seen = read(session.run("a ok").await).await;
    assert!(text(&seen).contains("a ok #2") && seen.end.is_ok(), "{seen:?}");
    assert_eq!(origin(&seen), ProcessOrigin::Created, "nothing was said that could be resumed");
}

#[tokio::test(start_paused = true)]
async fn e5_a_prompt_is_sent_twice_and_not_three_times() {
    let session = Session::start(settings());
    session.die_at_prompt(2);
    let seen = read(session.run("a ok").await).await;
    let Cause::CliExited { exit, tool_use_seen, .. } = cause(&seen) else { panic!("{seen:?}") };
    assert_eq!((exit, tool_use_seen), (Exit::Signal(9), false));
    assert_eq!(origin(&seen), ProcessOrigin::Created);
    assert_eq!(session.supply.die_at_prompt.load(Ordering::SeqCst), 0);
    assert!(read(session.run("b ok").await).await.end.is_ok());
    assert_eq!(session.heard(), [["b ok"]]);
}

#[tokio::test(start_paused = true)]
async fn e5_without_recovery_a_prompt_is_sent_once() {
    let session = Session::start(Settings { connection_recovery: false, ..settings() });
    session.die_at_prompt(1);
    let seen = read(session.run("a ok").await).await;
    assert!(matches!(cause(&seen), Cause::CliExited { .. }), "{seen:?}");
    assert_eq!(origin(&seen), ProcessOrigin::Created);
}

#[tokio::test(start_paused = true)]
async fn e5_an_interrupted_turn_is_not_sent_again() {
    let session = Session::start(settings());
    let turn = session.run("a untaken").await;
    sleep(SECOND).await;
    let handle = session.handle.clone();
    let interrupt = crate::tasks::spawn_owned(async move { handle.interrupt(true).await });
    sleep(SECOND).await;
    session.supply.kill();
    let report = interrupt.await.expect("no panic").expect("answered");
    assert_eq!(report.outcome, InterruptOutcome::Terminated);
    let seen = read(turn).await;
    assert_eq!(cause(&seen), Cause::TurnInterrupted);
    assert_eq!(origin(&seen), ProcessOrigin::Created);
    assert_eq!(session.supply.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn e5_a_turn_that_is_sent_again_can_be_interrupted_and_left() {
    for leaves in [false, true] {
        let session = Session::start(settings());
        read(session.run("a ok").await).await;
        *session.supply.start_time.lock().expect("no panic") = 5 * SECOND;
        session.die_at_prompt(1);
        let turn = session.run("b ok").await;
        sleep(SECOND).await;
        if leaves {
            drop(turn);
            sleep(SECOND).await;
        } else {
            let report = session.handle.interrupt(true).await.expect("answered");
            assert_eq!(report.outcome, InterruptOutcome::Interrupted);
            let seen = read(turn).await;
            assert_eq!(cause(&seen), Cause::TurnInterrupted);
            assert!(seen.started.is_empty(), "no process ever had it: {seen:?}");
        }
        assert!(!session.handle.status().is_busy());
        assert_eq!(session.heard(), [["a ok"]]);
    }
}

#[tokio::test(start_paused = true)]
async fn e5_a_turn_whose_callers_have_left_is_sent_again_where_it_goes_on_without_them() {
    let session = Session::start(settings());
    session.die_at_prompt(1);
    let mut asked = request("a ok");
    asked.on_disconnect = DisconnectPolicy::Continue;
    drop(session.handle.run(asked).await.expect("taken"));
    sleep(SECOND).await;
    let seen = read(session.join().await.expect("kept")).await;
    assert!(text(&seen).contains("a ok #2") && seen.end.is_ok(), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn e5_the_wait_for_the_first_frame_goes_on_with_the_second_process() {
    let session = Session::start(settings());
    let began = Instant::now();
    let turn = session.run("a untaken").await;
    sleep(6 * SECOND).await;
    session.supply.kill();
    let seen = read(turn).await;
    assert_eq!(
        cause(&seen),
        Cause::FirstChunkTimeout { limit: 10 * SECOND, mcp_servers: Vec::new() }
    );
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn e5_a_process_that_dies_of_a_change_of_options_leaves_it_to_the_next() {
    let options = || Options { model: Some("fatal".into()), ..Options::default() };
    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let mut asked = request("b ok");
    asked.options = options();
    let seen = read(session.handle.run(asked).await.expect("taken")).await;
    assert!(text(&seen).contains("b ok #2") && seen.end.is_ok(), "{seen:?}");
    assert_eq!(origin(&seen), ProcessOrigin::Resumed);

    let session = Session::start(settings());
    read(session.run("a ok").await).await;
    let report = session.handle.update(options()).await.expect("changed");
    assert_eq!(report.changed, ["model"]);
    assert_eq!(session.handle.status().options.model.as_deref(), Some("fatal"));
    assert!(read(session.run("b ok").await).await.end.is_ok());
}
