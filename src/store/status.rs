//! How the store is: whether commits succeed, and how large its files are. One place
//! decides that it fails or is well again, and says so once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

use super::{StoreError, opening::LOG_BYTES};

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Since when commits fail, and why; `None` while they succeed.
    pub failing: Option<Failing>,
    /// Transactions that failed since the service started.
    pub failed_transactions: u64,
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// Bytes of its write-ahead log.
    pub log_bytes: u64,
}

/// A store that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: SystemTime,
    /// What it says.
    pub reason: String,
}

/// Publishes how the store is.
#[derive(Debug)]
pub(super) struct Publisher {
    status: watch::Sender<StoreStatus>,
    began: Option<Instant>,
    /// It does not become well any more.
    for_good: bool,
    log_is_long: bool,
}

impl Publisher {
    /// A store that is well.
    pub(super) fn new(status: watch::Sender<StoreStatus>) -> Self {
        Self { status, began: None, for_good: false, log_is_long: false }
    }

    /// Whether commits fail.
    pub(super) fn is_failing(&self) -> bool {
        self.began.is_some()
    }

    /// A transaction failed, or cannot begin.
    pub(super) fn failing(&mut self, error: &StoreError) {
        let reason = error.to_string();
        if self.began.is_none() {
            error!(%reason, "store_failing");
            self.began = Some(Instant::now());
        }
        self.status.send_if_modified(|status| match &mut status.failing {
            Some(failing) if failing.reason == reason => false,
            Some(failing) => {
                failing.reason = reason;
                true
            }
            None => {
                status.failing = Some(Failing { since: SystemTime::now(), reason });
                true
            }
        });
    }

    /// A transaction failed for good.
    pub(super) fn failed(&mut self, error: &StoreError) {
        self.status.send_modify(|status| status.failed_transactions += 1);
        self.failing(error);
    }

    /// A transaction was committed.
    pub(super) fn committed(&mut self) {
        if self.for_good {
            return;
        }
        if let Some(began) = self.began.take() {
            info!(failing_seconds = began.elapsed().as_secs_f64(), "store_recovered");
            self.status.send_modify(|status| status.failing = None);
        }
    }

    /// How large the files are now. Returns whether the log is longer than it should be.
    pub(super) fn measured(&mut self, (database_bytes, log_bytes): (u64, u64)) -> bool {
        self.status.send_if_modified(|status| {
            let changed = (status.database_bytes, status.log_bytes) != (database_bytes, log_bytes);
            (status.database_bytes, status.log_bytes) = (database_bytes, log_bytes);
            changed
        });
        let is_long = log_bytes > LOG_BYTES;
        if is_long && !self.log_is_long {
            warn!(log_bytes, limit = LOG_BYTES, "store_log_grows");
        } else if !is_long && self.log_is_long {
            info!(log_bytes, "store_log_short_again");
        }
        self.log_is_long = is_long;
        is_long
    }
}

/// The same for several who write at once.
#[derive(Debug, Clone)]
pub(super) struct SharedPublisher(Arc<Mutex<Publisher>>);

impl SharedPublisher {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self(Arc::new(Mutex::new(publisher)))
    }

    fn lock(&self) -> MutexGuard<'_, Publisher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether commits fail.
    pub(super) fn is_failing(&self) -> bool {
        self.lock().is_failing()
    }

    /// A transaction failed, or cannot begin.
    pub(super) fn failing(&self, error: &StoreError) {
        self.lock().failing(error);
    }

    /// From now on it fails, whatever may still be committed.
    pub(super) fn failing_for_good(&self, error: &StoreError) {
        let mut publisher = self.lock();
        publisher.for_good = true;
        publisher.failing(error);
    }

    /// A transaction failed for good.
    pub(super) fn failed(&self, error: &StoreError) {
        self.lock().failed(error);
    }

    /// A transaction was committed.
    pub(super) fn committed(&self) {
        self.lock().committed();
    }
}
