//! That the session is this service's: claimed in the store before a process serves it, shown
//! by every commit, given back when the process is gone. Whoever claims it next fences this
//! service: its commits are refused from then on, and the session ends here.
//!
//! Races: what is given back is not held from the moment on in which that is decided, though the
//! store is told later; who claims the session meanwhile has another epoch, which the late word does
//! not touch. Who is about to ask for a turn says so ([`Wanted`]), and until the session has it
//! nothing is given back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    state: Mutex<State>,
    /// Whoever claims it does so alone: of two claims the later one counts.
    claiming: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Epoch>,
    /// What was held last, or what the store said when what is known of the session was read.
    last: Option<Epoch>,
    /// Whether others had the session since.
    was_elsewhere: bool,
    /// Those who are about to ask for a turn.
    wanted: usize,
}

/// Somebody is about to ask for a turn: until this is dropped the session is not given back.
#[derive(Debug)]
pub struct Wanted(Arc<Claim>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.state().wanted -= 1;
    }
}

impl Claim {
    /// Nothing is claimed yet.
    pub fn new(store: Arc<dyn Store>, key: SessionKey) -> Self {
        Self { store, key, state: Mutex::default(), claiming: tokio::sync::Mutex::default() }
    }

    /// The same, while it was not said.
    pub fn was_elsewhere(&self) -> bool {
        self.state().was_elsewhere
    }

    /// Whether others had the session since it was given back: what is known of it is old. Said
    /// once.
    pub fn take_was_elsewhere(&self) -> bool {
        std::mem::take(&mut self.state().was_elsewhere)
    }

    /// What is known of the session was read in this epoch, or nothing is known of it. Of one that
    /// is claimed nobody else writes anything.
    pub fn note_read(&self, epoch: Epoch) {
        let mut state = self.state();
        if state.held.is_none() {
            state.last = Some(epoch);
        }
    }

    /// It was claimed before it was read.
    pub fn note_claimed(&self, epoch: Epoch) {
        self.state().held = Some(epoch);
    }

    /// Whether also a session is claimed that the store does not know.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Whether the session is claimed.
    pub fn is_held(&self) -> bool {
        self.state().held.is_some()
    }

    /// Somebody is about to ask for a turn.
    pub fn want(self: &Arc<Self>) -> Wanted {
        self.state().wanted += 1;
        Wanted(Arc::clone(self))
    }

    /// Claims the session unless that was done. One that the store does not know is claimed by
    /// its first commit where nobody else could begin it.
    pub async fn hold(&self, is_known: bool) -> Result<Epoch, StoreError> {
        let _alone = self.claiming.lock().await;
        if let Some(held) = self.state().held {
            return Ok(held);
        }
        let claims = is_known || self.is_shared();
        let epoch = if claims { self.store.claim(&self.key).await? } else { Epoch::NONE };
        let mut state = self.state();
        state.held = Some(epoch);
        // Who has not read anything of it does not know what others did.
        let follows = state.last.take().map_or(!self.is_shared(), |last| epoch.follows(last));
        state.was_elsewhere |= claims && !follows;
        Ok(epoch)
    }

    /// A commit that showed this claim is there, and gave the session back or not.
    pub fn note_commit(&self, epoch: Epoch, releases: bool) {
        let mut state = self.state();
        state.held = (!releases).then(|| epoch.kept());
        state.last = releases.then(|| epoch.kept());
    }

    /// The session is not held any more from here on, unless it goes on and somebody wants it.
    /// Returns what the store is to be told.
    pub fn let_go(&self, goes_on: bool) -> Option<Epoch> {
        let mut state = self.state();
        if goes_on && state.wanted > 0 {
            return None;
        }
        let epoch = state.held.take()?;
        state.last = Some(epoch);
        Some(epoch)
    }

    /// Tells the store that the session was given back. Whoever claims it meanwhile has it.
    pub async fn release(&self, epoch: Epoch) {
        if let Err(error) = self.store.release(&self.key, epoch).await {
            debug!(session_id = %self.key.session, %error, "session_not_given_back");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
