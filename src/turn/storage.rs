//! What the logs of all turns share: the budgets of memory and of disk, the thread that
//! writes to disk, and the order in which turns have ended. Knows of a log what it can give
//! back ([`Reclaimable`]); nothing of what becomes of those who are refused.
//!
//! When a budget is used up, ended turns that nobody listens to give way, those first that
//! were read, and among them those that ended first. No tenant loses anything for the sake of one
//! that holds more. Nothing here waits for the lock of a log while it holds its own.

use std::{
    collections::VecDeque,
    fmt::Debug,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::writer::Writer;
use crate::{
    budget::{Account, Budget, Exceeded, Reservation},
    counters::Counter,
    domain::ids::TenantId,
};

/// The key of the floor of free disk.
pub const DISK_RESERVE: &str = "pool.disk_reserve";

/// The floor is at most this part of the file system, so that small ones can be used.
const PART_OF_DISK: u64 = 4;

/// Bounds of logs.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// Bytes of one log in memory.
    pub buffer_bytes: usize,
    /// Bytes of one log in files; 0 for none.
    pub spill_bytes: u64,
    /// Where the files are.
    pub spill_folder: PathBuf,
    /// Bytes of disk that are left free.
    pub disk_reserve: u64,
    /// Memory of all logs, and of whatever else claims some of it.
    pub memory: Budget,
    /// Files of all logs.
    pub disk: Budget,
}

/// A log, as its storage sees it: what it claims of the budgets, and how it gives that back.
pub(super) trait Reclaimable: Debug + Send + Sync {
    /// The accounts that it claims from.
    fn accounts(&self) -> &Accounts;

    /// Whether there is nothing left that could be given back.
    fn is_emptied(&self) -> bool;

    /// Whether the turn has ended and all who listened have read it to its end.
    fn is_read(&self) -> bool;

    /// Keeps to what a log may hold in memory when the budget is used up, by way of a file
    /// where there may be one.
    fn shrink(self: Arc<Self>);

    /// Empties a log that has ended and that nobody listens to; `None` if it is not such a
    /// log. Returns how many bytes of memory are free.
    fn drop_events(self: Arc<Self>, bound: &'static str) -> Option<u64>;

    /// Gives up the files of a log that has ended and that nobody listens to; `None` if it is
    /// not such a log, or has none. Returns how many bytes of disk that frees at once.
    fn drop_files(self: Arc<Self>, bound: &'static str) -> Option<u64>;
}

/// What all logs share. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Storage(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub settings: StorageSettings,
    pub writer: Writer,
    logs: Mutex<Logs>,
    dropped: Counter,
    refused: Counter,
}

#[derive(Debug, Default)]
struct Logs {
    /// All of them, the oldest first.
    all: Line,
    /// Those that have ended, the first to end first.
    ended: Line,
}

/// Logs in some order.
#[derive(Debug, Default)]
struct Line {
    logs: VecDeque<Weak<dyn Reclaimable>>,
    /// Those that are gone are taken out at this length.
    tidy_at: usize,
}

impl Line {
    fn push(&mut self, log: Weak<dyn Reclaimable>) {
        self.logs.push_back(log);
        if self.logs.len() >= self.tidy_at {
            self.logs.retain(|log| log.strong_count() > 0);
            self.tidy_at = 2 * self.logs.len() + 64;
        }
    }

    /// Those that still hold something.
    fn candidates(&mut self) -> Vec<Arc<dyn Reclaimable>> {
        let mut candidates = Vec::new();
        self.logs.retain(|log| {
            let log = log.upgrade().filter(|log| !log.is_emptied());
            candidates.extend(log.clone());
            log.is_some()
        });
        candidates
    }
}

/// A tenant's shares of the budgets.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// Of memory.
    pub memory: Account,
    /// Of disk.
    pub disk: Account,
}

/// What is wanted back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Disk,
}

/// What is used of the budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory.
    pub memory: u64,
    /// The bound of it.
    pub memory_limit: u64,
    /// Bytes in files.
    pub disk: u64,
    /// The bound of it.
    pub disk_limit: u64,
    /// Ended turns whose events went before their time, for want of memory or disk.
    pub dropped: u64,
    /// Claims that were refused.
    pub refused: u64,
}

impl Storage {
    /// No logs yet.
    pub fn new(settings: StorageSettings) -> Self {
        Self(Arc::new(Inner {
            settings,
            writer: Writer::default(),
            logs: Mutex::default(),
            dropped: Counter::default(),
            refused: Counter::default(),
        }))
    }

    /// Without files, and with memory as there is: for tests of those who use logs.
    #[cfg(test)]
    pub fn in_memory(buffer_bytes: usize) -> Self {
        use crate::budget::Bounds;
        let unbounded = || {
            let bounds = Bounds { key: "all", total: 1 << 40, tenant_key: "each", of_tenant: None };
            Budget::new(bounds)
        };
        Self::new(StorageSettings {
            buffer_bytes,
            spill_bytes: 0,
            spill_folder: "unused".into(),
            disk_reserve: 0,
            memory: unbounded(),
            disk: unbounded(),
        })
    }

    /// A tenant's shares.
    pub fn accounts(&self, tenant: &TenantId) -> Accounts {
        let StorageSettings { memory, disk, .. } = &self.0.settings;
        Accounts { memory: memory.account(tenant), disk: disk.account(tenant) }
    }

    /// Claims memory; ended turns give way to it.
    pub fn reserve(&self, account: &Account, bytes: u64) -> Result<Reservation, Exceeded> {
        let mut reservation = account.open();
        self.grow(&mut reservation, account, bytes)?;
        Ok(reservation)
    }

