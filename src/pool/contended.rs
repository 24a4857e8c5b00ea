//! The registry behind its lock, as benchmarks have it: what all calls of all sessions share. It is
//! built with the feature `test-tools` alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sessions::Sessions;
use crate::domain::ids::SessionKey;

/// Sessions of a pool, which somebody asks the store for.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Sessions>);

impl Registry {
    /// One that has these.
    pub fn with<'a>(keys: impl IntoIterator<Item = &'a SessionKey>) -> Self {
        let registry = Self::default();
        for key in keys {
            registry.lock().ask(key);
        }
        registry
    }

    /// Looks a session up, as every call does. Returns whether it is there.
    pub fn find(&self, key: &SessionKey) -> bool {
        self.lock().get(key).is_some()
    }

    /// Has a session come and go, as a call does for one that only the store has.
    pub fn come_and_go(&self, key: &SessionKey) {
        let (_, has_left) = self.lock().ask(key);
        self.lock().asked(key, has_left);
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
