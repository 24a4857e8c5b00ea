//! Watchdogs: silence, stalls and turns that last too long.

use tokio::time::{Instant, sleep};

use super::{SECOND, Session, cause, read, settings};
use crate::{
    domain::failure::Cause,
    session::{Settings, status::SessionState},
    turn::event::Class,
};

fn first_chunk_timeout() -> Cause {
    Cause::FirstChunkTimeout { limit: 10 * SECOND, mcp_servers: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn s11_a_silent_process_is_replaced_and_the_caller_told_without_anyone_asking() {
    let session = Session::start(settings());
    let began = Instant::now();
    let seen = read(session.run("a silent").await).await;
    assert_eq!(cause(&seen), first_chunk_timeout());
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(read(session.run("b ok").await).await.end.is_ok());
    assert_eq!(session.supply.most_alive.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(session.tenant.counters.first_chunk_timeouts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn s12_another_caller_takes_the_session_from_a_silent_turn_only() {
    let session = Session::start(settings());
    let silent = session.run("a hang").await;
    sleep(120 * SECOND).await;
    assert_eq!(session.handle.status().condition, SessionState::Active, "nobody else asked");
    let began = Instant::now();
    let next = session.run("b ok").await;
    assert!(read(next).await.end.is_ok());
    assert!(began.elapsed() < SECOND, "the silence was over the limit already");
    assert!(matches!(read(silent).await.frames.last(), Some((Class::InterruptedResult, _))));
}

#[tokio::test(start_paused = true)]
async fn s12_a_turn_whose_tool_runs_is_not_taken() {
    let session = Session::start(settings());
    let tool = session.run("a tool 300000").await;
    sleep(SECOND).await;
    let next = session.run("b ok").await;
    let tool = read(tool).await;
    assert!(matches!(tool.frames.last(), Some((Class::Result, _))), "{tool:?}");
    assert!(read(next).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s21_a_turn_past_the_threshold_is_interrupted_and_the_session_stays() {
    let session = Session::start(settings());
    let seen = read(session.run("a retry 1000").await).await;
    assert!(matches!(seen.frames.last(), Some((Class::InterruptedResult, _))));
    assert_eq!(session.tenant.counters.stuck.get(), 1);
    assert!(read(session.run("b ok").await).await.end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s21_a_stuck_session_that_cannot_be_interrupted_leaves() {
    let limits = Settings { stall_timeout: None, ..settings() };
    let session = Session::start(limits);
    let seen = read(session.run("a deaf").await).await;
    assert_eq!(cause(&seen), Cause::TurnInterrupted);
    session.handle.ended().await;
    assert_eq!(session.supply.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_turn_is_ended_by_itself_unless_a_tool_runs() {
    let session = Session::start(settings());
    let began = Instant::now();
    let seen = read(session.run("a hang").await).await;
    assert_eq!(cause(&seen), Cause::StreamStalled { limit: 600 * SECOND });
    assert_eq!(began.elapsed().as_secs(), 600);
    let tool = read(session.run("b tool 700000").await).await;
    assert!(tool.end.is_ok(), "{tool:?}");
}

#[tokio::test(start_paused = true)]
async fn retries_restart_the_watchdogs() {
    let limits = Settings { stuck_threshold: None, ..settings() };
    let session = Session::start(limits);
    let turn = session.run("a retry 500000").await;
    sleep(3000 * SECOND).await;
    assert_eq!(session.handle.status().condition, SessionState::Active);
    session.handle.interrupt(true).await.expect("answered");
    assert!(read(turn).await.end.is_ok());
}
