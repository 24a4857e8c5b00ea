//! A soak: callers that ask, interrupt, leave, kill, read slowly and send rubbish, all at
//! random and all at once. Each gets its own answer or a proper error; afterwards nothing
//! is left and nothing has grown.
//!
//! `SESSION_POOL_SOAK_SECONDS` says how long it lasts; `make soak` lasts ten minutes.
//! `SESSION_POOL_SOAK_SEED` repeats the choices of an earlier run, if not its timing.
//! `SESSION_POOL_SOAK_SANDBOX` is `process-tree` or `bubblewrap`.

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod daemon;
mod tally;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use callers::Caller;
use daemon::{Daemon, Vitals};
use tally::Tally;

/// Callers at the same time.
const CALLERS: u64 = 16;

/// How much more resident memory than after the first part is no leak: allocators keep
/// what they had at their busiest.
const SLACK_BYTES: u64 = 16 << 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_and_everybody_gets_an_answer() {
    let length = Duration::from_secs(variable("SESSION_POOL_SOAK_SECONDS").unwrap_or(60));
    let seed = variable("SESSION_POOL_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("soak: {} s, seed {seed}", length.as_secs());
    let daemon = Daemon::start().await;

    // The first part brings caches and allocators to their usual size.
    let tally = Arc::new(Tally::default());
    bustle(&daemon, seed, length / 3, &tally).await;
    let before = daemon.at_rest().await;
    bustle(&daemon, seed.wrapping_add(CALLERS), length - length / 3, &tally).await;
    let after = daemon.at_rest().await;

    println!("{tally}\nbefore: {before}\nafter:  {after}");
    tally.assert_everything_was_tried();
    assert_no_growth(&before, &after);
    daemon.stop().await;
}

/// All callers at once, for so long.
async fn bustle(daemon: &Daemon, seed: u64, length: Duration, tally: &Arc<Tally>) {
    let until = Instant::now() + length;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::new(daemon, seed.wrapping_add(number), Arc::clone(tally)).await;
        callers.spawn(caller.act_until(until));
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no caller saw anything wrong");
    }
}

fn assert_no_growth(before: &Vitals, after: &Vitals) {
    assert!(after.files <= before.files, "files: {before} then {after}");
    assert!(after.threads <= before.threads + 4, "threads: {before} then {after}");
    assert!(after.tasks <= before.tasks, "tasks: {before} then {after}");
    assert!(after.resident <= before.resident + SLACK_BYTES, "memory: {before} then {after}");
}
