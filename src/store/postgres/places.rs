//! Places of sessions that are about to be made, where a tenant may have only so many of them
//! at all nodes together. A place is taken in a transaction that has the tenant for itself
//! and counts what there is: sessions in the pool, and places of nodes that live whose session
//! is not in the pool yet. So of nodes that ask at once no more get one than there is room.
//!
//! What this node knows of its places is what counts: a row that it does not know is one that was
//! given back, or taken by somebody who did not wait for it. It is removed before this node
//! takes another place of the tenant's; for other nodes at once, or at the next look if that
//! fails, or when this node is dead.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};
use tracing::debug;

use super::{
    nodes::lives,
    transaction::{Database, Transaction},
};
use crate::{
    domain::ids::{SessionKey, TenantId},
    store::{
        StoreError,
        statements::{Cells as _, Statements as _, Value},
    },
    tasks::spawn_owned,
};

/// How long a session waits for others that are about to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// The places of this node, by their numbers: a session that is made anew takes another one while
/// its last may be in the database still.
#[derive(Debug, Clone, Default)]
pub struct Places {
    known: Arc<Mutex<Known>>,
    /// Held by who takes one: those who wait for a tenant's lock in the database have a
    /// connection each, and others need some, too.
    line: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<i64, SessionKey>,
    last: i64,
}

/// A place that is being taken; forgotten when it is dropped.
struct Taking<'a> {
    places: &'a Places,
    number: i64,
    is_taken: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.places.lock().places.remove(&self.number);
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a session of a tenant that may have so many. Returns its number. Tried
    /// once more if the connection turns out to be gone.
    pub async fn take(
        &self,
        database: &Database,
        incarnation: &str,
        key: &SessionKey,
        limit: usize,
    ) -> Result<Option<i64>, StoreError> {
        let busy = |_| StoreError::unavailable("too many sessions are about to be made");
        let _next = timeout(PATIENCE, self.line.lock()).await.map_err(busy)?;
        match self.try_to_take(database, incarnation, key, limit).await {
            Err(StoreError::Unavailable { .. }) => {
                self.try_to_take(database, incarnation, key, limit).await
            }
            done => done,
        }
    }

    async fn try_to_take(
        &self,
        database: &Database,
        incarnation: &str,
        key: &SessionKey,
        limit: usize,
    ) -> Result<Option<i64>, StoreError> {
        // Known before there is a row of it.
        let number = {
            let mut known = self.lock();
            known.last += 1;
            let number = known.last;
            known.places.insert(number, key.clone());
            number
        };
        let mut taking = Taking { places: self, number, is_taken: false };
        let mut transaction = database.write().await?;
        let its: [Value<'_>; 2] = [key.tenant.as_str().into(), key.session.as_str().into()];
        // Statements behind it see what was committed by whoever had it before. The seed keeps it
        // apart from other locks that are made of names.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 4711))";
        transaction.run(lock, &its[..1]).await?;
        self.remove_unknown(&mut transaction, incarnation, Some(&key.tenant)).await?;
        let dead = "DELETE FROM places p WHERE p.tenant = $1 AND NOT EXISTS \
                    (SELECT 1 FROM nodes n WHERE n.incarnation = p.incarnation)";
        transaction.run(dead, &its[..1]).await?;
        let has_room = has_room(&mut transaction, its, limit).await?;
        if has_room {
            let take = "INSERT INTO places (tenant, session_id, incarnation, number) \
                        VALUES ($1, $2, $3, $4)";
            transaction.run(take, &[its[0], its[1], incarnation.into(), number.into()]).await?;
        }
        transaction.commit().await?;
        taking.is_taken = has_room;
        Ok(has_room.then_some(number))
    }

    /// Gives a place back.
    pub fn give_back(&self, database: &Database, incarnation: &str, number: i64) {
        let Some(key) = self.lock().places.remove(&number) else { return };
        if Handle::try_current().is_err() {
            // The service has ended, and its places with it.
            return;
        }
        let (places, database) = (self.clone(), database.clone());
        let incarnation = incarnation.to_owned();
        // Whoever gives it back does not wait; what is not done is done later.
        drop(spawn_owned(async move {
            let gone = places.clean_up(&database, &incarnation, Some(&key.tenant)).await;
            if let Err(error) = gone {
                debug!(session_id = %key.session, %error, "place_not_given_back");
            }
        }));
    }

    /// Removes what this node does not know, of one tenant or of all.
    pub async fn clean_up(
        &self,
        database: &Database,
        incarnation: &str,
        tenant: Option<&TenantId>,
    ) -> Result<(), StoreError> {
        if self.lock().last == 0 {
            // It has never taken any.
            return Ok(());
        }
        let mut transaction = database.write().await?;
        self.remove_unknown(&mut transaction, incarnation, tenant).await?;
        transaction.commit().await
    }

    async fn remove_unknown(
        &self,
        transaction: &mut Transaction,
        incarnation: &str,
        tenant: Option<&TenantId>,
    ) -> Result<(), StoreError> {
        // No tenant has an empty name. Whoever removes several does so in one order.
        let tenant = tenant.map_or("", TenantId::as_str);
        let own = "SELECT number FROM places WHERE incarnation = $1 AND ($2 = '' OR tenant = $2) \
                   ORDER BY number";
        for row in transaction.rows(own, &[incarnation.into(), tenant.into()]).await? {
            let number = row.number("number")?;
            if self.lock().places.contains_key(&number) {
                continue;
            }
            let gone = "DELETE FROM places WHERE incarnation = $1 AND number = $2";
            transaction.run(gone, &[incarnation.into(), number.into()]).await?;
        }
        Ok(())
    }
}

/// Whether a session may be in the pool beside those of its tenant that are, or are about to be.
async fn has_room(
    transaction: &mut Transaction,
    its: [Value<'_>; 2],
    limit: usize,
) -> Result<bool, StoreError> {
    let counted = transaction.row(
        concat!(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant = $1 AND session_id = $2 \
             AND in_pool = 1) AS is_in, \
             (SELECT CAST(COALESCE(SUM(sessions), 0) AS BIGINT) FROM pool_sizes \
             WHERE tenant = $1) AS stored, \
             (SELECT COUNT(DISTINCT p.session_id) FROM places p \
             JOIN nodes n ON n.incarnation = p.incarnation \
             WHERE p.tenant = $1 AND p.session_id <> $2 AND ",
            lives!(),
            " AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.tenant = p.tenant \
             AND s.session_id = p.session_id AND s.in_pool = 1)) AS coming"
        ),
        &its,
    );
    let Some(counted) = counted.await? else { return Ok(false) };
    let there = counted.number("stored")?.saturating_add(counted.number("coming")?);
    Ok(counted.is_true("is_in")? || there < i64::try_from(limit).unwrap_or(i64::MAX))
}