    /// Claims so many bytes of memory in all; ended turns give way to them.
    pub fn grow(
        &self,
        reservation: &mut Reservation,
        account: &Account,
        bytes: u64,
    ) -> Result<(), Exceeded> {
        let Err(exceeded) = reservation.resize(bytes) else { return Ok(()) };
        let more = bytes.saturating_sub(reservation.bytes());
        if more <= exceeded.limit {
            let memory = &self.0.settings.memory;
            self.reclaim(
                Kind::Memory,
                account,
                shortage(account, memory, more, exceeded),
                exceeded,
            );
        }
        reservation.resize(bytes).inspect_err(|_| self.0.refused.add_one())
    }

    /// What is used, of one tenant or in all.
    pub fn usage(&self, tenant: Option<&TenantId>) -> Usage {
        let StorageSettings { memory, disk, .. } = &self.0.settings;
        let (dropped, refused) = (self.0.dropped.get(), self.0.refused.get());
        match tenant {
            Some(tenant) => {
                let Accounts { memory, disk } = self.accounts(tenant);
                Usage {
                    memory: memory.used(),
                    memory_limit: memory.limit(),
                    disk: disk.used(),
                    disk_limit: disk.limit(),
                    dropped,
                    refused,
                }
            }
            None => Usage {
                memory: memory.used(),
                memory_limit: memory.total(),
                disk: disk.used(),
                disk_limit: disk.total(),
                dropped,
                refused,
            },
        }
    }

    /// Takes note of a turn.
    pub(super) fn note_new(&self, log: Weak<dyn Reclaimable>) {
        self.logs().all.push(log);
    }

    /// Takes note of a turn that has ended.
    pub(super) fn note_end(&self, log: Weak<dyn Reclaimable>) {
        self.logs().ended.push(log);
    }

    /// Has memory that passes a bound given back, as far as ended turns hold it. Returns
    /// whether a bound is still passed.
    pub(super) fn relieve_memory(&self, account: &Account) -> bool {
        if let Some(exceeded) = account.overrun() {
            let over = shortage(account, &self.0.settings.memory, 0, exceeded);
            self.reclaim(Kind::Memory, account, over, exceeded);
        }
        account.overrun().is_some()
    }

    /// Looks whether so many bytes more may go to disk beside what must be left free. Waits
    /// for the disk.
    pub(super) fn has_free_disk(&self, account: &Account, bytes: u64) -> bool {
        if self.is_free(bytes) {
            return true;
        }
        let limit = self.0.settings.disk_reserve;
        let exceeded = Exceeded { key: DISK_RESERVE, limit, of_tenant: false };
        self.reclaim(Kind::Disk, account, u64::MAX, exceeded);
        self.is_free(bytes)
    }

    /// Has room in files given back, as far as ended turns hold it.
    pub(super) fn relieve_disk(&self, account: &Account, more: u64, exceeded: Exceeded) {
        let over = shortage(account, &self.0.settings.disk, more, exceeded);
        self.reclaim(Kind::Disk, account, over, exceeded);
    }

    fn is_free(&self, bytes: u64) -> bool {
        let StorageSettings { spill_folder, disk_reserve, .. } = &self.0.settings;
        // The folder is made with the first file in it.
        let looked = rustix::fs::statvfs(spill_folder).or_else(|_| {
            std::fs::create_dir_all(spill_folder).ok();
            rustix::fs::statvfs(spill_folder)
        });
        let Ok(disk) = looked else { return true };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let size = disk.f_blocks.saturating_mul(disk.f_frsize);
        let reserve = (*disk_reserve).min(size / PART_OF_DISK);
        free.saturating_sub(bytes) >= reserve
    }

    /// Empties ended logs until so many bytes are free, or there are none left that may
    /// give way to this account. Those that are in use still are made smaller then, which
    /// takes a moment.
    fn reclaim(&self, kind: Kind, account: &Account, mut wanted: u64, exceeded: Exceeded) {
        let mine = account.used();
        let theirs = |log: &Arc<dyn Reclaimable>| match kind {
            Kind::Memory => log.accounts().memory.clone(),
            Kind::Disk => log.accounts().disk.clone(),
        };
        let gives_way = |log: &Arc<dyn Reclaimable>| {
            let theirs = theirs(log);
            theirs.is_of(account) || (!exceeded.of_tenant && theirs.used() >= mine)
        };
        let mut ended = self.logs().ended.candidates();
        ended.retain(gives_way);
        // Those who hold more go first, and of theirs what was read; the order is kept among them.
        ended.sort_by_cached_key(|log| (theirs(log).used() <= mine, !log.is_read()));
        for log in ended {
            if wanted == 0 {
                return;
            }
            let freed = match kind {
                Kind::Memory => log.drop_events(exceeded.key),
                Kind::Disk => log.drop_files(exceeded.key),
            };
            if freed.is_some() {
                self.0.dropped.add_one();
            }
            wanted = wanted.saturating_sub(freed.unwrap_or_default());
        }
        if wanted > 0 && kind == Kind::Memory {
            let all = self.logs().all.candidates();
            all.into_iter().filter(gives_way).for_each(Reclaimable::shrink);
        }
    }

    fn logs(&self) -> MutexGuard<'_, Logs> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much has to be given back for so many bytes more.
fn shortage(account: &Account, budget: &Budget, more: u64, exceeded: Exceeded) -> u64 {
    let used = if exceeded.of_tenant { account.used() } else { budget.used() };
    (used + more).saturating_sub(exceeded.limit)
}
