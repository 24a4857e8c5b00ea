//! A soak: callers that ask, interrupt, leave, kill, read slowly and send rubbish, all at
//! random and all at once. Each gets its own answer or a proper error; afterwards nothing
//! is left and nothing has grown.
//!
//! The second half does the same while the disk fills, the database is locked, the clock
//! jumps and the network misbehaves.
//!
//! `SESSION_POOL_SOAK_SECONDS` says how long each half lasts; in `make soak` it is ten minutes.
//! `SESSION_POOL_SOAK_SEED` repeats the choices of an earlier run, if not its timing.
//! `SESSION_POOL_SOAK_SANDBOX` is `process-tree` or `bubblewrap`; under faults it is always the
//! first, since bubblewrap encloses the service itself there.

#[path = "../supervision/second.rs"]
mod second;
#[path = "../support/mod.rs"]
mod support;

mod callers;
mod daemon;
mod nemesis;
mod scribe;
mod tally;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use callers::{Caller, Weather};
use daemon::{Daemon, Vitals};
use nemesis::Nemesis;
use scribe::{Scribe, holds};
use tally::{DEEDS, FAULTS, Tally};

/// Seconds of each half, unless it is said otherwise.
const LENGTH: u64 = 30;

/// Callers at the same time.
const CALLERS: u64 = 16;

/// The same while other things go wrong, which need the machine too.
const CALLERS_UNDER_FAULTS: u64 = 8;

/// Callers whose sessions nobody forgets.
const SCRIBES: u64 = 4;

/// Things that go wrong at the same time.
const NEMESES: u64 = 2;

/// How much more resident memory than after the first part is no leak: allocators keep
/// what they had at their busiest.
const SLACK_BYTES: u64 = 16 << 20;

/// Resident memory of the service that nothing may make it pass.
const MOST_RESIDENT: u64 = 200 << 20;

/// Descriptors of the service: callers and silent connections with room, and 4 a session.
const MOST_FILES: usize = 1000;

/// Descriptors of the database: two for each of five connections, and the index of its log.
const MOST_DATABASE_FILES: usize = 11;

/// Each half takes the machine for itself.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_and_everybody_gets_an_answer() {
    let _machine = MACHINE.lock().await;
    let length = Duration::from_secs(variable("SESSION_POOL_SOAK_SECONDS").unwrap_or(LENGTH));
    let seed = seed();
    println!("soak: {} s, seed {seed}", length.as_secs());
    let daemon = Daemon::start().await;

    // The first part brings caches and allocators to their usual size.
    let tally = Arc::new(Tally::default());
    bustle(&daemon, seed, length / 3, &tally, CALLERS, Weather::Fair).await;
    let before = daemon.at_rest().await;
    let rest = length - length / 3;
    bustle(&daemon, seed.wrapping_add(CALLERS), rest, &tally, CALLERS, Weather::Fair).await;
    let after = daemon.at_rest().await;

    println!("{tally}\nbefore: {before}\nafter:  {after}");
    tally.assert_tried(&DEEDS);
    assert_no_growth(&before, &after);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_told_is_lost_while_everything_around_fails() {
    let _machine = MACHINE.lock().await;
    let length = Duration::from_secs(variable("SESSION_POOL_SOAK_SECONDS").unwrap_or(LENGTH));
    let seed = seed();
    println!("soak under faults: {} s, seed {seed}", length.as_secs());
    let daemon = Daemon::start_on_a_small_disk().await;
    let tally = Arc::new(Tally::default());
    let end = Instant::now() + length;

    let mut scribes = tokio::task::JoinSet::new();
    for number in 0..SCRIBES {
        let scribe = Scribe::new(&daemon, number, seed.wrapping_add(number), Arc::clone(&tally));
        scribes.spawn(scribe.await.write_until(end));
    }
    let mut nemeses = tokio::task::JoinSet::new();
    for number in 0..NEMESES {
        let seed = seed.wrapping_mul(31).wrapping_add(number);
        nemeses.spawn(Nemesis::new(&daemon, number, seed, Arc::clone(&tally)).rage_until(end));
    }
    let (most, ()) = tokio::join!(
        watch(&daemon, end),
        bustle(&daemon, seed, length, &tally, CALLERS_UNDER_FAULTS, Weather::Foul)
    );
    while let Some(ended) = nemeses.join_next().await {
        ended.expect("no nemesis saw anything wrong");
    }
    let (mut told, mut second) = (0, daemon.second());
    while let Some(words) = scribes.join_next().await {
        for word in words.expect("nothing told was missing") {
            assert!(holds(&mut second, &word).await, "{word} was told, and is gone");
            told += 1;
        }
    }
    let after = daemon.at_rest().await;
    println!("{tally}\nmost:   {most}\nafter:  {after}\ntold:   {told}, none missing");
    tally.assert_tried(&DEEDS);
    tally.assert_tried(&FAULTS);
    assert!(told > 0, "no scribe was ever answered");
    daemon.stop().await;
}

/// Looks at the service until `end`; returns the most that it ever held.
async fn watch(daemon: &Daemon, end: Instant) -> Vitals {
    let mut most = daemon.vitals_from_outside();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = daemon.vitals_from_outside();
        most.files = most.files.max(now.files);
        most.of_database = most.of_database.max(now.of_database);
        most.threads = most.threads.max(now.threads);
        most.resident = most.resident.max(now.resident);
    }
    assert!(most.resident < MOST_RESIDENT, "memory: {most}");
    assert!(most.files < MOST_FILES, "files: {most}");
    most
}

fn seed() -> u64 {
    variable("SESSION_POOL_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..))
}

/// All callers at once, for so long.
async fn bustle(
    daemon: &Daemon,
    seed: u64,
    length: Duration,
    tally: &Arc<Tally>,
    count: u64,
    weather: Weather,
) {
    let until = Instant::now() + length;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..count {
        let seed = seed.wrapping_add(number);
        let caller = Caller::new(daemon, seed, Arc::clone(tally), weather).await;
        callers.spawn(caller.act_until(until));
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no caller saw anything wrong");
    }
}

fn assert_no_growth(before: &Vitals, after: &Vitals) {
    assert!(after.files <= before.files, "files: {before} then {after}");
    assert!(after.of_database <= MOST_DATABASE_FILES, "files: {before} then {after}");
    assert!(after.threads <= before.threads + 4, "threads: {before} then {after}");
    assert!(after.tasks <= before.tasks, "tasks: {before} then {after}");
    assert!(after.resident <= before.resident + SLACK_BYTES, "memory: {before} then {after}");
}
