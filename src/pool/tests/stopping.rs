//! The end of the service: turns may end, then sessions have to.

use tokio::time::Instant;

use super::{Bed, Given, Scope, key, named};
use crate::{
    domain::failure::Cause,
    session::{InterruptTarget, status::SessionState},
    store::Store as _,
    tasks::spawn_owned,
    test_support::{SECOND, answered, cause, read, request, settle, text, until},
    turn::event::Class,
};

impl Bed {
    /// The next life of the service, on the same store.
    async fn again(&self) -> Self {
        let next = Self::start(Given { store: self.store.clone(), ..Given::default() });
        next.pool.resume().await.expect("read");
        next
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_no_turns_and_waits_for_those_under_way() {
    let bed = Bed::start(Given::default());
    let running = bed.spawn("s", request("a slow 1000"));
    let queued = bed.spawn("s", request("b slow 1000"));
    settle().await;
    let pool = bed.pool.clone();
    let drain = spawn_owned(async move { pool.drain(30 * SECOND).await });
    settle().await;
    assert!(bed.pool.is_draining() && bed.pool.stats(&Scope::All).draining);
    for name in ["s", "new"] {
        assert_eq!(bed.refusal(name).await, Cause::ShuttingDown, "{name}");
    }
    assert!(!drain.is_finished());
    assert!(drain.await.expect("no panic"), "all turns have ended");
    for turn in [running, queued] {
        assert!(turn.is_finished(), "the drain waited for it");
        assert!(turn.await.expect("no panic").end.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_turns_is_over_at_once() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let began = Instant::now();
    assert!(bed.pool.drain(30 * SECOND).await);
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_each_session_to_other_services_when_no_turn_runs_in_it() {
    let bed = Bed::start(Given::default());
    bed.store.share();
    for name in ["idle", "s"] {
        assert!(bed.run(name, "a ok").await.end.is_ok());
    }
    let owner = |name: &str| bed.store.inner.owner_of(&key(name));
    assert!(!owner("idle").is_empty() && !owner("s").is_empty());
    let running = bed.spawn("s", named("t", "b slow 1000"));
    settle().await;
    let queued = bed.begin("s", "c ok").await;
    settle().await;
    let pool = bed.pool.clone();
    let drain = spawn_owned(async move { pool.drain(1000 * SECOND).await });
    assert_eq!(cause(&read(queued).await), Cause::ShuttingDown, "it has not begun");
    until("what rests is given back", || owner("idle").is_empty()).await;
    assert_eq!(bed.supply.alive(), 1);
    assert!(!owner("s").is_empty() && !running.is_finished());
    for name in ["idle", "s", "new"] {
        assert_eq!(bed.refusal(name).await, Cause::ShuttingDown, "{name}");
    }
    assert!(bed.pool.interrupt(&key("idle"), InterruptTarget::Running, true).await.is_err());
    let joined = read(bed.ask("s", named("t", "x ok")).await.expect("it runs")).await;
    assert!(joined.end.is_ok() && running.await.expect("no panic").end.is_ok());
    assert!(drain.await.expect("no panic"), "all turns have ended");
    until("it is given back", || owner("s").is_empty()).await;
    // Others go on with all of it.
    let other = bed.store.inner.beside();
    for (name, messages) in [("idle", 1), ("s", 2)] {
        other.claim(&key(name)).await.expect("free");
        let record = other.load(&key(name)).await.expect("read").expect("kept");
        assert_eq!((record.message_count, record.in_pool), (messages, true));
    }
    bed.pool.stop().await;
    assert_eq!((bed.pool.stats(&Scope::All).active_sessions, bed.supply.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_drain_could_not_wait_for_is_given_back_by_the_stop() {
    let bed = Bed::start(Given::default());
    bed.store.share();
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let turn = answered(bed.begin("s", "b hang").await).await;
    assert!(!bed.pool.drain(SECOND).await);
    bed.pool.stop().await;
    assert!(matches!(read(turn).await.frames.last(), Some((Class::InterruptedResult, _))));
    assert!(bed.store.inner.owner_of(&key("s")).is_empty(), "before the service has ended");
    assert_eq!((bed.pool.stats(&Scope::All).active_sessions, bed.supply.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_end_is_interrupted_after_the_time_that_it_had() {
    let bed = Bed::start(Given::default());
    let turn = answered(bed.begin("s", "a hang").await).await;
    let began = Instant::now();
    assert!(!bed.pool.drain(30 * SECOND).await);
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(bed.pool.stats(&Scope::All).streaming_turns, 1, "so far it went on");
    bed.pool.stop().await;
    let seen = read(turn).await;
    assert!(matches!(seen.frames.last(), Some((Class::InterruptedResult, _))), "{seen:?}");
    assert_eq!((bed.pool.len(), bed.supply.alive()), (0, 0));
    assert!(bed.tasks.stop(SECOND).await, "no task is left");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_also_what_does_not_listen_or_waits() {
    let bed = Bed::start(Given { slots: 2, ..Given::default() });
    let deaf = answered(bed.begin("deaf", "a deaf").await).await;
    let queued = bed.begin("deaf", "b ok").await;
    let silent = bed.begin("silent", "c silent").await;
    let waiting = bed.begin("waiting", "d ok").await;
    settle().await;
    let began = Instant::now();
    bed.pool.stop().await;
    assert!(began.elapsed() < 15 * SECOND, "{:?}", began.elapsed());
    assert_eq!(cause(&read(deaf).await), Cause::EndedByShutdown { tool_use_seen: false });
    for turn in [queued, waiting] {
        assert_eq!(cause(&read(turn).await), Cause::ShuttingDown);
    }
    assert!(matches!(read(silent).await.frames.last(), Some((Class::InterruptedResult, _))));
    assert_eq!((bed.pool.len(), bed.supply.alive()), (0, 0));
    assert!(bed.tasks.stop(SECOND).await, "no task is left");
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_start_waits_for_no_process() {
    let bed = Bed::start(Given::default());
    *bed.supply.start_time.lock().expect("no panic") = 1000 * SECOND;
    let turn = bed.begin("s", "a ok").await;
    settle().await;
    let began = Instant::now();
    bed.pool.stop().await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(cause(&read(turn).await), Cause::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_pool_can_be_stopped_twice_and_takes_nothing_afterwards() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.pool.stop().await;
    bed.pool.stop().await;
    assert_eq!(bed.refusal("s").await, Cause::ShuttingDown);
    assert!(bed.pool.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_life_of_the_service_has_the_sessions_and_the_counters() {
    let bed = Bed::start(Given::default());
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let before = bed.status("s").await.cli_session_id;
    bed.pool.stop().await;

    let next = bed.again().await;
    assert_eq!(next.counters().turns.get(), 1);
    assert_eq!(next.condition("s").await, SessionState::Hibernated);
    assert_eq!(next.supply.alive(), 0, "nothing is started before it is asked for");
    let seen = next.run("s", "b ok").await;
    assert!(seen.end.is_ok() && text(&seen).contains("b ok #2"));
    let status = next.status("s").await;
    assert_eq!((status.cli_session_id, status.message_count), (before, 2));
}
