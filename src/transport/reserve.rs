//! A few file descriptors that are kept for the moment when there are no others, so that
//! a health check is still answered then.

use std::{
    fs::File,
    sync::{Mutex, PoisonError},
};

/// How many are kept for a listener.
const KEPT: usize = 4;

/// The descriptors.
#[derive(Debug)]
pub(super) struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    pub fn new() -> Self {
        let reserve = Self(Mutex::default());
        reserve.refill();
        reserve
    }

    /// Gives one away for the next connection. Returns whether there was one.
    pub fn spend(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Takes back what was given away, as far as there are descriptors.
    pub fn refill(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() < KEPT {
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }
}
