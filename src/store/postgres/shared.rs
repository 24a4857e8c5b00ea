//! What nodes know of each other by the database: who lives, how many sessions there are of all
//! of them, what all of them have counted. Everything is read in one state, so that what is on
//! its way from one table to another is seen once.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    PostgresStore,
    nodes::{self, Node},
    transaction::Transaction,
};
use crate::{
    counters::Totals,
    domain::ids::{SessionId, SessionKey, TenantId},
    store::{
        Pending, StoreError, counts, queries,
        shared::{Shared, Survey},
        statements::Running,
    },
};

/// How long it may take to find out which nodes live. Who asks has others wait.
const LOOK: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// This node, as others see it but for whether it drains.
    pub fn own(&self) -> Node {
        let me = self.me.identity();
        Node {
            name: me.name.clone(),
            address: me.address.clone(),
            incarnation: me.incarnation.clone(),
            draining: false,
        }
    }

    /// The nodes that live, and why that is not known now, if it is not: then they are those that
    /// lived when it was known last.
    pub async fn living(&self) -> (Arc<[Node]>, Option<StoreError>) {
        let late = |_| Err(StoreError::unavailable("the database does not answer"));
        let living = timeout(LOOK, nodes::living(&self.database)).await.unwrap_or_else(late);
        match living {
            Ok(living) => (self.note_living(living), None),
            Err(error) => {
                let last = self.last_living.lock().unwrap_or_else(PoisonError::into_inner);
                (Arc::clone(&last), Some(error))
            }
        }
    }

    fn note_living(&self, living: Vec<Node>) -> Arc<[Node]> {
        let living: Arc<[Node]> = living.into();
        let mut last = self.last_living.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Arc::clone(&living);
        living
    }

    async fn look(&self, tenants: &[TenantId], day: u64) -> Result<Survey, StoreError> {
        let me = self.me.identity();
        self.places.clean_up(&self.database, &me.incarnation, None).await?;
        let (living, survey) = self
            .read(|by| {
                let (tenants, life) = (tenants.to_vec(), self.life.clone());
                Box::pin(async move {
                    let living = nodes::read_living(by).await?;
                    let in_pool = queries::in_pool(by).await?;
                    let spent = spent(by, &tenants, day, &life).await?;
                    Ok((living, Survey { in_pool, spent }))
                })
            })
            .await?;
        self.note_living(living);
        Ok(survey)
    }
}

/// What all lives but one have spent of these tenants' on a day.
async fn spent(
    by: &mut Transaction,
    tenants: &[TenantId],
    day: u64,
    but_by: &str,
) -> Result<Vec<(TenantId, f64)>, StoreError> {
    let mut all = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        all.push((tenant.clone(), counts::spent_on(by, tenant, day, but_by).await?));
    }
    Ok(all)
}

impl Shared for PostgresStore {
    fn counts_as(&self) -> &str {
        &self.life
    }

    fn survey<'a>(&'a self, tenants: &'a [TenantId], day: u64) -> Pending<'a, Survey> {
        Box::pin(self.look(tenants, day))
    }

    fn look_every(&self) -> Duration {
        self.heartbeat
    }

    fn take_place<'a>(&'a self, key: &'a SessionKey, limit: usize) -> Pending<'a, Option<i64>> {
        Box::pin(async move {
            let me = self.me.identity();
            self.places.take(&self.database, &me.incarnation, key, limit).await
        })
    }

    fn give_place_back(&self, place: i64) {
        self.places.give_back(&self.database, &self.me.identity().incarnation, place);
    }

    fn counted<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        but_by: &'a [String],
    ) -> Pending<'a, Totals> {
        Box::pin(self.read(move |by| -> Running<'_, Totals> {
            let (tenant, but_by) = (tenant.cloned(), but_by.to_vec());
            Box::pin(async move {
                let mut sum = Totals::default();
                for (_, totals) in counts::read_but(by, tenant.as_ref(), &but_by).await? {
                    sum.add(&totals);
                }
                Ok(sum)
            })
        }))
    }

    fn owners<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        last: &'a SessionId,
    ) -> Pending<'a, HashMap<SessionId, String>> {
        Box::pin(self.read(move |by| {
            let me = self.me.identity();
            let (tenant, after, last) = (tenant.clone(), after.cloned(), last.clone());
            Box::pin(async move {
                let between = (after.as_ref(), &last);
                nodes::owners(by, &me, &tenant, between).await
            })
        }))
    }
}
