//! How a session comes into the map, and leaves it: whether one more may be made, and the task
//! that it lives in.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;
use tracing::{debug, error, error_span, warn};

use super::{
    SessionPool,
    registry::{Entry, Parts, Sessions, of_tenant},
};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::SessionKey,
    },
    session::{SessionContext, SessionHandle, SessionTask},
    telemetry::log_limit::{AT_CAPACITY, DISABLED},
    tenant::Tenant,
};

impl SessionPool {
    /// The session under this key. One that is not in the pool is made, if the pool takes one
    /// more of this tenant.
    pub(super) fn find_or_make(
        &self,
        key: &SessionKey,
        ephemeral: bool,
    ) -> Result<SessionHandle, Failure> {
        let id = &key.session;
        let settings = &self.shared().settings;
        let refusal = |cause| Failure::from(cause).concerning(Some(id), None);
        if !settings.enabled {
            let (current_sessions, max_sessions) = (self.len(), settings.max_sessions);
            if DISABLED.admits() {
                error!(session_id = %id, current_sessions, max_sessions, "session_pool_disabled");
            }
            return Err(refusal(Cause::PoolDisabled));
        }
        if self.is_draining() {
            return Err(refusal(Cause::ShuttingDown));
        }
        let tenant = self.tenant(&key.tenant);
        let mut sessions = self.lock();
        match sessions.get(key) {
            Some(Entry::Live { handle, .. }) => return Ok(handle.clone()),
            // It has its place already.
            Some(Entry::Unloaded { .. }) => return Ok(self.make(&mut sessions, key, ephemeral)),
            None => {}
        }
        // One that is there asks for itself: the turn may be one that has begun.
        tenant.admit_cost().map_err(refusal)?;
        let current_sessions = sessions.len();
        if current_sessions >= settings.max_sessions {
            tenant.counters.capacity_refusals.add_one();
            let max_sessions = settings.max_sessions;
            if AT_CAPACITY.admits() {
                warn!(session_id = %id, current_sessions, max_sessions, "session_pool_at_capacity");
            }
            return Err(refusal(Cause::PoolAtCapacity { limit: max_sessions }));
        }
        if tenant.quotas().sessions.is_some() {
            let count = of_tenant(&sessions, &key.tenant, None).count();
            tenant.admit_session(count).map_err(refusal)?;
        }
        debug!(session_id = %id, "session_pool_creating_new_session");
        Ok(self.make(&mut sessions, key, ephemeral))
    }

    pub(super) fn make(
        &self,
        sessions: &mut Sessions,
        key: &SessionKey,
        ephemeral: bool,
    ) -> SessionHandle {
        let context = self.session_context(self.tenant(&key.tenant));
        let (task, handle) = SessionTask::new(key.session.clone(), ephemeral, context);
        let generation = self.shared().generations.fetch_add(1, Ordering::Relaxed);
        sessions.insert(key.clone(), Entry::Live { handle: handle.clone(), generation });
        self.spawn(key.clone(), generation, task);
        handle
    }

    fn session_context(&self, tenant: Arc<Tenant>) -> SessionContext {
        let Parts { session, supply, store, tenants: _, logs } = &self.shared().parts;
        SessionContext {
            settings: Arc::clone(session),
            supply: Arc::clone(supply),
            store: Arc::clone(store),
            hibernatable: self.hibernatable(),
            tenant,
            turns: self.shared().turns.clone(),
            logs: logs.clone(),
        }
    }

    fn spawn(&self, key: SessionKey, generation: u64, task: SessionTask) {
        let pool = self.clone();
        // No parent: the call that made the session is not what it lives for.
        let span = error_span!(
            parent: None,
            "session",
            tenant = %key.tenant,
            session_id = %key.session
        );
        self.shared().tasks.spawn(span, async move {
            let mut place = PlaceInPool { pool, key, generation, stays: None };
            let replies = task.run().await;
            place.stays = replies.stays;
            drop(place);
            replies.send();
        });
    }

    /// A session's task has ended: the session leaves the pool, or stays without a task.
    fn leave(&self, key: &SessionKey, generation: u64, stays: Option<Instant>) {
        let mut sessions = self.lock();
        let Some(entry) = sessions.get_mut(key) else { return };
        if !matches!(entry, Entry::Live { generation: current, .. } if *current == generation) {
            return;
        }
        match stays {
            Some(last_used) => *entry = Entry::Unloaded { last_used },
            None => drop(sessions.remove(key)),
        }
    }
}

/// Given up when a session's task ends, however it does: a place without a task would be
/// waited for without end.
struct PlaceInPool {
    pool: SessionPool,
    key: SessionKey,
    generation: u64,
    stays: Option<Instant>,
}

impl Drop for PlaceInPool {
    fn drop(&mut self) {
        self.pool.leave(&self.key, self.generation, self.stays);
    }
}
