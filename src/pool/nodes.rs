//! The pool as one that several nodes have in common, by the store that they share: how many
//! sessions are in it, and what its tenants have spent, at all of them. A store that one service
//! has to itself needs none of this: what is known here is all that there is.

use std::{
    collections::{BTreeMap, HashMap},
    slice,
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::{Parts, Scope, SessionPool, places::Place};
use crate::{
    counters::{Counters, Today, Totals},
    domain::{
        failure::{Cause, Failure},
        ids::{SessionId, SessionKey, TenantId},
    },
    session::{status::Status, store_failed},
    store::{StoreError, Survey},
    tenant::this_day,
};

/// How long who asks for figures waits for the store.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// What there is beyond the figures that nodes tell of themselves.
#[derive(Debug)]
pub struct Beyond {
    /// Sessions in the pool, beside those that nodes have told of.
    pub sessions: usize,
    /// What was counted by others than the nodes that have told what they have counted.
    pub counted: Counters,
}

impl SessionPool {
    /// Keeps up to date what is known of the other nodes' share of the pool.
    pub(super) async fn look_around_for_ever(&self) {
        let Some(every) = self.shared().parts.store.shared().map(|it| it.look_every()) else {
            return;
        };
        let mut rounds = interval(every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What it begins with was read at the start.
        rounds.tick().await;
        loop {
            rounds.tick().await;
            if let Err(error) = self.look_around().await {
                debug!(%error, "pool_not_surveyed");
            }
        }
    }

    async fn look_around(&self) -> Result<(), StoreError> {
        let Parts { store, tenants, .. } = &self.shared().parts;
        let Some(shared) = store.shared() else { return Ok(()) };
        let (day, seen) = (this_day(), tenants.all());
        let asked = match tenants.have_a_daily_budget() {
            true => seen.iter().map(|tenant| tenant.id().clone()).collect(),
            false => Vec::new(),
        };
        let Survey { in_pool, spent } = shared.survey(&asked, day).await?;
        for (tenant, cost_usd) in spent {
            self.tenant(&tenant).note_elsewhere(Today { day, cost_usd });
        }
        let mut own = HashMap::<TenantId, usize>::new();
        for (key, handle) in self.handles(&Scope::All) {
            if handle.status().is_stored {
                *own.entry(key.tenant).or_default() += 1;
            }
        }
        let others = in_pool.into_iter().map(|(tenant, stored)| {
            let own = own.get(&tenant).copied().unwrap_or_default();
            (tenant, stored.saturating_sub(own))
        });
        self.lock().have_stored(others);
        Ok(())
    }

    /// Finds out what others have spent of a tenant's today, unless that is known: nobody has
    /// looked for a tenant that comes for the first time.
    pub(super) async fn learn_what_is_spent(&self, id: &TenantId) -> Result<(), Cause> {
        let Parts { store, tenants, .. } = &self.shared().parts;
        let (tenant, day) = (self.tenant(id), this_day());
        let Some(shared) = store.shared().filter(|_| tenants.have_a_daily_budget()) else {
            return Ok(());
        };
        if tenant.knows_of_others_on(day) {
            return Ok(());
        }
        let survey = shared.survey(slice::from_ref(id), day).await.map_err(store_failed)?;
        for (_, cost_usd) in survey.spent {
            tenant.note_elsewhere(Today { day, cost_usd });
        }
        Ok(())
    }

    /// A place for a session that is about to be made, where its tenant may have so many at all
    /// nodes and the store counts them.
    pub(super) async fn take_place(&self, key: &SessionKey) -> Result<Option<Place>, Cause> {
        let (store, tenant) = (&self.shared().parts.store, self.tenant(&key.tenant));
        let (Some(shared), Some(limit)) = (store.shared(), tenant.quotas().sessions) else {
            return Ok(None);
        };
        // Who is refused anyway writes nothing.
        tenant.admit_cost()?;
        match shared.take_place(key, limit).await.map_err(store_failed)? {
            Some(number) => Ok(Some(Place::new(Arc::clone(store), number))),
            None => tenant.admit_session(limit).map(|()| None),
        }
    }

    /// The name by which the store has what this life of the service has counted, where others
    /// count beside it.
    pub fn counts_as(&self) -> Option<String> {
        self.shared().parts.store.shared().map(|shared| shared.counts_as().to_owned())
    }

    /// What there is beyond the figures of these nodes: so many of their sessions are in the
    /// store, and they count by these names.
    pub async fn beyond(
        &self,
        scope: &Scope,
        stored: usize,
        counting: &[String],
    ) -> Result<Beyond, Failure> {
        let counted = Counters::default();
        let Some(shared) = self.shared().parts.store.shared() else {
            for tenant in self.tenants_of(scope) {
                counted.resume(&tenant.counted_before());
            }
            return Ok(Beyond { sessions: self.lock().stored(scope), counted });
        };
        let tenant = match scope {
            Scope::All => None,
            Scope::Tenant(tenant) => Some(tenant),
        };
        let looked = async {
            tokio::try_join!(shared.counted(tenant, counting), shared.survey(&[], this_day()))
        };
        let late = |_| Err(StoreError::unavailable("the database does not answer"));
        let looked = timeout(LOOK_LIMIT, looked).await.unwrap_or_else(late);
        let (totals, survey) = looked.map_err(store_failed)?;
        counted.resume(&totals);
        let is_meant = |(it, _): &&(TenantId, usize)| tenant.is_none_or(|tenant| it == tenant);
        let in_pool: usize =
            survey.in_pool.iter().filter(is_meant).map(|(_, sessions)| sessions).sum();
        Ok(Beyond { sessions: in_pool.saturating_sub(stored), counted })
    }

    /// What this life of the service has counted.
    pub(super) fn counted_here(&self, scope: &Scope) -> Counters {
        let mut sum = Totals::default();
        for tenant in self.tenants_of(scope) {
            sum.add(&tenant.counted());
        }
        let counters = Counters::default();
        counters.resume(&sum);
        counters
    }

    /// A tenant's sessions that have a task here, with ids after `after`: up to `limit`.
    pub fn list_here(
        &self,
        tenant: &TenantId,
        after: Option<SessionId>,
        limit: usize,
    ) -> (Vec<Status>, bool) {
        let (here, _) = self.at_hand(tenant, after, limit.saturating_add(1));
        let more = here.len() > limit;
        (here.into_values().take(limit).collect(), more)
    }

    /// At which other nodes sessions of a tenant live, as far as the store knows: of those with
    /// ids after `after` and up to `last`.
    pub async fn owners(
        &self,
        tenant: &TenantId,
        after: Option<&SessionId>,
        last: Option<&SessionId>,
    ) -> Result<BTreeMap<SessionId, String>, Failure> {
        let (Some(shared), Some(last)) = (self.shared().parts.store.shared(), last) else {
            return Ok(BTreeMap::new());
        };
        let owners = shared.owners(tenant, after, last).await.map_err(store_failed)?;
        Ok(owners.into_iter().collect())
    }
}
