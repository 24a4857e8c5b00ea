//! A bounded number of slots for what comes from outside. When all are taken, the oldest
//! that has not proven itself is revoked: whoever takes slots and does nothing with them
//! keeps nobody else out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a slot that was revoked may take to be given back before the next is revoked.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(1);

/// The slots; each knows its owner.
#[derive(Debug)]
pub struct Slots<T = ()> {
    max: usize,
    /// A slot is not revoked before it has this age.
    grace: Duration,
    taken: Mutex<Taken<T>>,
    given_back: Notify,
}

#[derive(Debug)]
struct Taken<T> {
    count: usize,
    next: u64,
    /// Those that can be revoked, the oldest first.
    revocable: BTreeMap<u64, Revocable<T>>,
}

#[derive(Debug)]
struct Revocable<T> {
    since: Instant,
    revoked: CancellationToken,
    owner: T,
}

/// One slot. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot<T = ()> {
    slots: Arc<Slots<T>>,
    id: u64,
    revoked: CancellationToken,
}

impl<T> Slots<T> {
    /// So many slots, each of which is safe for `grace` at least.
    pub fn new(max: usize, grace: Duration) -> Arc<Self> {
        let taken = Taken { count: 0, next: 0, revocable: BTreeMap::new() };
        Arc::new(Self { max, grace, taken: Mutex::new(taken), given_back: Notify::new() })
    }

    /// Takes a slot. Waits while all that can be revoked are too young for it. `None` if
    /// all are taken and none can be revoked.
    pub async fn take(self: &Arc<Self>, owner: T) -> Option<Slot<T>> {
        loop {
            let given_back = self.given_back.notified();
            let old_enough = {
                let mut taken = self.lock();
                if taken.count < self.max {
                    return Some(self.slot(&mut taken, owner));
                }
                taken.revocable.first_key_value().map(|(_, oldest)| oldest.since + self.grace)?
            };
            if old_enough > Instant::now() {
                tokio::select! {
                    () = given_back => {}
                    () = sleep_until(old_enough) => {}
                }
            } else if self.revoke_oldest().is_some() {
                // Its owner may be busy; then the next one is looked at.
                timeout(GIVE_BACK_LIMIT, given_back).await.ok();
            }
        }
    }

    /// Takes a slot at once. The oldest is revoked if need be, and counts until its owner
    /// has noticed: the owner is returned, for what does not notice by itself.
    pub fn take_now(self: &Arc<Self>, owner: T) -> (Slot<T>, Option<T>) {
        let full = self.lock().count >= self.max;
        let revoked = full.then(|| self.revoke_oldest()).flatten();
        (self.slot(&mut self.lock(), owner), revoked)
    }

    /// Revokes the oldest slot that can be, if it is old enough. Returns its owner.
    pub fn revoke_oldest(&self) -> Option<T> {
        let mut taken = self.lock();
        let oldest = taken.revocable.first_entry()?;
        if oldest.get().since + self.grace > Instant::now() {
            return None;
        }
        let Revocable { revoked, owner, .. } = oldest.remove();
        revoked.cancel();
        Some(owner)
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().count
    }

    fn slot(self: &Arc<Self>, taken: &mut Taken<T>, owner: T) -> Slot<T> {
        let (id, revoked) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.count += 1;
        let revocable = Revocable { since: Instant::now(), revoked: revoked.clone(), owner };
        taken.revocable.insert(id, revocable);
        Slot { slots: Arc::clone(self), id, revoked }
    }

    fn lock(&self) -> MutexGuard<'_, Taken<T>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slot<T> {
    /// From now on the slot is not revoked any more, unless it has been.
    pub fn keep(&self) {
        self.slots.lock().revocable.remove(&self.id);
    }

    /// Revokes the slot, unless it is kept.
    pub fn give_way(&self) {
        if let Some(revocable) = self.slots.lock().revocable.remove(&self.id) {
            revocable.revoked.cancel();
        }
    }

    /// Cancelled when the slot is wanted back.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.count -= 1;
        taken.revocable.remove(&self.id);
        drop(taken);
        self.slots.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_once_it_is_old_enough() {
        let slots = Slots::new(2, GRACE);
        let first = slots.take(()).await.expect("free");
        let second = slots.take(()).await.expect("free");
        second.keep();
        let before = Instant::now();
        let gives_back = async {
            first.revoked().cancelled().await;
            drop(first);
        };
        let (third, ()) = tokio::join!(slots.take(()), gives_back);
        let third = third.expect("given way to");
        assert!(Instant::now() - before >= GRACE, "nobody is revoked too early");
        assert!(!second.revoked().is_cancelled() && !third.revoked().is_cancelled());
        third.keep();
        assert!(slots.take(()).await.is_none(), "all have proven themselves");
        drop(second);
        assert!(slots.take(()).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_given_back_is_taken_at_once() {
        let slots = Slots::new(1, GRACE);
        let first = slots.take(()).await.expect("free");
        let before = Instant::now();
        let (second, ()) = tokio::join!(slots.take(()), async { drop(first) });
        assert!(second.is_some() && Instant::now() - before < GRACE);
        assert_eq!(slots.taken(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_does_not_wait_takes_the_place_of_the_oldest() {
        let slots = Slots::new(2, Duration::ZERO);
        let (first, second) = (slots.take_now("first").0, slots.take_now("second").0);
        let (third, revoked) = slots.take_now("third");
        assert_eq!(revoked, Some("first"));
        assert!(first.revoked().is_cancelled() && !second.revoked().is_cancelled());
        second.keep();
        second.give_way();
        assert!(!second.revoked().is_cancelled(), "what is kept does not give way");
        third.give_way();
        assert!(third.revoked().is_cancelled());
    }
}
