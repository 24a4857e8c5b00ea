//! When processes are scarce: who gives its own to those who wait.

use tokio::time::sleep;

use super::{Bed, Given, Scope, key};
use crate::{
    session::{InterruptTarget, status::SessionState},
    test_support::{SECOND, answered, read, request, settle, until},
};

/// As many sessions as there are names, each with a process that has nothing to do; the first
/// was used longest ago.
async fn idle<const N: usize>(slots: usize, names: [&str; N]) -> Bed {
    let bed = Bed::start(Given { slots, ..Given::default() });
    for name in names {
        assert!(bed.run(name, "1 ok").await.end.is_ok());
        sleep(SECOND).await;
    }
    bed
}

impl Bed {
    async fn conditions<const N: usize>(&self, names: [&str; N]) -> [SessionState; N] {
        let mut conditions = [SessionState::Error; N];
        for (condition, name) in conditions.iter_mut().zip(names) {
            *condition = self.condition(name).await;
        }
        conditions
    }
}

#[tokio::test(start_paused = true)]
async fn the_session_that_was_used_longest_ago_gives_its_process_to_who_waits() {
    let bed = idle(2, ["a", "b"]).await;
    assert!(bed.run("c", "1 ok").await.end.is_ok());
    assert_eq!(
        bed.conditions(["a", "b", "c"]).await,
        [SessionState::Hibernated, SessionState::Active, SessionState::Active]
    );
    assert_eq!(bed.supply.most_alive(), 2, "its process was gone before the next began");
    assert_eq!(bed.counters().hibernations_under_pressure.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_was_used_since_is_not_the_one() {
    let bed = idle(2, ["a", "b", "a"]).await;
    assert!(bed.run("c", "1 ok").await.end.is_ok());
    assert_eq!(
        bed.conditions(["a", "b"]).await,
        [SessionState::Active, SessionState::Hibernated],
        "a was used after b"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_gave_its_process_goes_on_where_it_was() {
    let bed = idle(1, ["a", "b"]).await;
    let seen = bed.run("a", "2 ok").await;
    assert!(seen.end.is_ok());
    assert_eq!(bed.supply.heard(), [vec!["1 ok"], vec!["1 ok", "2 ok"]]);
    assert_eq!(bed.status("a").await.message_count, 2);
    assert_eq!(bed.supply.most_alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_turn_gives_nothing_until_it_has_ended() {
    let bed = Bed::start(Given { slots: 2, ..Given::default() });
    let a = answered(bed.begin("a", "1 hang").await).await;
    let b = answered(bed.begin("b", "1 hang").await).await;
    let waiting = bed.spawn("c", request("1 ok"));
    settle().await;
    assert!(!waiting.is_finished());
    assert_eq!(
        bed.conditions(["a", "b", "c"]).await,
        [SessionState::Active, SessionState::Active, SessionState::Connecting]
    );
    bed.pool
        .interrupt(&key("b"), InterruptTarget::Running, true)
        .await
        .expect("answered")
        .expect("it is there");
    assert!(waiting.await.expect("no panic").end.is_ok());
    assert_eq!(bed.conditions(["a", "b"]).await, [SessionState::Active, SessionState::Hibernated]);
    assert_eq!(bed.pool.stats(&Scope::All).streaming_turns, 1, "the turn of a goes on");
    assert!(read(b).await.end.is_ok());
    drop(a);
}

#[tokio::test(start_paused = true)]
async fn no_more_processes_are_given_than_are_waited_for() {
    let bed = idle(3, ["a", "b", "c"]).await;
    let (d, e) = tokio::join!(bed.run("d", "1 ok"), bed.run("e", "1 ok"));
    assert!(d.end.is_ok() && e.end.is_ok());
    assert_eq!(
        bed.conditions(["a", "b", "c"]).await,
        [SessionState::Hibernated, SessionState::Hibernated, SessionState::Active]
    );
    assert_eq!(bed.counters().hibernations.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_waits_is_forgotten_while_slots_change_hands() {
    let bed = idle(1, ["a"]).await;
    let waiting: Vec<_> = (0..5).map(|n| bed.spawn(&format!("w{n}"), request("1 ok"))).collect();
    for turn in waiting {
        assert!(turn.await.expect("no panic").end.is_ok());
    }
    assert_eq!(bed.supply.most_alive(), 1);
    assert_eq!(bed.pool.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_costs_nobody_the_next_process() {
    let bed = Bed::start(Given { slots: 1, ..Given::default() });
    let busy = answered(bed.begin("a", "1 hang").await).await;
    drop(bed.begin("b", "1 ok").await);
    until("it waits no more", || bed.pool.stats(&Scope::All).streaming_turns == 1).await;
    bed.pool
        .interrupt(&key("a"), InterruptTarget::Running, true)
        .await
        .expect("answered")
        .expect("it is there");
    assert!(read(busy).await.end.is_ok());
    settle().await;
    assert_eq!(bed.condition("a").await, SessionState::Active, "nobody needs its process");
}
