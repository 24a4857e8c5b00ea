//! What a tenant has used, and what it may use: its counters, its quotas, its cost of
//! the day, and which of its sessions has which conversation. Knows nothing of what its
//! sessions do.

mod conversations;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

pub use conversations::{Conversations, Hold};

use crate::{
    counters::{Counters, Spent, Today, Totals},
    domain::{failure::Cause, ids::TenantId},
    measures::Measures,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What every tenant may use; `None` is no quota.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quotas {
    /// Sessions in the pool.
    pub sessions: Option<usize>,
    /// Live CLI processes. More are waited for, not refused.
    pub processes: Option<usize>,
    /// Turns that wait, in all its sessions.
    pub queued_turns: Option<usize>,
    /// Streams of `Query` and `Attach` that are open.
    pub streams: Option<usize>,
    /// US dollars in a day (UTC), as the CLI estimates them. New turns are refused once
    /// they are spent; a turn under way goes on.
    pub cost_usd_per_day: Option<f64>,
}

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    id: TenantId,
    quotas: Quotas,
    /// What happened in its sessions.
    pub counters: Counters,
    /// How long it took.
    pub measures: Measures,
    /// Which of its sessions holds which conversation.
    pub conversations: Conversations,
    queued: Option<Arc<Semaphore>>,
    streams: Option<Arc<Semaphore>>,
    /// What this life of the service has spent.
    today: Mutex<Today>,
    /// What earlier lives and other nodes have, as far as is known.
    elsewhere: Mutex<Today>,
    /// What had been counted when this life began.
    before: Mutex<Totals>,
}

/// A share of a quota, given back when dropped; nothing where there is no quota.
#[derive(Debug, Default)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Tenant {
    /// A tenant that has used nothing yet.
    pub fn new(id: TenantId, quotas: Quotas, measures: &Measures) -> Self {
        let semaphore = |quota: Option<usize>| {
            quota.map(|quota| Arc::new(Semaphore::new(quota.min(Semaphore::MAX_PERMITS))))
        };
        Self {
            measures: measures.of(&id),
            id,
            counters: Counters::default(),
            conversations: Conversations::default(),
            queued: semaphore(quotas.queued_turns),
            streams: semaphore(quotas.streams),
            today: Mutex::default(),
            elsewhere: Mutex::default(),
            before: Mutex::default(),
            quotas,
        }
    }

    /// Its name.
    pub fn id(&self) -> &TenantId {
        &self.id
    }

    /// What it may use.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Room for one more session beside so many.
    pub fn admit_session(&self, sessions: usize) -> Result<(), Cause> {
        match self.quotas.sessions {
            Some(limit) if sessions >= limit => {
                Err(exceeded("policy.tenant_max_sessions", limit, Duration::from_secs(10)))
            }
            _ => Ok(()),
        }
    }

    /// A place for a turn that has to wait.
    pub fn queue_turn(&self) -> Result<Share, Cause> {
        let limit = self.quotas.queued_turns.unwrap_or_default();
        take(self.queued.as_ref(), "policy.tenant_max_queued_turns", limit)
    }

    /// A place for a stream.
    pub fn open_stream(&self) -> Result<Share, Cause> {
        let limit = self.quotas.streams.unwrap_or_default();
        take(self.streams.as_ref(), "policy.tenant_max_streams", limit)
    }

    /// Whether there is money left for another turn.
    pub fn admit_cost(&self) -> Result<(), Cause> {
        let Some(limit) = self.quotas.cost_usd_per_day else { return Ok(()) };
        let (day, left) = day_and_rest(SystemTime::now());
        if self.spent_on(day) < limit {
            return Ok(());
        }
        Err(exceeded("policy.tenant_max_cost_usd_per_day", limit, left))
    }

    /// US dollars that are left today; `None` is no bound.
    pub fn left_today(&self) -> Option<f64> {
        let limit = self.quotas.cost_usd_per_day?;
        Some(limit - self.spent_on(this_day()))
    }

    /// Takes note of what a turn cost.
    pub fn spend(&self, spent: &Spent) {
        self.counters.spend(spent);
        let (day, _) = day_and_rest(SystemTime::now());
        self.today(day).cost_usd += spent.cost_usd;
    }

    /// What it has counted and spent in this life of the service, to be kept.
    pub fn counted(&self) -> Totals {
        let today = *lock(&self.today);
        Totals { today, ..self.counters.totals() }.since(&lock(&self.before))
    }

    /// What had been counted before this life of the service.
    pub fn counted_before(&self) -> Totals {
        lock(&self.before).clone()
    }

    /// Goes on from what was kept.
    pub fn resume(&self, totals: &Totals) {
        self.counters.resume(totals);
        self.note_elsewhere(totals.today);
        // Before anything is counted in this life. What it spends on a day is counted apart.
        *lock(&self.before) = self.counters.totals();
    }

    /// Takes note of what earlier lives of the service and other nodes have spent on a day.
    pub fn note_elsewhere(&self, spent: Today) {
        let mut elsewhere = lock(&self.elsewhere);
        if spent.day >= elsewhere.day {
            *elsewhere = spent;
        }
    }

    /// Whether somebody has looked what others have spent on a day.
    pub fn knows_of_others_on(&self, day: u64) -> bool {
        lock(&self.elsewhere).day >= day
    }

    /// What was spent on a day, by all nodes as far as is known.
    fn spent_on(&self, day: u64) -> f64 {
        let own = self.today(day).cost_usd;
        let elsewhere = *lock(&self.elsewhere);
        if elsewhere.day == day { own + elsewhere.cost_usd } else { own }
    }

    fn today(&self, day: u64) -> MutexGuard<'_, Today> {
        let mut today = lock(&self.today);
        if today.day != day {
            *today = Today { day, cost_usd: 0.0 };
        }
        today
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Today, as days are counted here.
pub fn this_day() -> u64 {
    day_and_rest(SystemTime::now()).0
}

