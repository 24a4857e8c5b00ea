//! Who this service is to the others, for the time being. Its name stays; its incarnation ends
//! when the heartbeat could not be renewed in time, and another begins when the database answers
//! again. What was claimed in an incarnation ends with it ([`Tenure`]).

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::nodes::{Beat, Identity};
use crate::{
    os::clock::boot_time,
    store::{Expiry, StoreError, Tenure},
};

/// An incarnation, and whether it is over.
#[derive(Debug)]
struct Incarnation {
    identity: Arc<Identity>,
    over: watch::Sender<bool>,
    /// The last heartbeat that is known to be in the database.
    beat: Beat,
    /// Until when nothing is claimed, by [`boot_time`].
    claims_from: Duration,
}

/// The incarnation that is, or was last.
#[derive(Debug)]
pub struct Me {
    now: RwLock<Incarnation>,
    /// When the lease is over by the clock, if it ever is.
    expiry: Option<Expiry>,
    /// Whether the node takes no new sessions, in this incarnation and all that follow.
    drains: AtomicBool,
}

impl Incarnation {
    fn of(identity: Identity, beat: Beat) -> Self {
        let (identity, over) = (Arc::new(identity), watch::Sender::new(false));
        Self { identity, over, beat, claims_from: Duration::ZERO }
    }
}

impl Me {
    pub fn new(identity: Identity, beat: Beat, expiry: Option<Expiry>) -> Self {
        let now = RwLock::new(Incarnation::of(identity, beat));
        Self { now, expiry, drains: AtomicBool::new(false) }
    }

    pub fn identity(&self) -> Arc<Identity> {
        self.with(|it| Arc::clone(&it.identity))
    }

    /// The node takes no new sessions from here on.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::Release);
    }

    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Acquire)
    }

    /// For how long what is claimed now holds.
    pub fn tenure(&self) -> Tenure {
        let over = self.with(|it| it.over.subscribe());
        match &self.expiry {
            Some(expiry) => Tenure::within(over, expiry.clone()),
            None => Tenure::until(over),
        }
    }

    /// When it is over unless it is renewed, if it ever is.
    pub fn expiry(&self) -> Option<&Expiry> {
        self.expiry.as_ref()
    }

    /// Whether it is over, and no other has begun.
    pub fn is_over(&self) -> bool {
        self.with(|it| *it.over.borrow())
    }

    /// It is over. Returns whether it was not before.
    pub fn end(&self) -> bool {
        self.with(|it| !it.over.send_replace(true))
    }

    /// The last heartbeat that is known to be in the database.
    pub fn beat(&self) -> Beat {
        self.with(|it| it.beat)
    }

    /// Takes note of a heartbeat.
    pub fn note_beat(&self, beat: Beat) {
        self.write().beat = beat;
    }

    /// Another begins, and claims nothing before a time, by [`boot_time`]. Whoever still has a
    /// claim of the last one has lost it.
    pub fn begin(&self, identity: Identity, beat: Beat, claims_from: Duration) {
        *self.write() = Incarnation { claims_from, ..Incarnation::of(identity, beat) };
    }

    /// Whether sessions may be claimed yet.
    pub fn may_claim(&self) -> Result<(), StoreError> {
        let left = self.with(|it| it.claims_from).saturating_sub(boot_time());
        if left.is_zero() {
            return Ok(());
        }
        let seconds = left.as_secs_f64();
        Err(StoreError::unavailable(format!(
            "the database was put back to an older state: other nodes may not know that yet; \
             sessions are served again in {seconds:.1} s"
        )))
    }

    fn with<T>(&self, read: impl FnOnce(&Incarnation) -> T) -> T {
        read(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Incarnation> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }
}
