//! The turns that failed last, for people who look: when, whose, and for which reason of the
//! contract. Texts of errors are not kept, since they may repeat what was said.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use crate::domain::ids::SessionKey;

/// How many are kept.
const KEPT: usize = 50;

/// A turn that ended without a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// When.
    pub time: SystemTime,
    /// Why.
    pub reason: &'static str,
    /// Whose.
    pub session: SessionKey,
}

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<VecDeque<Failure>>);

impl Failures {
    pub(super) fn add(&self, reason: &'static str, session: SessionKey) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(Failure { time: SystemTime::now(), reason, session });
        kept.truncate(KEPT);
    }

    /// The newest first.
    pub(super) fn all(&self) -> Vec<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