/// The day, and the time until it ends.
fn day_and_rest(now: SystemTime) -> (u64, Duration) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = since.as_secs() / DAY.as_secs();
    (day, DAY.saturating_sub(since.saturating_sub(Duration::from_secs(day * DAY.as_secs()))))
}

fn take(places: Option<&Arc<Semaphore>>, key: &'static str, limit: usize) -> Result<Share, Cause> {
    let Some(places) = places else { return Ok(Share::default()) };
    match Arc::clone(places).try_acquire_owned() {
        Ok(permit) => Ok(Share { _permit: Some(permit) }),
        Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
            Err(exceeded(key, limit, Duration::from_secs(1)))
        }
    }
}

fn exceeded(key: &'static str, limit: impl ToString, retry: Duration) -> Cause {
    Cause::TenantQuota { key, limit: limit.to_string(), retry }
}

/// All tenants that have been seen. They come from credentials that the operator gave
/// out, so their number is the operator's.
#[derive(Debug)]
pub struct Tenants {
    quotas: Quotas,
    measures: Measures,
    seen: Mutex<HashMap<TenantId, Arc<Tenant>>>,
}

impl Tenants {
    /// Nobody yet; each gets these quotas, and is measured so.
    pub fn new(quotas: Quotas, measures: Measures) -> Self {
        Self { quotas, measures, seen: Mutex::default() }
    }

    /// What is measured of all of them.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// The tenant of this name.
    pub fn get(&self, id: &TenantId) -> Arc<Tenant> {
        let mut seen = self.lock();
        if let Some(tenant) = seen.get(id) {
            return Arc::clone(tenant);
        }
        let tenant = Arc::new(Tenant::new(id.clone(), self.quotas.clone(), &self.measures));
        seen.insert(id.clone(), Arc::clone(&tenant));
        tenant
    }

