//! That the session is this service's: claimed in the store before a process serves it, shown
//! by every commit, given back when the process is gone. Whoever claims it next fences this
//! service: its commits are refused from then on, and the session ends here.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tracing::debug;

use crate::{
    domain::ids::SessionKey,
    store::{Epoch, Store, StoreError},
};

/// The claim of a session.
#[derive(Debug)]
pub struct Claim {
    store: Arc<dyn Store>,
    key: SessionKey,
    held: Mutex<Option<Epoch>>,
    /// What was held last.
    given_back: Mutex<Option<Epoch>>,
    /// Whether others had the session between two claims.
    was_elsewhere: AtomicBool,
}

impl Claim {
    /// Nothing is claimed yet.
    pub fn new(store: Arc<dyn Store>, key: SessionKey) -> Self {
        Self {
            store,
            key,
            held: Mutex::default(),
            given_back: Mutex::default(),
            was_elsewhere: AtomicBool::new(false),
        }
    }

    /// The same, while it was not said.
    pub fn was_elsewhere(&self) -> bool {
        self.was_elsewhere.load(Ordering::SeqCst)
    }

    /// Whether others had the session since it was given back: what is known of it is old. Said
    /// once.
    pub fn take_was_elsewhere(&self) -> bool {
        self.was_elsewhere.swap(false, Ordering::SeqCst)
    }

    /// Whether the session is claimed.
    pub fn is_held(&self) -> bool {
        self.lock().is_some()
    }

    /// Claims the session unless that was done. One that the store does not know is claimed by
    /// its first commit.
    pub async fn hold(&self, is_known: bool) -> Result<Epoch, StoreError> {
        if let Some(held) = *self.lock() {
            return Ok(held);
        }
        let epoch = if is_known { self.store.claim(&self.key).await? } else { Epoch::NONE };
        *self.lock() = Some(epoch);
        let last = lock(&self.given_back).take();
        if last.is_some_and(|last| !epoch.follows(last)) {
            self.was_elsewhere.store(true, Ordering::SeqCst);
        }
        Ok(epoch)
    }

    /// A commit that showed this claim is there, and gave the session back or not.
    pub fn note_commit(&self, epoch: Epoch, releases: bool) {
        *self.lock() = (!releases).then(|| epoch.kept());
        *lock(&self.given_back) = releases.then(|| epoch.kept());
    }

    /// Gives the session back. Nobody waits for that: whoever claims it meanwhile has it.
    pub async fn release(&self) {
        let Some(epoch) = self.lock().take() else { return };
        *lock(&self.given_back) = Some(epoch);
        if let Err(error) = self.store.release(&self.key, epoch).await {
            debug!(session_id = %self.key.session, %error, "session_not_given_back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Epoch>> {
        lock(&self.held)
    }
}

fn lock(epoch: &Mutex<Option<Epoch>>) -> MutexGuard<'_, Option<Epoch>> {
    epoch.lock().unwrap_or_else(PoisonError::into_inner)
}
