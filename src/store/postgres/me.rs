//! Who this service is to the others, for the time being. Its name stays; its incarnation ends
//! when the heartbeat could not be renewed in time, and another begins when the database answers
//! again. What was claimed in an incarnation ends with it ([`Tenure`]).

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::nodes::Identity;
use crate::store::Tenure;

/// An incarnation, and whether it is over.
#[derive(Debug)]
struct Incarnation {
    identity: Arc<Identity>,
    over: watch::Sender<bool>,
}

/// The incarnation that is, or was last.
#[derive(Debug)]
pub struct Me(RwLock<Incarnation>);

impl Me {
    pub fn new(identity: Identity) -> Self {
        Self(RwLock::new(Incarnation {
            identity: Arc::new(identity),
            over: watch::Sender::new(false),
        }))
    }

    pub fn identity(&self) -> Arc<Identity> {
        self.with(|it| Arc::clone(&it.identity))
    }

    /// For how long what is claimed now holds.
    pub fn tenure(&self) -> Tenure {
        self.with(|it| Tenure::until(it.over.subscribe()))
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
        let next = Self::new(identity).0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    fn with<T>(&self, read: impl FnOnce(&Incarnation) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
