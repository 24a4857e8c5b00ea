//! What those who follow a session are told of what its task does.

use std::{sync::Arc, sync::atomic::Ordering};

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{SECOND, Session, answered, cause, gated_store::Gate, read, request, settings};
use crate::{
    domain::{decision::Decision, failure::Cause},
    session::{
        Settings,
        feed::{From, Step, Watcher},
    },
    turn::event::{Class, Event, Partials, PromptResolved, Resolver, Started, Told as _},
};

/// One who follows a session, and what it was told in short.
struct Follower(Watcher);

#[derive(Debug, Default)]
struct Told {
    started: Vec<Arc<Started>>,
    results: usize,
    interrupted: usize,
    failed: Vec<&'static str>,
    resolved: Vec<PromptResolved>,
    gaps: usize,
}

impl Session {
    fn follow(&self) -> Follower {
        let watcher = Watcher::new(Arc::clone(&self.feed), &From::Start, Partials::Hidden);
        Follower(watcher.expect("taken"))
    }
}

impl Follower {
    /// All that there is to be told by now.
    async fn all(&mut self) -> Told {
        let mut told = Told::default();
        while let Ok(step) = timeout(SECOND, self.0.next()).await {
            match step {
                Step::Events { batch, .. } => {
                    for event in batch.events {
                        match event {
                            Event::Started(started) => told.started.push(started),
                            Event::Frame(Class::Result, _) => told.results += 1,
                            Event::Frame(Class::InterruptedResult, _) => told.interrupted += 1,
                            Event::Frame(..) => {}
                        }
                    }
                }
                Step::Failed { failure, .. } => told.failed.push(failure.cause.reason()),
                Step::Aside { class, bytes, .. } => {
                    assert_eq!(class, Class::PromptResolved);
                    told.resolved.extend(PromptResolved::read(&bytes));
                }
                Step::Gap { .. } => told.gaps += 1,
                Step::CaughtUp { .. } => {}
                Step::Over(end) => panic!("{end:?}"),
            }
        }
        told
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_sent_to_a_second_process_is_told_once_with_that_process() {
    let session = Session::start(settings());
    let mut follower = session.follow();
    session.supply.die_at_prompt.store(1, Ordering::SeqCst);
    let seen = read(session.run("a ok").await).await;
    let told = follower.all().await;
    let clients: Vec<_> = told.started.iter().map(|started| started.client_id).collect();
    assert_eq!(clients, [seen.started[0].client_id]);
    assert_eq!((told.results, told.failed.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_never_began_is_not_told_and_one_that_was_stopped_is() {
    let session = Session::start(settings());
    let mut follower = session.follow();
    let running = answered(session.run("a slow 100").await).await;
    let waiting = session.run("b ok").await;
    drop(waiting);
    sleep(SECOND).await;
    assert_eq!(session.handle.status().queued, 0, "its caller has left");
    drop(running);
    sleep(20 * SECOND).await;
    assert!(!session.handle.status().is_busy(), "who follows keeps no turn alive");
    let told = follower.all().await;
    assert_eq!(told.started.len(), 1);
    assert_eq!(told.results + told.interrupted + told.failed.len(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_turn_whose_prompt_no_process_answered_is_told_as_failed() {
    let session = Session::start(settings());
    let mut follower = session.follow();
    session.supply.die_at_prompt.store(2, Ordering::SeqCst);
    let seen = read(session.run("a ok").await).await;
    assert!(matches!(cause(&seen), Cause::CliExited { .. }));
    let told = follower.all().await;
    assert_eq!((told.started.len(), &told.failed[..]), (1, &["CLI_EXITED"][..]));
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_between_turns_is_told_of_no_turn() {
    let session = Session::start(settings());
    let mut follower = session.follow();
    read(session.run("a ask").await).await;
    sleep(2 * SECOND).await;
    follower.all().await;
    let answer = Decision::Raw(json!({"a": 1}).to_string());
    session.handle.respond("p".to_owned(), answer).await.expect("taken");
    let told = follower.all().await;
    let resolved: Vec<_> = told.resolved.iter().map(|it| (it.prompt_id.as_str(), it.by)).collect();
    assert_eq!(resolved, [("p", Resolver::Caller)]);
    // It goes with the turns of its time.
    sleep(settings().turn_retention).await;
    read(session.run("b ok").await).await;
    sleep(SECOND).await;
    let told = session.follow().all().await;
    assert_eq!((told.started.len(), told.resolved.len(), told.gaps), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_kept_as_long_as_turns_can_be_joined() {
    let session = Session::start(Settings { turn_retention: 10 * SECOND, ..settings() });
    let mut follower = session.follow();
    for prompt in ["a ok", "b ok", "c ok"] {
        read(session.run(prompt).await).await;
    }
    assert_eq!(session.follow().all().await.started.len(), 3);
    sleep(11 * SECOND).await;
    assert_eq!(session.follow().all().await.started.len(), 0);
    let told = follower.all().await;
    assert_eq!((told.started.len(), told.gaps), (0, 1), "it had read nothing of them");
    // The newest eight are kept at most.
    for _ in 0..10 {
        read(session.handle.run(request("d ok")).await.expect("taken")).await;
    }
    assert_eq!(session.follow().all().await.started.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_the_cli_began_just_before_a_prompt_is_told_when_it_is_kept() {
    let session = Session::start(settings());
    assert!(read(session.run("first ok").await).await.end.is_ok());
    let completed = || session.tenant.counters.turns_completed.get();
    assert_eq!(completed(), 1);
    let mut follower = session.follow();
    assert_eq!(follower.all().await.results, 1);
    let asked = session.run("a slow 5000 behind-own").await;
    session.store.set(Gate::Locked);
    sleep(SECOND).await;
    assert_eq!(completed(), 1, "told before it is kept");
    session.store.set(Gate::Open);
    sleep(SECOND).await;
    assert_eq!(completed(), 2, "its own turn goes on");
    let seen = read(asked).await;
    assert!(seen.end.is_ok(), "{seen:?}");
    // Each comes from its own log.
    let told = follower.all().await;
    assert_eq!((told.results, told.failed.len()), (2, 0), "{told:?}");
    assert_eq!(told.started.iter().filter(|started| started.background).count(), 1);
    assert_eq!(completed(), 3);
}
