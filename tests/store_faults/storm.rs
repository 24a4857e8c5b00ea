//! What goes wrong, and the service that it happens to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    disk::Disk,
    second::Second,
    service::Service,
    shim::{FAILURES, Failure, Shim},
    tally::Tally,
    witness::Witness,
};

/// How soon after the last fault the service has to say that it serves.
const RECOVERY: Duration = Duration::from_secs(10);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No room on the disk.
    FullDisk,
    /// The disk is remounted read-only.
    ReadOnlyDisk,
    /// Some calls on the database's files fail.
    Calls(Failure),
    /// Another process has the database.
    Lock,
    /// `kill -9` of the service, which is started again.
    Kill,
}

pub const FAULTS: [Fault; 8] = [
    Fault::FullDisk,
    Fault::ReadOnlyDisk,
    Fault::Calls(Failure::Write),
    Fault::Calls(Failure::TornWrite),
    Fault::Calls(Failure::Sync),
    Fault::Calls(Failure::Read),
    Fault::Lock,
    Fault::Kill,
];

/// One or two things that go wrong in a round. `deck` has what did not come for long.
pub fn draw(rng: &mut Rng, deck: &mut Vec<Fault>) -> Vec<Fault> {
    if deck.is_empty() {
        deck.extend(FAULTS);
        rng.shuffle(deck);
    }
    let mut faults: Vec<Fault> = deck.pop().into_iter().collect();
    let second = FAULTS[rng.usize(..FAULTS.len())];
    if rng.bool() && !faults.contains(&second) {
        faults.push(second);
    }
    faults
}

/// The machine: a disk, a service on it, and others that use its database.
pub struct Machine {
    pub disk: Arc<Disk>,
    pub shim: Arc<Shim>,
    pub service: Mutex<Service>,
    pub witnesses: Vec<Arc<Witness>>,
    pub tally: Arc<Tally>,
    locker: Mutex<Second>,
    /// Faults that are there now, but for kills.
    lasting: AtomicUsize,
}

impl Machine {
    pub async fn start(witnesses: usize, tally: Arc<Tally>) -> Self {
        let (disk, shim) = (Arc::new(Disk::mount().await), Arc::new(Shim::build()));
        let service = Mutex::new(Service::on(Arc::clone(&disk), Arc::clone(&shim)));
        let witnesses = (0..witnesses).map(|_| Arc::new(Witness::new(&disk))).collect();
        let locker = Mutex::new(Second::beside(disk.holder(), &disk.database()));
        let lasting = AtomicUsize::new(0);
        let machine = Self { disk, shim, service, witnesses, tally, locker, lasting };
        machine.start_service(&mut *machine.service.lock().await).await;
        machine
    }

    async fn start_service(&self, service: &mut Service) {
        let (life, refusals) = service.start(|| self.lasting.load(Ordering::Relaxed) > 0).await;
        for said in refusals {
            self.tally.note(format!("did not start: {}", without_numbers(&said)));
        }
        for witness in &self.witnesses {
            witness.open().await;
        }
        service.announce(life);
    }

    /// Has this go wrong for a while, and be well again.
    pub async fn suffer(&self, fault: Fault, mut rng: Rng) {
        sleep(Duration::from_millis(rng.u64(..80))).await;
        self.tally.note(format!("fault: {fault:?}"));
        if fault == Fault::Kill {
            return self.kill_and_start().await;
        }
        self.lasting.fetch_add(1, Ordering::Relaxed);
        let lasts = Duration::from_millis(rng.u64(50..700));
        match fault {
            Fault::FullDisk => {
                let disk = Arc::clone(&self.disk);
                tokio::task::spawn_blocking(move || disk.fill()).await.expect("filled");
                sleep(lasts).await;
                self.disk.make_room();
            }
            Fault::ReadOnlyDisk => {
                self.disk.make_read_only().await;
                self.shim.begin(Failure::ReadOnly, 1);
                sleep(lasts).await;
                self.shim.end(Failure::ReadOnly);
                self.disk.make_writable().await;
            }
            Fault::Calls(failure) => {
                self.shim.begin(failure, [1, 1, 2, 3, 7][rng.usize(..5)]);
                sleep(lasts).await;
                self.shim.end(failure);
            }
            // Mostly shorter than the service waits for it, at times longer.
            Fault::Lock => {
                let mut locker = self.locker.lock().await;
                if locker.locks().await {
                    sleep(lasts * rng.u32(1..4)).await;
                } else {
                    self.tally.note("no lock to be had");
                }
                locker.unlocks().await;
            }
            Fault::Kill => {}
        }
        self.lasting.fetch_sub(1, Ordering::Relaxed);
    }

    async fn kill_and_start(&self) {
        let mut service = self.service.lock().await;
        service.kill().await;
        for witness in &self.witnesses {
            witness.close().await;
        }
        self.start_service(&mut service).await;
    }

    /// Waits until the service serves again, by itself.
    pub async fn calm(&self) {
        let mut service = self.service.lock().await;
        service.assert_alive();
        let life = service.lives().borrow().clone().expect("it lives");
        let began = Instant::now();
        while !life.serves().await {
            assert!(began.elapsed() < RECOVERY, "it does not recover");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The calls that failed, by kind.
    pub fn failed_calls(&self) -> Vec<(Failure, u64)> {
        FAILURES.iter().map(|failure| (*failure, self.shim.hits(*failure))).collect()
    }
}

/// What a service says when it does not start, so that the same is counted together.
fn without_numbers(said: &str) -> String {
    said.replace(|character: char| character.is_ascii_digit(), "")
}
