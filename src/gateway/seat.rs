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

/// How long such a one is safe.
const GRACE: Duration = Duration::from_secs(1);

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
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum State {
    Unknown { _slot: Slot },
    Known { account: Arc<Account>, _place: OwnedSemaphorePermit },
}

impl Seats {
    /// So many in all.
    pub(super) fn new(all: usize) -> Self {
        Self { unknown: Slots::new(UNKNOWN, GRACE), all: Arc::new(Semaphore::new(all.max(1))) }
    }

    /// Waits until there may be one more connection.
    pub(super) async fn free(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.all).acquire_owned().await {
            Ok(place) => place,
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// A seat for a connection of this process, unless it has too many; or of somebody unknown.
    pub(super) async fn seat(
        &self,
        place: OwnedSemaphorePermit,
        of_process: Option<Arc<Account>>,
    ) -> Option<Seat> {
        let state = match of_process {
            Some(account) => {
                let own = account.connection()?;
                State::Known { account, _place: own }
            }
            None => State::Unknown { _slot: self.unknown.take(()).await? },
        };
        Some(Seat { state: Mutex::new(state), _place: place })
    }
}

impl Seat {
    /// Whose the connection is, if that is known.
    pub(super) fn account(&self) -> Option<Arc<Account>> {
        match &*self.lock() {
            State::Known { account, .. } => Some(Arc::clone(account)),
            State::Unknown { .. } => None,
        }
    }

    /// The connection has shown a process's token. Returns whether it may go on: a process has no
    /// more of them than others, and a connection is of one process.
    pub(super) fn is_of(&self, account: &Arc<Account>) -> bool {
        let mut state = self.lock();
        if let State::Known { account: known, .. } = &*state {
            return Arc::ptr_eq(known, account);
        }
        let Some(own) = account.connection() else { return false };
        *state = State::Known { account: Arc::clone(account), _place: own };
        true
    }

    /// Waits until the connection has to give way; for ever once it is known whose it is.
    pub(super) async fn revoked(&self) {
        let revoked = match &*self.lock() {
            State::Unknown { _slot: slot } => Some(slot.revoked().clone()),
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
        Arc::new(Account::new(TenantId::default(), ClientId::fresh()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_has_so_many_and_takes_none_of_another_s() {
        let seats = Seats::new(1000);
        let (one, other) = (account(), account());
        let mut held = Vec::new();
        for _ in 0..OF_A_PROCESS {
            held.push(seats.seat(seats.free().await, Some(Arc::clone(&one))).await.expect("one"));
        }
        assert!(seats.seat(seats.free().await, Some(Arc::clone(&one))).await.is_none());
        let unknown = seats.seat(seats.free().await, None).await.expect("one");
        assert!(!unknown.is_of(&one), "it has all of its own");
        assert!(unknown.is_of(&other) && unknown.is_of(&other) && !unknown.is_of(&one));
        drop(held.pop());
        assert!(seats.seat(seats.free().await, Some(one)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_who_he_is_gives_way() {
        let seats = Seats::new(1000);
        let first = seats.seat(seats.free().await, None).await.expect("one");
        let known = seats.seat(seats.free().await, None).await.expect("one");
        assert!(known.is_of(&account()));
        let mut held = Vec::new();
        for _ in 0..UNKNOWN - 1 {
            held.push(seats.seat(seats.free().await, None).await.expect("one"));
        }
        let next = seats.seat(seats.free().await, None);
        tokio::select! {
            seat = next => assert!(seat.is_some()),
            () = async { first.revoked().await; drop(first); std::future::pending::<()>().await } => {}
        }
        let patience = tokio::time::timeout(Duration::from_secs(60), known.revoked());
        patience.await.expect_err("it is known");
    }
}
