//! Sessions that are followed: whether or not they have a task, and however they end.

use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::{Bed, Given, SECOND, key, settings};
use crate::{
    domain::failure::{Cause, Failure},
    pool::{Scope, Told, Watch},
    session::{
        CloseReason, Settings,
        feed::{From, Step},
        status::SessionState,
    },
    store::Store as _,
    tasks::spawn_owned,
    test_support::until,
    turn::event::{Event, Partials},
};

/// What one who follows a session was told in short.
#[derive(Debug, Default)]
struct Seen {
    started: usize,
    gaps: usize,
    failed: Vec<&'static str>,
    pictures: Vec<SessionState>,
    cursor: String,
    over: Option<Option<&'static str>>,
}

async fn all(watch: &mut Watch) -> Seen {
    let mut seen = Seen::default();
    while let Ok(told) = timeout(SECOND, watch.next()).await {
        match told {
            Told::Status(status) => seen.pictures.push(status.condition),
            Told::Step(Step::Events { position, batch, .. }) => {
                let last = batch.first + batch.events.len() as u64 - 1;
                seen.cursor = watch.cursor(position, last);
                let started = batch.events.iter().filter(|it| matches!(it, Event::Started(_)));
                seen.started += started.count();
            }
            Told::Step(Step::Failed { failure, .. }) => seen.failed.push(failure.cause.reason()),
            Told::Step(Step::Gap { before, .. }) => {
                seen.cursor = before;
                seen.gaps += 1;
            }
            Told::Step(Step::CaughtUp { cursor }) => seen.cursor = cursor,
            Told::Step(Step::Aside { .. }) => {}
            Told::Step(Step::Over(end)) => {
                seen.over = Some(end.err().map(|failure| failure.cause.reason()));
                break;
            }
        }
    }
    seen
}

/// A pool whose sessions leave their tasks soon.
fn restless() -> Given {
    let session = Settings { hibernate_after: Some(SECOND), turn_retention: SECOND, ..settings() };
    Given { session, ..Given::default() }
}

impl Bed {
    async fn watch(&self, name: &str) -> Result<Watch, Failure> {
        self.pool.watch(&key(name), From::Now, Partials::Hidden).await
    }

