//! How a session comes into the map, and leaves it: whether one more may be made, and the task
//! that it lives in.

use std::sync::{Arc, atomic::Ordering};

use tracing::{debug, error_span, warn};

use super::{Scope, SessionPool, registry::Parts, sessions::Sessions};
use crate::{
    domain::{failure::Cause, ids::SessionKey},
    session::{Remains, SessionContext, SessionHandle, SessionTask, Wanted},
    store::{Claimed, Record},
    telemetry::log_limit::AT_CAPACITY,
    tenant::Tenant,
};

impl SessionPool {
    /// Whether there is room for one more session.
    pub(super) fn admit(&self, sessions: &Sessions, key: &SessionKey) -> Result<(), Cause> {
        let (id, tenant) = (&key.session, self.tenant(&key.tenant));
        // One that is there asks for itself: the turn may be one that has begun.
        tenant.admit_cost()?;
        let max_sessions = self.shared().settings.max_sessions;
        let current_sessions = sessions.count(&Scope::All);
        if current_sessions >= max_sessions {
            tenant.counters.capacity_refusals.add_one();
            if AT_CAPACITY.admits() {
                warn!(session_id = %id, current_sessions, max_sessions, "session_pool_at_capacity");
            }
            return Err(Cause::PoolAtCapacity { limit: max_sessions });
        }
        // Where others make sessions of it as well, it has its place.
        let is_counted_here = self.shared().parts.store.shared().is_none();
        if tenant.quotas().sessions.is_some() && is_counted_here {
            tenant.admit_session(sessions.count(&Scope::Tenant(key.tenant.clone())))?;
        }
        debug!(session_id = %id, "session_pool_creating_new_session");
        Ok(())
    }

    /// Gives a session a task. `record` is what the store knows of it, read under this claim, which
    /// is not given back while what is returned beside it is there.
    pub(super) fn make(
        &self,
        sessions: &mut Sessions,
        key: &SessionKey,
        (record, claimed): (Option<Record>, Option<Claimed>),
        ephemeral: bool,
    ) -> (SessionHandle, Option<Wanted>) {
        let was_stored = record.as_ref().is_some_and(|record| record.in_pool);
        let context = self.session_context(self.tenant(&key.tenant));
        let feed = sessions.feeds.of(key, || context.logs.accounts(&key.tenant).memory);
        let (task, handle) = SessionTask::new(key.session.clone(), ephemeral, feed, context);
        let wanted = handle.want();
        let generation = self.shared().generations.fetch_add(1, Ordering::Relaxed);
        sessions.live(key, handle.clone(), generation, was_stored);
        self.spawn(key.clone(), generation, task.knowing(record).claimed(claimed));
        (handle, wanted)
    }

    fn session_context(&self, tenant: Arc<Tenant>) -> SessionContext {
        let Parts { session, supply, store, tenants: _, logs, tools, traces } =
            &self.shared().parts;
        SessionContext {
            settings: Arc::clone(session),
            supply: Arc::clone(supply),
            store: Arc::clone(store),
            hibernatable: self.hibernatable(),
            tenant,
            turns: self.shared().turns.clone(),
            logs: logs.clone(),
            tools: tools.clone(),
            traces: traces.clone(),
        }
    }

    fn spawn(&self, key: SessionKey, generation: u64, task: SessionTask) {
        let (pool, task) = (self.clone(), Box::new(task));
        // No parent: the call that made the session is not what it lives for.
        let span = error_span!(
            parent: None,
            "session",
            tenant = %key.tenant,
            session_id = %key.session
        );
        self.shared().tasks.spawn(span, async move {
            // Unless it says otherwise, the store may have it in the pool.
            let remains = Remains::Unnoted;
            let mut place = PlaceInPool { pool, key, generation, remains };
            let replies = task.run().await;
            place.remains = replies.remains;
            drop(place);
            replies.send();
        });
    }
}

/// Given up when a session's task ends, however it does: a place without a task would be
/// waited for without end.
struct PlaceInPool {
    pool: SessionPool,
    key: SessionKey,
    generation: u64,
    remains: Remains,
}

impl Drop for PlaceInPool {
    fn drop(&mut self) {
        self.pool.lock().end(&self.key, self.generation, self.remains);
    }
}
