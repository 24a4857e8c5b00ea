//! A turn that waits for a process, because others have all of them, can be given up at
//! once.

use session_pool::proto::InterruptOutcome;
use tokio::time::{Duration, timeout};
use tonic::Code;

use crate::support::{
    failure,
    service::{Service, query, script},
};

/// Well under `pool.connect_timeout`, which bounds the wait for a process.
const AT_ONCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_interrupt_and_a_close_do_not_wait_for_a_process() {
    let service = Service::start(|config| config.pool.max_processes = 1).await;
    let mut holder = service.open(query("holder", &script(&["hang"]))).await.expect("taken");
    holder.until_init().await;

    let mut waiting = service.open(query("a", "hello")).await.expect("taken");
    let report = timeout(AT_ONCE, service.interrupt("a", true)).await.expect("at once");
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    waiting.finish().await;
    failure(waiting.error(), Code::Cancelled, "TURN_INTERRUPTED");

    let mut waiting = service.open(query("b", "hello")).await.expect("taken");
    let had_turn = timeout(AT_ONCE, service.close("b", false)).await.expect("at once");
    assert!(had_turn.expect("closed"));
    waiting.finish().await;
    failure(waiting.error(), Code::Cancelled, "TURN_INTERRUPTED");

    // Neither has left a place in line behind: the next gets the process when it is free.
    assert_eq!(service.stats().await.starting_processes, 0);
    service.close("holder", false).await.expect("closed");
    assert_eq!(service.query("c", "hello").await.result().result, "echo: hello");
    service.stop().await;
}
