//! A session's place among those of its tenant at all nodes.

use std::sync::Arc;

use crate::store::Store;

/// The place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    store: Arc<dyn Store>,
    number: i64,
}

impl Place {
    /// The one that the store has given this number.
    pub(super) fn new(store: Arc<dyn Store>, number: i64) -> Self {
        Self { store, number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.store.shared() {
            shared.give_place_back(self.number);
        }
    }
}
