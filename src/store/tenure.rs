//! For how long this service may serve the sessions that it has claimed. A store that several
//! services share sets an end to that: a service that others may take for dead must have stopped
//! its processes before they do. Which of the services that is, is the store's to know; those who
//! serve sessions only hear that it is over.

use std::time::Duration;

use tokio::sync::watch;

use super::Epoch;
use crate::os::clock::boot_time;

/// A time in which claims hold. A session keeps the one that it began in: a service that has come
/// back begins another.
#[derive(Debug, Clone, Default)]
pub struct Tenure(Option<End>);

#[derive(Debug, Clone)]
struct End {
    over: watch::Receiver<bool>,
    expiry: Option<Expiry>,
}

/// A claim, and for how long it holds at most: the tenure is the one of before it was asked for. One
/// that is asked for afterwards may be that of a service which has come back since, without the claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub epoch: Epoch,
    pub tenure: Tenure,
}

/// When a lease is over unless it is renewed.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// When it was renewed last, by [`boot_time`].
    pub renewed: watch::Receiver<Duration>,
    /// How long after that it is over.
    pub after: Duration,
}

impl Expiry {
    /// Whether the lease is over by the clock, whoever has said so yet.
    pub fn has_passed(&self) -> bool {
        boot_time() >= self.renewed.borrow().saturating_add(self.after)
    }
}

impl Tenure {
    /// One that ends when the sender says so, or is gone.
    pub fn until(over: watch::Receiver<bool>) -> Self {
        Self(Some(End { over, expiry: None }))
    }

    /// One that also ends by the clock. A service that was stopped, and goes on, knows by that at
    /// once what its timers tell it a moment later.
    pub fn within(over: watch::Receiver<bool>, expiry: Expiry) -> Self {
        Self(Some(End { over, expiry: Some(expiry) }))
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        let Self(Some(End { over, expiry })) = self else { return false };
        *over.borrow()
            || over.has_changed().is_err()
            || expiry.as_ref().is_some_and(Expiry::has_passed)
    }

    /// Waits until somebody says that it is over; for ever if there is no end. Cancel safe.
    pub async fn over(&mut self) {
        match &mut self.0 {
            // An error says that the sender is gone.
            Some(End { over, .. }) => drop(over.wait_for(|over| *over).await),
            None => std::future::pending().await,
        }
    }
}
