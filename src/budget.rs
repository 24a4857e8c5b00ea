//! Budgets of bytes: so many in all and so many for each tenant, shared by everything that
//! holds some. Knows tenants; nothing of what the bytes are.
//!
//! A [`Reservation`] is a claim on a budget that is given back when it is dropped. A claim
//! is refused when it would pass a bound; whoever holds bytes already and cannot be refused
//! claims them by [`Reservation::set`], and others are refused until they are given back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::domain::ids::TenantId;

/// The bounds of a budget, and the keys that set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The key of `total`.
    pub key: &'static str,
    /// Bytes in all.
    pub total: u64,
    /// The key of `of_tenant`.
    pub tenant_key: &'static str,
    /// Bytes of one tenant; `None` is all of them.
    pub of_tenant: Option<u64>,
}

/// A budget. Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    used: AtomicU64,
    tenants: Mutex<HashMap<TenantId, Arc<AtomicU64>>>,
}

/// A tenant's share of a budget. Cloning gives another handle to the same share.
#[derive(Debug, Clone)]
pub struct Account {
    budget: Budget,
    used: Arc<AtomicU64>,
}

/// Bytes that are claimed, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Account,
    bytes: u64,
}

/// A claim would pass a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The key that sets the bound.
    pub key: &'static str,
    /// The bound, in bytes.
    pub limit: u64,
    /// Whether it is the bound of one tenant.
    pub of_tenant: bool,
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Shared { bounds, used: AtomicU64::new(0), tenants: Mutex::default() }))
    }

    /// A tenant's share.
    pub fn account(&self, tenant: &TenantId) -> Account {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let used = match tenants.get(tenant) {
            Some(used) => Arc::clone(used),
            None => Arc::clone(tenants.entry(tenant.clone()).or_default()),
        };
        Account { budget: self.clone(), used }
    }

    /// Bytes that are claimed, in all.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The bound of all together.
    pub fn total(&self) -> u64 {
        self.0.bounds.total
    }
}

impl Account {
    /// Claims bytes.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, Exceeded> {
        let mut reservation = self.open();
        reservation.resize(bytes).map(|()| reservation)
    }

    /// A claim on nothing yet.
    pub fn open(&self) -> Reservation {
        Reservation { account: self.clone(), bytes: 0 }
    }

    /// Bytes that the tenant has claimed.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound of the tenant.
    pub fn limit(&self) -> u64 {
        let bounds = &self.budget.0.bounds;
        bounds.of_tenant.unwrap_or(bounds.total).min(bounds.total)
    }

    /// Whether another account is of the same tenant and budget.
    pub fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.used, &other.used)
    }

    /// The bound that is passed, if there is one.
    pub fn overrun(&self) -> Option<Exceeded> {
        let bounds = &self.budget.0.bounds;
        if self.used() > self.limit() {
            return Some(self.exceeded());
        }
        (self.budget.used() > bounds.total).then(|| self.budget.exceeded())
    }

    fn exceeded(&self) -> Exceeded {
        match self.budget.0.bounds.of_tenant {
            Some(_) => Exceeded {
                key: self.budget.0.bounds.tenant_key,
                limit: self.limit(),
                of_tenant: true,
            },
            None => self.budget.exceeded(),
        }
    }

    fn add(&self, bytes: u64) -> Result<(), Exceeded> {
        claim(&self.used, bytes, self.limit()).map_err(|()| self.exceeded())?;
        let shared = &self.budget.0;
        claim(&shared.used, bytes, shared.bounds.total).map_err(|()| {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            self.budget.exceeded()
        })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Budget {
    fn exceeded(&self) -> Exceeded {
        let Bounds { key, total, .. } = self.0.bounds;
        Exceeded { key, limit: total, of_tenant: false }
    }
}

fn claim(used: &AtomicU64, bytes: u64, limit: u64) -> Result<(), ()> {
    let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(drop)
}

impl Reservation {
    /// Bytes that it claims.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Claims so many bytes in all; refused, it claims what it did before. Less is never
    /// refused.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Exceeded> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.account.add(more)?,
            None => self.account.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Claims so many bytes in all, although that may pass a bound: they are there.
    pub fn set(&mut self, bytes: u64) {
        if self.resize(bytes).is_err() {
            let more = bytes - self.bytes;
            self.account.used.fetch_add(more, Ordering::Relaxed);
            self.account.budget.0.used.fetch_add(more, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(total: u64, of_tenant: Option<u64>) -> Budget {
        Budget::new(Bounds { key: "all", total, tenant_key: "each", of_tenant })
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    #[test]
    fn c7_a_claim_past_a_bound_names_the_bound_and_claims_nothing() {
        let budget = budget(100, Some(60));
        let (a, b) = (budget.account(&tenant("a")), budget.account(&tenant("b")));
        let held = a.reserve(50).expect("room");
        let refused = a.reserve(11).expect_err("too much of one tenant");
        assert_eq!(refused, Exceeded { key: "each", limit: 60, of_tenant: true });
        let refused = b.reserve(51).expect_err("too much in all");
        assert_eq!(refused, Exceeded { key: "all", limit: 100, of_tenant: false });
        assert_eq!((budget.used(), a.used(), b.used()), (50, 50, 0));
        drop(held);
        assert!(b.reserve(60).is_ok());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn c7_what_is_there_counts_although_it_passes_a_bound() {
        let budget = budget(100, None);
        let account = budget.account(&tenant("a"));
        let mut held = account.open();
        held.set(150);
        assert_eq!(account.overrun().map(|over| over.key), Some("all"));
        assert!(account.reserve(1).is_err());
        held.resize(20).expect("less is never refused");
        assert_eq!((account.overrun(), budget.used()), (None, 20));
    }

    proptest! {
        #[test]
        fn c7_the_sum_of_claims_is_what_is_used(
            steps in prop::collection::vec((0usize..3, 0usize..4, 0u64..120), 0..60),
        ) {
            let budget = budget(200, Some(90));
            let accounts = ["a", "b", "c"].map(|name| budget.account(&tenant(name)));
            let mut held: Vec<(usize, Reservation)> = Vec::new();
            for (who, what, bytes) in steps {
                match what {
                    0 => held.extend(accounts[who].reserve(bytes).ok().map(|held| (who, held))),
                    1 if !held.is_empty() => {
                        let which = held.len() / 2;
                        held[which].1.resize(bytes).ok();
                    }
                    2 if !held.is_empty() => drop(held.remove(0)),
                    _ => {}
                }
                for (who, account) in accounts.iter().enumerate() {
                    let sum = held.iter().filter(|(of, _)| *of == who).map(|(_, held)| held.bytes());
                    prop_assert_eq!(account.used(), sum.sum::<u64>());
                    prop_assert!(account.used() <= 90);
                }
                let all: u64 = held.iter().map(|(_, held)| held.bytes()).sum();
                prop_assert_eq!(budget.used(), all);
                prop_assert!(all <= 200);
            }
        }
    }
}
