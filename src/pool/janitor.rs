//! The cleanup: every so often, sessions that nobody will miss are closed. It looks at
//! snapshots of sessions, and a session that has become busy since refuses to go.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::interval};
use tracing::{debug, info, warn};

use super::{Scope, SessionPool, lookup::Lookup};
use crate::{
    session::{
        CloseReason,
        status::{SessionState, Status},
    },
    store::{Record, StoreError},
    telemetry::log_limit::NOT_KEPT,
};

/// Conversations that are forgotten in one round; the rest waits for the next.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// Sessions whose leave is noted together.
const NOTED_AT_ONCE: usize = 256;

impl SessionPool {
    /// Cleans up every `pool.cleanup_interval`, from one interval after now on.
    pub(super) async fn clean_up_for_ever(&self) {
        let mut rounds = interval(self.shared().settings.cleanup_interval);
        rounds.tick().await;
        loop {
            rounds.tick().await;
            self.clean_up().await;
        }
    }

    /// Forgets old conversations at the same intervals, which may take its time.
    pub(super) async fn forget_for_ever(&self) {
        let mut rounds = interval(self.shared().settings.cleanup_interval);
        rounds.tick().await;
        loop {
            rounds.tick().await;
            self.forget_old().await;
        }
    }

    pub(super) async fn clean_up(&self) {
        self.clean_up_left().await;
        self.clean_up_stored().await;
        let mut closes = JoinSet::new();
        for (key, handle) in self.handles(&Scope::All) {
            let status = handle.status().clone();
            let Some(reason) = self.due(&status) else { continue };
            debug!(session_id = %status.session_id, ?reason, "session_cleanup");
            closes.spawn(async move {
                // One that ends by itself meanwhile is gone all the same.
                let closed = handle.close(reason).await.is_ok_and(|report| report.closed);
                closed.then_some((key.tenant, reason))
            });
        }
        for (tenant, reason) in closes.join_all().await.into_iter().flatten() {
            let counters = &self.tenant(&tenant).counters;
            match reason {
                CloseReason::Expired => counters.expired.add_one(),
                CloseReason::Idle => counters.idle_removed.add_one(),
                CloseReason::Requested { .. }
                | CloseReason::Interrupted
                | CloseReason::Ephemeral
                | CloseReason::ConnectFailed
                | CloseReason::Broken
                | CloseReason::Unused
                | CloseReason::Stuck
                | CloseReason::Moved
                | CloseReason::Shutdown
                | CloseReason::HandOver
                | CloseReason::Unloaded => {}
            }
        }
    }

    /// Sessions that have left the pool while the store failed: it is told again.
    async fn clean_up_left(&self) {
        let left = self.lock().left();
        for some in left.chunks(NOTED_AT_ONCE) {
            let lookups = some.iter().filter_map(|key| self.look_up_absent(key)).collect();
            if self.note_leave(lookups, Duration::ZERO).await.is_err() {
                return;
            }
        }
    }

    /// Sessions without a task leave the pool too when nobody used them for long. The store
    /// says which, some at a time.
    async fn clean_up_stored(&self) {
        let idle_threshold = self.shared().settings.idle_threshold;
        let mut after = None;
        loop {
            let store = &self.shared().parts.store;
            let idle = match store.idle(idle_threshold, after.as_ref(), NOTED_AT_ONCE).await {
                Ok(idle) => idle,
                Err(error) => return warn!(%error, "store_not_cleaned_up"),
            };
            let is_last = idle.len() < NOTED_AT_ONCE;
            let lookups = idle.iter().filter_map(|idle| self.look_up_absent(&idle.key)).collect();
            let noted = self.note_leave(lookups, idle_threshold).await;
            if is_last || noted.is_err() {
                return;
            }
            after = idle.into_iter().last();
        }
    }

    /// Notes that sessions without a task have left the pool, unless they were used meanwhile.
    async fn note_leave(
        &self,
        lookups: Vec<Lookup>,
        unused_for: Duration,
    ) -> Result<(), StoreError> {
        let mut notes = JoinSet::new();
        for lookup in lookups {
            let store = Arc::clone(&self.shared().parts.store);
            notes.spawn(async move {
                let left = store.leave_pool(lookup.key(), unused_for).await;
                (left, lookup)
            });
        }
        let mut outcome = Ok(());
        for (left, lookup) in notes.join_all().await {
            match left {
                // The task that it had was counted when it ended.
                Ok(_) if lookup.has_left() => lookup.left(),
                Ok(true) => {
                    debug!(session_id = %lookup.key().session, reason = "Idle", "session_cleanup");
                    self.tenant(&lookup.key().tenant).counters.idle_removed.add_one();
                    lookup.left();
                }
                Ok(false) => {}
                Err(error) => {
                    if NOT_KEPT.admits() {
                        warn!(session_id = %lookup.key().session, %error, "session_not_kept");
                    }
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Conversations that nobody used for `store.retention` are forgotten.
    async fn forget_old(&self) {
        let retention = self.shared().settings.retention;
        let old = self.shared().parts.store.unused_for(retention, FORGOTTEN_AT_ONCE).await;
        let old = old.unwrap_or_else(|error| {
            warn!(%error, "store_not_cleaned_up");
            Vec::new()
        });
        let mut forgotten = 0_usize;
        for key in old {
            let Some(lookup) = self.look_up_absent(&key) else { continue };
            // It may have been used, and have left the pool, since the list was read. From
            // here on nobody uses it without being seen.
            let record = lookup.ask().await.ok().flatten();
            // One that is in the pool has its own time.
            let is_old = |it: &Record| !it.in_pool && it.unused_for > retention;
            let Some(record) = record.filter(is_old) else { continue };
            let handle = lookup.make(Some(record));
            let closed = handle.close(CloseReason::Unused).await;
            if closed.is_ok_and(|report| report.closed) {
                forgotten += 1;
                info!(
                    tenant = %key.tenant,
                    session_id = %key.session,
                    "conversation_forgotten"
                );
            }
        }
        if forgotten > 0 {
            info!(forgotten, ?retention, "conversations_forgotten");
        }
    }

    /// Why a session is to go, if it is.
    fn due(&self, status: &Status) -> Option<CloseReason> {
        let settings = &self.shared().settings;
        if status.is_at_work() {
            return None;
        }
        match status.condition_at(settings.session_ttl) {
            SessionState::Expired => Some(CloseReason::Expired),
            SessionState::Error | SessionState::Disconnected => Some(CloseReason::Broken),
            SessionState::Idle
            | SessionState::Connecting
            | SessionState::Active
            | SessionState::Interrupting
            | SessionState::Hibernated => {
                (status.idle_time() > settings.idle_threshold).then_some(CloseReason::Idle)
            }
        }
    }
}
