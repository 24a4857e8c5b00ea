//! The proof of several nodes: what callers were told is kept once, nobody writes with a claim
//! that is not the newest, and no conversation has two processes, whatever goes wrong with
//! nodes, the ways between them, and the database.
//!
//! In each round callers ask any of three nodes about a few sessions, and again by the turn's
//! name until they are told the result, while one or two things go wrong ([`nemesis`]). Then
//! everything is well, and each node has to answer for each session by itself. What callers were told
//! ([`recorder`]), what the database has noted of claims and appends (`audit.sql`), which processes lived
//! ([`sampler`]), what was read of transcripts ([`watcher`]) and what CLIs ran is then held
//! against each other ([`checks`]).
//!
//! `SESSION_POOL_CHAOS_ROUNDS` says how many rounds are drawn in the place of the list that the
//! gate has; `make chaos` has 200. `SESSION_POOL_CHAOS_SEED` repeats the choices of an earlier
//! run, if not its timing, and `SESSION_POOL_CHAOS_SECONDS` ends it. That the proof can fail is shown in [`guards`].
//!
//! A program of its own, so that nothing else of the tests runs beside it: leases of seconds, and
//! the times that are measured, would be other ones.

#[path = "../../support/mod.rs"]
mod support;

mod callers;
mod checks;
mod claims;
mod cluster;
mod guards;
mod link;
mod nemesis;
mod node;
mod owners;
mod recorder;
mod rounds;
mod sampler;
mod watcher;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    task::JoinSet,
    time::Instant,
};

use cluster::SERVER;
use nemesis::Nemesis::{self, *};
use rounds::{Round, Size};
use support::postgres::Server;

/// What the gate has: every kind once, most of them in pairs, and one on the real CLI.
const GATE: [&[Nemesis]; 14] = [
    &[Kill],
    &[SuspendInAppend, CutNodes],
    &[Promote],
    &[SuspendInForward, SwallowCommit],
    &[KillDatabase, Clock],
    &[Suspend, StaleView],
    &[FullDisk],
    &[CutDatabase, Bouncer],
    &[SilenceToDatabase, ManyClaims],
    &[SuspendMachine, SilenceNodes],
    &[SilenceFromDatabase, Drain],
    &[TwoIncarnations],
    &[PauseDatabase, SlowDatabase],
    &[Restore],
];

/// The round of them that has the real CLI.
const ON_THE_REAL_CLI: usize = 5;

/// Rounds at once.
const LANES: usize = 2;

/// Tests at once, however many other programs have: one of them has lanes of its own.
static PLACES: Semaphore = Semaphore::const_new(2);

/// How soon a session of a node that was killed has to go on elsewhere: a turn that is asked for
/// all the time is told. Of 100 times 99, on a machine that does nothing else.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// A place among the tests that run.
async fn place() -> SemaphorePermit<'static> {
    PLACES.acquire().await.expect("never closed")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The server of tests that do it no harm; `None`, loudly, where PostgreSQL is not installed.
fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    SHARED.get_or_init(|| Server::start_with(&SERVER)).as_ref()
}

/// Sessions that are claimed at once.
fn many() -> usize {
    if variable("SESSION_POOL_CHAOS_ROUNDS").is_some() { 10_000 } else { 500 }
}

/// The rounds, and how much of everything there is in them.
fn rounds(seed: u64) -> (Vec<Round>, Size) {
    let mut rng = Rng::with_seed(seed);
    match variable("SESSION_POOL_CHAOS_ROUNDS") {
        None => {
            let round = |(number, nemeses): (usize, &&[Nemesis])| Round {
                seed: rng.u64(..),
                nemeses: nemeses.to_vec(),
                is_real: number == ON_THE_REAL_CLI,
            };
            let rounds = GATE.iter().enumerate().map(round).collect();
            (rounds, Size { pause: Duration::from_secs(4), claims: 300 })
        }
        Some(count) => {
            let mut deck = Vec::new();
            let rounds = (0..count).map(|_| Round::draw(&mut rng, &mut deck)).collect();
            (rounds, Size { pause: Duration::from_secs(10), claims: 300 })
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_kept_once_and_no_conversation_has_two_processes() {
    let _place = place().await;
    let seed = variable("SESSION_POOL_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let (mut rounds, size) = rounds(seed);
    if !rustix::process::getuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "only root makes small disks");
        eprintln!("SKIPPED, what becomes of a database without room: only root makes small disks");
        rounds.retain(|round| !round.nemeses.contains(&FullDisk));
    }
    let limit = variable("SESSION_POOL_CHAOS_SECONDS").map(Duration::from_secs);
    println!("chaos: {} rounds, seed {seed}", rounds.len());
    rounds.reverse();
    let (rounds, began) = (Arc::new(Mutex::new(rounds)), Instant::now());
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let Some(server) = Server::start_with(&SERVER) else { return };
        let (server, rounds) = (Arc::new(server), Arc::clone(&rounds));
        lanes.spawn(async move {
            let mut seen = Vec::new();
            while limit.is_none_or(|limit| began.elapsed() < limit) {
                let Some(round) = rounds.lock().await.pop() else { break };
                let from = began.elapsed().as_secs_f64();
                let recorder = round.run(&server, size).await;
                let (to, wrongs) = (began.elapsed().as_secs_f64(), round.wrongs(&recorder));
                println!("{from:6.1} to {to:6.1}, lane {lane}: {round}: {} wrong", wrongs.len());
                if !wrongs.is_empty() {
                    let story = recorder.story().join("\n");
                    println!("{story}\nin {round}:\n{wrongs:#?}\nend of the story");
                }
                seen.push((round, recorder, wrongs));
            }
            seen
        });
    }
    let seen: Vec<_> = lanes.join_all().await.into_iter().flatten().collect();
    let (mut counts, mut take_overs, mut wrong) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (round, recorder, wrongs) in seen {
        for nemesis in &round.nemeses {
            *counts.entry(format!("nemesis: {nemesis:?}")).or_default() += 1;
        }
        for (what, count) in recorder.counts() {
            *counts.entry(what).or_default() += count;
        }
        if round.is_measured() && !round.is_real {
            take_overs.extend(recorder.take_overs());
        }
        wrong.extend(wrongs.into_iter().map(|it| format!("{round}: {it:?}")));
    }
    report(&counts, &mut take_overs);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let p99 = take_overs.get(take_overs.len() * 99 / 100).copied().unwrap_or_default();
    // The few of the gate say little, and others may use its machine.
    let most = TAKE_OVER * if variable("SESSION_POOL_CHAOS_ROUNDS").is_some() { 1 } else { 2 };
    assert!(p99 <= most, "take-over takes {p99:?}");
    assert!(counts["told"] > 0, "nothing was shown");
}

fn report(counts: &BTreeMap<String, u64>, take_overs: &mut [Duration]) {
    for (what, count) in counts {
        println!("{count:8}  {what}");
    }
    take_overs.sort();
    let Some(longest) = take_overs.last() else { return };
    let at = |percent: usize| take_overs[take_overs.len() * percent / 100];
    println!(
        "take-over after kill -9: n = {}, p50 {:?}, p99 {:?}, max {longest:?}",
        take_overs.len(),
        at(50),
        at(99)
    );
}
