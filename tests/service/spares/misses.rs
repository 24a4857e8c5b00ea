//! Sessions that no spare fits are started for themselves, and nobody hears an error
//! because of a spare.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use session_pool::proto::{SessionOptions, TurnOrigin};

use super::{ready, with_spares};
use crate::support::service::{Service, query, query_with};

async fn misses(service: &Service) -> [u64; 5] {
    let c = service.stats().await.counters.expect("counters");
    [
        c.spare_misses_none_ready,
        c.spare_misses_options,
        c.spare_misses_conversation,
        c.spare_misses_folder,
        c.spare_misses_failed,
    ]
}

#[tokio::test]
async fn options_that_only_a_start_can_give_need_a_start() {
    let service = with_spares(1, |_| {}).await;
    let options = SessionOptions { max_turns: Some(3), ..SessionOptions::default() };
    let turn = service.run(query_with("a", "hello", options)).await;
    assert_eq!(turn.started().origin(), TurnOrigin::Created);
    assert_eq!(misses(&service).await, [0, 1, 0, 0, 0]);
    assert_eq!(service.stats().await.spares, 1, "it is still there");
    service.stop().await;
}

#[tokio::test]
async fn a_session_that_has_a_folder_stays_in_it() {
    let service = with_spares(1, |config| config.pool.hibernate_after = Duration::ZERO).await;
    service.query("a", "one").await.result();
    ready(&service, 1).await;
    let mut again = query("a", "two");
    again.new_conversation = true;
    let turn = service.run(again).await;
    assert_eq!(turn.started().origin(), TurnOrigin::Created);
    assert_eq!(misses(&service).await, [0, 0, 0, 1, 0]);
    service.stop().await;
}

#[tokio::test]
async fn a_spare_that_does_not_answer_costs_a_start_and_no_error() {
    let service = with_spares(1, |config| {
        config.pool.connect_timeout = Duration::from_millis(1500);
    })
    .await;
    let [spare] = service.processes()[..] else { panic!("one spare") };
    let pid = Pid::from_raw(spare.cast_signed()).expect("a process");
    kill_process(pid, Signal::STOP).expect("stopped");
    let turn = service.query("a", "hello").await;
    assert_eq!(turn.text(), "echo: hello");
    assert_eq!(turn.started().origin(), TurnOrigin::Created);
    assert_eq!(misses(&service).await[4], 1);
    assert!(!crate::support::processes::lives(spare), "it was ended");
    service.stop().await;
}

#[tokio::test]
async fn a_spare_that_dies_is_replaced_and_nobody_notices() {
    let service = with_spares(1, |_| {}).await;
    let [spare] = service.processes()[..] else { panic!("one spare") };
    crate::support::processes::kill(spare);
    // It may be taken before its death is known.
    let turn = service.query("a", "hello").await;
    assert_eq!(turn.text(), "echo: hello");
    ready(&service, 1).await;
    assert!(!service.processes().contains(&spare));
    service.stop().await;
}