    /// Whether there is a bound of what they spend in a day.
    pub fn have_a_daily_budget(&self) -> bool {
        self.quotas.cost_usd_per_day.is_some()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Tenant>>> {
        lock(&self.seen)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tenant(quotas: Quotas) -> Tenant {
        Tenant::new(TenantId::default(), quotas, &Measures::default())
    }

    fn refused(result: Result<impl std::fmt::Debug, Cause>) -> (&'static str, String) {
        match result.expect_err("refused") {
            Cause::TenantQuota { key, limit, .. } => (key, limit),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_quotas_nothing_is_refused() {
        let tenant = tenant(Quotas::default());
        tenant.spend(&Spent { cost_usd: 1e9, ..Spent::default() });
        assert!(tenant.admit_session(usize::MAX).is_ok() && tenant.admit_cost().is_ok());
        let shares: Vec<_> =
            (0..1000).map(|_| (tenant.queue_turn(), tenant.open_stream())).collect();
        assert!(shares.iter().all(|(turn, stream)| turn.is_ok() && stream.is_ok()));
    }

    #[test]
    fn a_share_is_given_back() {
        let tenant =
            tenant(Quotas { queued_turns: Some(1), streams: Some(1), ..Quotas::default() });
        let turn = tenant.queue_turn().expect("the first");
        assert_eq!(refused(tenant.queue_turn()), ("policy.tenant_max_queued_turns", "1".into()));
        drop(turn);
        assert!(tenant.queue_turn().is_ok());
        let _stream = tenant.open_stream().expect("the first");
        assert_eq!(refused(tenant.open_stream()), ("policy.tenant_max_streams", "1".into()));
    }

    #[test]
    fn a_day_has_its_budget() {
        let tenant = tenant(Quotas { cost_usd_per_day: Some(2.5), ..Quotas::default() });
        tenant.spend(&Spent { cost_usd: 2.4, ..Spent::default() });
        assert!(tenant.admit_cost().is_ok());
        tenant.spend(&Spent { cost_usd: 0.1, ..Spent::default() });
        let (key, limit) = refused(tenant.admit_cost());
        assert_eq!((key, limit.as_str()), ("policy.tenant_max_cost_usd_per_day", "2.5"));
        // Another day, another budget.
        let (day, _) = day_and_rest(SystemTime::now());
        assert!(tenant.today(day + 1).cost_usd.abs() < f64::EPSILON);
    }

    #[test]
    fn what_was_spent_today_counts_in_the_next_life() {
        let quotas = || Quotas { cost_usd_per_day: Some(2.5), ..Quotas::default() };
        let spent = Spent { cost_usd: 2.5, ..Spent::default() };
        let first = tenant(quotas());
        first.spend(&spent);
        let second = tenant(quotas());
        second.resume(&first.counted());
        assert!(second.admit_cost().is_err());
        assert_eq!(second.counters.totals(), first.counters.totals());
        assert_eq!(second.counted(), Totals::default(), "it has counted nothing itself");
        second.spend(&spent);
        let counted = Totals { counts: BTreeMap::new(), ..first.counted() };
        assert_eq!(second.counted(), counted);
        // What was spent on an earlier day does not.
        let mut earlier = first.counted();
        earlier.today.day -= 1;
        let third = tenant(quotas());
        third.resume(&earlier);
        assert!(third.admit_cost().is_ok());
        assert_eq!(third.counters.spent(), spent);
    }

    #[test]
    fn what_other_nodes_spend_today_counts_once_however_often_it_is_told() {
        let tenant = tenant(Quotas { cost_usd_per_day: Some(2.5), ..Quotas::default() });
        let (today, half) = (this_day(), Spent { cost_usd: 1.25, ..Spent::default() });
        tenant.spend(&half);
        for _ in 0..3 {
            tenant.note_elsewhere(Today { day: today, cost_usd: 1.0 });
        }
        tenant.admit_cost().expect("not all is spent");
        tenant.note_elsewhere(Today { day: today, cost_usd: 1.25 });
        tenant.admit_cost().expect_err("all is spent");
        assert!((tenant.counted().today.cost_usd - 1.25).abs() < 1e-9, "only its own is kept");
        // Their day is over, and so is ours; one whose clock is behind takes nothing back.
        tenant.note_elsewhere(Today { day: today + 1, cost_usd: 0.0 });
        tenant.note_elsewhere(Today { day: today, cost_usd: 9.0 });
        tenant.admit_cost().expect("what it has spent itself");
    }

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let at = |seconds| day_and_rest(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), (0, DAY));
        assert_eq!(at(86_399), (0, Duration::from_secs(1)));
        assert_eq!(at(86_400), (1, DAY));
    }

    #[test]
    fn tenants_are_told_apart() {
        let tenants = Tenants::new(Quotas::default(), Measures::default());
        let a = TenantId::parse("a").expect("a name");
        assert!(Arc::ptr_eq(&tenants.get(&a), &tenants.get(&a)));
        assert!(!Arc::ptr_eq(&tenants.get(&a), &tenants.get(&TenantId::default())));
        assert_eq!(tenants.all().len(), 2);
    }
}
