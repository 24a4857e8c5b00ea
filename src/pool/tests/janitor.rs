//! When sessions leave the pool because nobody uses them, and conversations the store.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Bed, Given, Scope};
use crate::{
    domain::failure::Cause,
    session::{Settings, status::SessionState},
    test_support::{SECOND, answered, read, settings, until},
};

/// A pool that was started just now: its rounds are those of a clock that begins with it.
struct Clock {
    bed: Bed,
    began: Instant,
}

impl Clock {
    fn start(given: Given) -> Self {
        Self { began: Instant::now(), bed: Bed::start(given) }
    }

    /// Lets time pass until so long after the start. Rounds are at the full minutes, so no
    /// test asks at one.
    async fn at(&self, seconds: u32) {
        assert_ne!(seconds % 60, 0, "a round is due just then");
        sleep_until(self.began + seconds * SECOND).await;
    }
}

fn idle_for(threshold: Duration) -> Given {
    let mut given = Given::default();
    given.pool.idle_threshold = threshold;
    given
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_leaves_at_the_first_round_after_its_time() {
    let clock = Clock::start(idle_for(300 * SECOND));
    let bed = &clock.bed;
    clock.at(30).await;
    assert!(bed.run("s", "a ok").await.end.is_ok());
    let before = bed.status("s").await.cli_session_id;
    // Its time is over at 330 s.
    clock.at(359).await;
    assert_eq!((bed.condition("s").await, bed.supply.alive()), (SessionState::Active, 1));
    clock.at(361).await;
    assert!(bed.pool.is_empty());
    assert_eq!(bed.supply.alive(), 0);
    assert_eq!(bed.counters().idle_removed.get(), 1);
    // Its conversation waits for whoever comes.
    assert!(bed.run("s", "b ok").await.end.is_ok());
    assert_eq!(bed.status("s").await.cli_session_id, before);
    assert_eq!(bed.supply.heard(), [["a ok", "b ok"]]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_used_stays() {
    let clock = Clock::start(idle_for(100 * SECOND));
    for minute in 0..10 {
        clock.at(60 * minute + 30).await;
        assert!(clock.bed.run("s", "a ok").await.end.is_ok());
    }
    assert_eq!(clock.bed.counters().sessions_created.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_turn_is_not_idle_however_long_it_takes() {
    let clock = Clock::start(idle_for(100 * SECOND));
    let turn = clock.bed.begin("s", "a tool 500000").await;
    clock.at(499).await;
    assert_eq!(clock.bed.pool.stats(&Scope::All).streaming_turns, 1);
    assert!(read(turn).await.end.is_ok());
    // Its time begins with the end of the turn.
    clock.at(599).await;
    assert_eq!(clock.bed.pool.len(), 1);
    clock.at(661).await;
    assert!(clock.bed.pool.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_past_its_time_to_live_leaves_unless_it_is_busy() {
    let mut given = Given::default();
    given.pool.session_ttl = 100 * SECOND;
    given.session.session_ttl = 100 * SECOND;
    let clock = Clock::start(given);
    let bed = &clock.bed;
    let busy = answered(bed.begin("busy", "a tool 200000").await).await;
    assert!(bed.run("idle", "a ok").await.end.is_ok());
    clock.at(99).await;
    assert_eq!(bed.condition("idle").await, SessionState::Active);
    clock.at(119).await;
    assert_eq!(bed.condition("idle").await, SessionState::Expired, "it waits for its round");
    clock.at(121).await;
    assert_eq!(bed.absence("idle").await, Cause::SessionNotFound);
    assert_eq!(bed.condition("busy").await, SessionState::Active);
    assert_eq!(bed.counters().expired.get(), 1);
    assert!(read(busy).await.end.is_ok());
    clock.at(241).await;
    assert!(bed.pool.is_empty());
    assert_eq!(bed.counters().expired.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_lost_its_process_leaves_at_the_next_round() {
    let clock = Clock::start(Given::default());
    let bed = &clock.bed;
    assert!(bed.run("s", "a ok").await.end.is_ok());
    bed.supply.kill();
    until("its process is gone", || bed.supply.alive() == 0).await;
    clock.at(59).await;
    assert_eq!(bed.condition("s").await, SessionState::Disconnected);
    clock.at(61).await;
    assert!(bed.pool.is_empty());
    let counters = bed.counters();
    assert_eq!((counters.expired.get(), counters.idle_removed.get()), (0, 0));
}

/// Sessions that let their processes go after 10 s, and their tasks soon after that.
fn sleepy(threshold: Duration) -> Given {
    let session =
        Settings { hibernate_after: Some(10 * SECOND), turn_retention: 5 * SECOND, ..settings() };
    Given { session, ..idle_for(threshold) }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sleeps_is_in_the_pool_and_goes_on_when_it_is_asked() {
    let clock = Clock::start(sleepy(1800 * SECOND));
    let bed = &clock.bed;
    assert!(bed.run("s", "a ok").await.end.is_ok());
    clock.at(599).await;
    assert_eq!((bed.condition("s").await, bed.supply.alive()), (SessionState::Hibernated, 0));
    let stats = bed.pool.stats(&Scope::All);
    assert_eq!((stats.total_sessions, stats.hibernated_sessions), (1, 1));
    assert!(bed.run("s", "b ok").await.end.is_ok());
    assert_eq!(bed.status("s").await.message_count, 2, "it is the same session");
    assert_eq!(bed.supply.heard(), [["a ok", "b ok"]]);
    assert_eq!(bed.counters().sessions_resumed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sleeps_leaves_like_any_other() {
    let clock = Clock::start(sleepy(300 * SECOND));
    let bed = &clock.bed;
    clock.at(30).await;
    assert!(bed.run("s", "a ok").await.end.is_ok());
    clock.at(359).await;
    assert_eq!(bed.condition("s").await, SessionState::Hibernated);
    clock.at(361).await;
    assert_eq!(bed.absence("s").await, Cause::SessionNotFound);
    assert!(!bed.record("s").await.expect("kept").in_pool);
    assert_eq!(bed.counters().idle_removed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_forgotten_when_nobody_used_it_for_its_time_and_not_before() {
    let mut given = idle_for(100 * SECOND);
    given.pool.retention = 1000 * SECOND;
    let clock = Clock::start(given);
    let bed = &clock.bed;
    clock.at(30).await;
    assert!(bed.run("old", "a ok").await.end.is_ok());
    clock.at(530).await;
    assert!(bed.run("young", "a ok").await.end.is_ok());
    // The old one's time is over at 1030 s.
    clock.at(1079).await;
    assert!(bed.pool.is_empty(), "both have left the pool long since");
    assert!(bed.record("old").await.is_some());
    clock.at(1081).await;
    assert!(bed.record("old").await.is_none());
    assert!(bed.record("young").await.is_some());
    assert_eq!(bed.supply.heard().len(), 1);
    assert!(bed.pool.is_empty(), "nothing is left of how it was forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_conversation_whose_session_is_in_the_pool_is_not_forgotten() {
    let mut given = Given::default();
    given.pool.retention = 200 * SECOND;
    let clock = Clock::start(given);
    assert!(clock.bed.run("s", "a ok").await.end.is_ok());
    clock.at(1799).await;
    assert!(clock.bed.record("s").await.is_some());
    // It leaves the pool, and then nothing keeps it.
    clock.at(1981).await;
    assert!(clock.bed.pool.is_empty() && clock.bed.record("s").await.is_none());
}
