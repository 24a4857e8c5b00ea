//! What a caller was told is committed, whatever happens to the disk, the database and the
//! service: at the moment of each `result` another process looks into the file.
//!
//! In each round one or two things go wrong, while callers ask: the disk is full, is
//! remounted read-only, gives EIO for writes (whole or torn), syncs or reads, another
//! process has the database, the service is killed and started again. Then everything is
//! well, and the service has to be, too, by itself. Whatever was told is there once then,
//! whatever was refused was refused by `STORE_UNAVAILABLE`, and nothing hangs.
//!
//! `SESSION_POOL_STORE_FAULTS_ROUNDS` says how many rounds; `make store-faults` has 500.
//! `SESSION_POOL_STORE_FAULTS_SEED` repeats the choices of an earlier run, if not its timing.

#[path = "../supervision/second.rs"]
mod second;
#[path = "../support/mod.rs"]
mod support;

mod caller;
mod disk;
mod service;
mod shim;
mod storm;
mod tally;
mod witness;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use fastrand::Rng;

use caller::{Caller, TOKEN};
use storm::{FAULTS, Fault, Machine, draw};
use tally::Tally;

/// Rounds in the gate.
const ROUNDS: u64 = 50;
/// Rounds after which sessions are forgotten, and others begin.
const ROUNDS_OF_A_SESSION: u64 = 10;
/// Callers, each with a session.
const CALLERS: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_what_was_told_is_in_the_file_whatever_fails_around_it() {
    let rounds = variable("SESSION_POOL_STORE_FAULTS_ROUNDS").unwrap_or(ROUNDS);
    let seed = variable("SESSION_POOL_STORE_FAULTS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("store faults: {rounds} rounds, seed {seed}");
    let (mut rng, mut deck) = (Rng::with_seed(seed), Vec::new());
    let tally = Arc::new(Tally::default());
    let machine = Machine::start(CALLERS as usize, Arc::clone(&tally)).await;
    let mut told = 0;
    let mut callers = Vec::new();
    for round in 0..rounds {
        if round % ROUNDS_OF_A_SESSION == 0 {
            told += forget_all(&mut callers).await;
            callers = begin_all(&machine, round / ROUNDS_OF_A_SESSION, &mut rng).await;
        }
        let faults = draw(&mut rng, &mut deck);
        println!("round {round}: {faults:?}");
        callers = rage(&machine, &faults, callers, &mut rng).await;
        check(&machine, &mut callers, &mut rng).await;
    }
    told += forget_all(&mut callers).await;
    let failed = machine.failed_calls();
    println!("{tally}\ncalls that failed: {failed:?}\ntold: {told}, each in the file at once");
    assert!(tally.count("told") > 0 && tally.count("refused") > 0, "nothing was shown");
    if rounds >= FAULTS.len() as u64 * 2 {
        for fault in FAULTS {
            assert!(tally.count(&format!("fault: {fault:?}")) > 0, "never happened: {fault:?}");
        }
        for (failure, count) in failed {
            assert!(count > 0, "no call of the service has failed by {failure:?}");
        }
    }
}

async fn begin_all(machine: &Machine, group: u64, rng: &mut Rng) -> Vec<Caller> {
    let lives = machine.service.lock().await.lives();
    let caller = |(number, witness)| {
        let (lives, tally) = (lives.clone(), Arc::clone(&machine.tally));
        Caller::new(format!("s{group}-{number}"), lives, Arc::clone(witness), tally, rng.u64(..))
    };
    machine.witnesses.iter().enumerate().map(caller).collect()
}

/// Callers ask until everything is well again, and each at least once.
async fn rage(
    machine: &Machine,
    faults: &[Fault],
    callers: Vec<Caller>,
    rng: &mut Rng,
) -> Vec<Caller> {
    let (over, kills) = (Arc::new(AtomicBool::new(false)), faults.contains(&Fault::Kill));
    let mut asking = tokio::task::JoinSet::new();
    for mut caller in callers {
        let over = Arc::clone(&over);
        asking.spawn(async move {
            loop {
                caller.ask(kills).await;
                if over.load(Ordering::Relaxed) {
                    return caller;
                }
            }
        });
    }
    let second = faults.get(1).map(|fault| machine.suffer(*fault, rng.fork()));
    let first = machine.suffer(faults[0], rng.fork());
    tokio::join!(first, async {
        if let Some(second) = second {
            second.await;
        }
    });
    over.store(true, Ordering::Relaxed);
    asking.join_all().await
}

/// Everything is well, and what was told is there.
async fn check(machine: &Machine, callers: &mut [Caller], rng: &mut Rng) {
    machine.calm().await;
    for caller in callers.iter_mut() {
        caller.ask_in_calm().await;
    }
    let one = rng.usize(..callers.len());
    callers[one].check_what_the_cli_knows().await;
    let counts = machine.witnesses[0].counts(TOKEN).await;
    for caller in callers {
        caller.check_what_is_kept(&counts);
    }
}

/// Forgets the sessions. Returns how many results their callers were told.
async fn forget_all(callers: &mut Vec<Caller>) -> usize {
    let mut told = 0;
    for caller in callers.drain(..) {
        told += caller.told();
        caller.forget().await;
    }
    told
}
