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

/// The slots.
#[derive(Debug)]
pub struct Slots {
    max: usize,
    /// A slot is not revoked before it has this age.
    grace: Duration,
    taken: Mutex<Taken>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    next: u64,
    /// Those that can be revoked, the oldest first.
    revocable: BTreeMap<u64, Revocable>,
}

#[derive(Debug)]
struct Revocable {
    since: Instant,
    revoked: CancellationToken,
}

/// One slot. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    id: u64,
    revoked: CancellationToken,
}

impl Slots {
    /// So many slots, each of which is safe for `grace` at least.
    pub fn new(max: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { max, grace, taken: Mutex::default(), given_back: Notify::new() })
    }

    /// Takes a slot. Waits while all that can be revoked are too young for it. `None` if
    /// all are taken and none can be revoked.
    pub async fn take(self: &Arc<Self>) -> Option<Slot> {
        loop {
            let given_back = self.given_back.notified();
            let old_enough = {
                let mut taken = self.lock();
                if taken.count < self.max {
                    return Some(self.slot(&mut taken));
                }
                taken.revocable.first_key_value().map(|(_, oldest)| oldest.since + self.grace)?
            };
            if old_enough > Instant::now() {
                tokio::select! {
                    () = given_back => {}
                    () = sleep_until(old_enough) => {}
                }
            } else if self.revoke_oldest() {
                // Its owner may be busy; then the next one is looked at.
                timeout(GIVE_BACK_LIMIT, given_back).await.ok();
            }
        }
    }

    /// Takes a slot at once: the oldest is revoked if need be, and counts until its owner
    /// has noticed.
    pub fn take_now(self: &Arc<Self>) -> (Slot, bool) {
        let full = self.lock().count >= self.max;
        let revoked = full && self.revoke_oldest();
        (self.slot(&mut self.lock()), revoked)
    }

    /// Revokes the oldest slot that can be, if it is old enough. Returns whether one was.
    pub fn revoke_oldest(&self) -> bool {
        let mut taken = self.lock();
        let Some(oldest) = taken.revocable.first_entry() else { return false };
        if oldest.get().since + self.grace > Instant::now() {
            return false;
        }
        oldest.remove().revoked.cancel();
        true
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().count
    }

    fn slot(self: &Arc<Self>, taken: &mut Taken) -> Slot {
        let (id, revoked) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.count += 1;
        let revocable = Revocable { since: Instant::now(), revoked: revoked.clone() };
        taken.revocable.insert(id, revocable);
        Slot { slots: Arc::clone(self), id, revoked }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// From now on the slot is not revoked any more, unless it has been.
    pub fn keep(&self) {
        self.slots.lock().revocable.remove(&self.id);
    }

    /// Cancelled when the slot is wanted back.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

impl Drop for Slot {
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
        let first = slots.take().await.expect("free");
        let second = slots.take().await.expect("free");
        second.keep();
        let before = Instant::now();
        let gives_back = async {
            first.revoked().cancelled().await;
            drop(first);
        };
        let (third, ()) = tokio::join!(slots.take(), gives_back);
        let third = third.expect("given way to");
        assert!(Instant::now() - before >= GRACE, "nobody is revoked too early");
        assert!(!second.revoked().is_cancelled() && !third.revoked().is_cancelled());
        third.keep();
        assert!(slots.take().await.is_none(), "all have proven themselves");
        drop(second);
        assert!(slots.take().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_given_back_is_taken_at_once() {
        let slots = Slots::new(1, GRACE);
        let first = slots.take().await.expect("free");
        let before = Instant::now();
        let (second, ()) = tokio::join!(slots.take(), async { drop(first) });
        assert!(second.is_some() && Instant::now() - before < GRACE);
        assert_eq!(slots.taken(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_does_not_wait_takes_the_place_of_the_oldest() {
        let slots = Slots::new(2, Duration::ZERO);
        let (first, second, third) = (slots.take_now().0, slots.take_now().0, slots.take_now());
        assert!(third.1 && first.revoked().is_cancelled() && !second.revoked().is_cancelled());
    }
}
