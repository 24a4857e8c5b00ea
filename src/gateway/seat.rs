//! Whose a connection is, and its place among those that there may be. Agents can open as many as
//! they like: a process has a bounded number of them, and whoever has not shown a token shares a few
//! places with all others like him, of which the oldest gives way. So nobody takes the service's
//! descriptors, or another session's way to the API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::account::Account;
use crate::transport::slots::{Slot, Slots};

/// Connections whose owners have not shown who they are.
const UNKNOWN: usize = 128;

/// The places of a gateway.
#[derive(Debug)]
pub(super) struct Seats {
    unknown: Arc<Slots>,
    all: Arc<Semaphore>,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    state: Mutex<State>,
    all: Arc<Semaphore>,
}

#[derive(Debug)]
enum State {
    Unknown(Slot),
    Known { account: Arc<Account>, _places: [OwnedSemaphorePermit; 2] },
}

impl Seats {
    /// So many for connections that are known in all.
    pub(super) fn new(all: usize) -> Self {
        let all = Arc::new(Semaphore::new(all.clamp(1, Semaphore::MAX_PERMITS)));
        Self { unknown: Slots::new(UNKNOWN, Duration::ZERO), all }
    }

    /// A seat for a connection of this process, unless there are too many; or of somebody unknown,
    /// for whom the oldest of such gives way.
    pub(super) fn seat(&self, of_process: Option<Arc<Account>>) -> Option<Seat> {
        let state = match of_process {
            Some(account) => known(&self.all, account)?,
            None => State::Unknown(self.unknown.take_now(()).0),
        };
        Some(Seat { state: Mutex::new(state), all: Arc::clone(&self.all) })
    }
}

/// A connection of a process, with its place among those of the process and among all.
fn known(all: &Arc<Semaphore>, account: Arc<Account>) -> Option<State> {
    let _places = [account.connection()?, Arc::clone(all).try_acquire_owned().ok()?];
    Some(State::Known { account, _places })
}

impl Seat {
    /// Whose the connection is, if that is known.
    pub(super) fn account(&self) -> Option<Arc<Account>> {
        match &*self.lock() {
            State::Known { account, .. } => Some(Arc::clone(account)),
            State::Unknown(_) => None,
        }
    }

    /// The connection has shown a process's token. Returns whether it may go on: a process has no
    /// more of them than others, and a connection is of one process.
    pub(super) fn is_of(&self, account: &Arc<Account>) -> bool {
        let mut state = self.lock();
        if let State::Known { account: known, .. } = &*state {
            return Arc::ptr_eq(known, account);
        }
        match known(&self.all, Arc::clone(account)) {
            Some(known) => *state = known,
            None => return false,
        }
        true
    }

    /// Waits until the connection has to give way; for ever once it is known whose it is.
    pub(super) async fn revoked(&self) {
        let revoked = match &*self.lock() {
            State::Unknown(slot) => Some(slot.revoked().clone()),
            State::Known { .. } => None,
        };
        match revoked {
            Some(revoked) => revoked.cancelled().await,
            None => std::future::pending().await,
        }
        // In the same moment it may have shown who it is.
        if self.account().is_some() {
            std::future::pending::<()>().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::account::OF_A_PROCESS, *};
    use crate::domain::ids::{ClientId, TenantId};

    fn account() -> Arc<Account> {
        Arc::new(Account::new(TenantId::default(), ClientId::fresh(), true))
    }

    #[tokio::test]
    async fn a_process_has_so_many_and_takes_none_of_another_s() {
        let seats = Seats::new(1000);
        let (one, other) = (account(), account());
        let seat = |account: &Arc<Account>| seats.seat(Some(Arc::clone(account)));
        let mut held: Vec<_> = (0..OF_A_PROCESS).map(|_| seat(&one).expect("one")).collect();
        assert!(seat(&one).is_none());
        let unknown = seats.seat(None).expect("one");
        assert!(!unknown.is_of(&one), "it has all of its own");
        assert!(unknown.is_of(&other) && unknown.is_of(&other) && !unknown.is_of(&one));
        drop(held.pop());
        assert!(seat(&one).is_some());
    }

    #[tokio::test]
    async fn all_together_have_so_many_and_idle_ones_none() {
        let seats = Seats::new(2);
        let unknown: Vec<_> = (0..10).map(|_| seats.seat(None).expect("one")).collect();
        let held = [account(), account()].map(|account| seats.seat(Some(account)).expect("one"));
        assert!(seats.seat(Some(account())).is_none() && !unknown[0].is_of(&account()));
        drop(held);
        assert!(unknown[0].is_of(&account()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_who_he_is_gives_way_at_once() {
        let seats = Seats::new(1000);
        let first = seats.seat(None).expect("one");
        let known = seats.seat(None).expect("one");
        assert!(known.is_of(&account()));
        let _others: Vec<_> = (0..UNKNOWN).map(|_| seats.seat(None).expect("one")).collect();
        first.revoked().await;
        let patience = tokio::time::timeout(Duration::from_secs(60), known.revoked());
        patience.await.expect_err("it is known");
    }
}
