//! Who this service is to the others, for the time being. Its name stays; its incarnation ends
//! when the heartbeat could not be renewed in time, and another begins when the database answers
//! again. What was claimed in an incarnation ends with it ([`Tenure`]).

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::nodes::Identity;
use crate::store::{Expiry, Tenure};

/// An incarnation, and whether it is over.
#[derive(Debug)]
struct Incarnation {
    identity: Arc<Identity>,
    over: watch::Sender<bool>,
}

/// The incarnation that is, or was last.
#[derive(Debug)]
pub struct Me {
    now: RwLock<Incarnation>,
    /// When the lease is over by the clock, if it ever is.
    expiry: Option<Expiry>,
}

impl Incarnation {
    fn of(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), over: watch::Sender::new(false) }
    }
}

impl Me {
    pub fn new(identity: Identity, expiry: Option<Expiry>) -> Self {
        Self { now: RwLock::new(Incarnation::of(identity)), expiry }
    }

    pub fn identity(&self) -> Arc<Identity> {
        self.with(|it| Arc::clone(&it.identity))
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

    /// Another begins. Whoever still has a claim of the last one has lost it.
    pub fn begin(&self, identity: Identity) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Incarnation::of(identity);
    }

    fn with<T>(&self, read: impl FnOnce(&Incarnation) -> T) -> T {
        read(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}