    async fn unloaded(&self) {
        until("nobody has a task", || self.pool.handles(&Scope::All).is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_session_without_a_task_waits_for_one_and_gives_it_none() {
    let bed = Bed::start(restless());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.unloaded().await;
    let mut watch = bed.watch("s").await.expect("in the pool");
    let seen = all(&mut watch).await;
    assert_eq!((seen.pictures, seen.over), (vec![SessionState::Hibernated], None));
    sleep(100 * SECOND).await;
    assert!(bed.pool.handles(&Scope::All).is_empty(), "nor is it loaded");
    assert_eq!((bed.supply.alive(), bed.pool.lock().at_hand()), (0, 0));
    assert!(bed.run("s", "b ok").await.end.is_ok());
    let seen = all(&mut watch).await;
    assert_eq!((seen.started, seen.gaps), (1, 0));
    assert_eq!(seen.pictures.last(), Some(&SessionState::Active));
    bed.unloaded().await;
    let seen = all(&mut watch).await;
    assert_eq!((seen.pictures.last(), seen.gaps), (Some(&SessionState::Hibernated), 0));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_session_that_was_unloaded_has_lost_nothing() {
    let bed = Bed::start(restless());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let mut watch = bed.watch("s").await.expect("in the pool");
    assert!(bed.run("s", "b ok").await.end.is_ok());
    let Seen { cursor, started: 1, .. } = all(&mut watch).await else { panic!("not told") };
    drop(watch);
    bed.unloaded().await;
    let from = crate::session::feed::Cursor::parse(&cursor, &key("s").session).expect("a cursor");
    let from = From::Cursor(from, cursor);
    let again = bed.pool.watch(&key("s"), from.clone(), Partials::Hidden).await;
    assert_eq!(all(&mut again.expect("nothing is missing")).await.gaps, 0);
    assert!(bed.run("s", "c ok").await.end.is_ok());
    bed.unloaded().await;
    let again = bed.pool.watch(&key("s"), from, Partials::Hidden).await;
    assert!(matches!(again.expect_err("c is not kept").cause, Cause::CursorExpired { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_in_the_pool_is_not_followed() {
    let bed = Bed::start(Given::default());
    let refused = |watch: Result<Watch, Failure>| watch.expect_err("refused").cause;
    assert_eq!(refused(bed.watch("s").await), Cause::SessionNotFound);
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.pool.close(&key("s"), false).await.expect("closed");
    assert!(bed.record("s").await.is_some(), "its conversation is kept");
    assert_eq!(refused(bed.watch("s").await), Cause::SessionNotFound);
    assert_eq!(bed.pool.lock().feeds.len(), 0, "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn who_follows_is_told_the_end_of_a_session_however_it_ends() {
    // By a close, of one that rests and of one that works.
    let bed = Bed::start(restless());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.unloaded().await;
    let mut watch = bed.watch("s").await.expect("in the pool");
    bed.pool.close(&key("s"), true).await.expect("closed");
    assert_eq!(all(&mut watch).await.over, Some(None));
    let _turn = bed.begin("s", "a slow 100").await;
    let mut watch = bed.watch("s").await.expect("in the pool");
    bed.pool.close(&key("s"), false).await.expect("closed");
    assert_eq!(all(&mut watch).await.over, Some(None));

    // By the cleanup, of one that rests.
    let bed = Bed::start(restless());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.unloaded().await;
    let mut watch = bed.watch("s").await.expect("in the pool");
    sleep(bed_idle() + 100 * SECOND).await;
    assert_eq!(all(&mut watch).await.over, Some(None));

    // By another service, which has it from here on.
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let mut watch = bed.watch("s").await.expect("in the pool");
    bed.store.inner.beside().claim(&key("s")).await.expect("claimed");
    assert!(bed.run("s", "b ok").await.end.is_err());
    let seen = all(&mut watch).await;
    assert_eq!(
        (&seen.failed[..], seen.over),
        (&["SESSION_MOVED"][..], Some(Some("SESSION_MOVED")))
    );
}

fn bed_idle() -> std::time::Duration {
    super::pool_settings().idle_threshold
}

#[tokio::test(start_paused = true)]
async fn nothing_is_followed_when_the_service_has_stopped() {
    let bed = Bed::start(restless());
    assert!(bed.run("rests", "a ok").await.end.is_ok());
    bed.unloaded().await;
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let mut rests = bed.watch("rests").await.expect("in the pool");
    let mut lives = bed.watch("s").await.expect("in the pool");
    let turn = bed.begin("s", "b slow 100").await;
    bed.pool.stop().await;
    drop(turn);
    assert_eq!(all(&mut rests).await.over, Some(Some("SHUTTING_DOWN")));
    let seen = all(&mut lives).await;
    assert_eq!((seen.started, seen.over), (1, Some(Some("SHUTTING_DOWN"))));
    let refused = bed.watch("rests").await.expect_err("refused");
    assert_eq!(refused.cause, Cause::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn whether_there_is_a_session_is_not_known_while_the_store_is_not_read() {
    let bed = Bed::start(restless());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.unloaded().await;
    bed.store.let_reads_wait(true);
    let refused = bed.watch("s").await.expect_err("refused").cause;
    assert!(matches!(refused, Cause::StoreUnavailable { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_that_meets_one_who_comes_to_follow_leaves_nobody_waiting() {
    for close_first in [false, true] {
        let bed = Arc::new(Bed::start(restless()));
        assert!(bed.run("s", "a ok").await.end.is_ok());
        bed.unloaded().await;
        bed.store.let_reads_wait(true);
        let close = {
            let bed = Arc::clone(&bed);
            async move { bed.pool.close(&key("s"), false).await }
        };
        let watch = {
            let bed = Arc::clone(&bed);
            async move { bed.watch("s").await }
        };
        let (close, watch) = if close_first {
            let close = spawn_owned(close);
            sleep(SECOND).await;
            (close, spawn_owned(watch))
        } else {
            let watch = spawn_owned(watch);
            sleep(SECOND).await;
            (spawn_owned(close), watch)
        };
        sleep(SECOND).await;
        bed.store.let_reads_wait(false);
        assert!(close.await.expect("no panic").is_ok());
        match watch.await.expect("no panic") {
            Ok(mut watch) => assert_eq!(all(&mut watch).await.over, Some(None)),
            Err(failure) => assert_eq!(failure.cause, Cause::SessionNotFound),
        }
        assert_eq!(bed.pool.lock().feeds.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_refuses_to_go_is_followed_on() {
    let bed = Bed::start(Given::default());
    let turn = bed.begin("s", "a slow 3").await;
    let mut watch = bed.watch("s").await.expect("in the pool");
    let handle = bed.pool.find(&key("s")).expect("it has a task");
    let report = handle.close(CloseReason::Idle).await.expect("answered");
    assert!(!report.closed, "it is busy");
    assert!(crate::test_support::read(turn).await.end.is_ok());
    assert_eq!(all(&mut watch).await.over, None);
}
