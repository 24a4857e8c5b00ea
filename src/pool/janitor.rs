//! The cleanup: every so often, sessions that nobody will miss are closed. It looks at
//! snapshots of sessions, and a session that has become busy since refuses to go.

use std::sync::Arc;

use tokio::{task::JoinSet, time::interval};
use tracing::{debug, info, warn};

use super::{Scope, SessionPool, registry::Entry};
use crate::{
    domain::ids::SessionKey,
    session::{
        CloseReason,
        status::{SessionState, Status},
    },
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

    async fn clean_up(&self) {
        self.clean_up_dormant().await;
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
                _ => {}
            }
        }
    }

    /// Sessions without a task leave the pool too when nobody used them for long.
    async fn clean_up_dormant(&self) {
        let idle_threshold = self.shared().settings.idle_threshold;
        let is_old = |entry: &Entry| match entry {
            Entry::Unloaded { last_used } => last_used.elapsed() > idle_threshold,
            Entry::Live { .. } => false,
        };
        let mut old: Vec<SessionKey> = Vec::new();
        old.extend(self.lock().iter().filter(|(_, it)| is_old(it)).map(|(key, _)| key.clone()));
        for some in old.chunks(NOTED_AT_ONCE) {
            let mut notes = JoinSet::new();
            for key in some.iter().cloned() {
                let store = Arc::clone(&self.shared().parts.store);
                notes.spawn(async move { (store.leave_pool(&key).await, key) });
            }
            for (noted, key) in notes.join_all().await {
                if let Err(error) = noted
                    && NOT_KEPT.admits()
                {
                    warn!(session_id = %key.session, %error, "session_not_kept");
                }
                // One that was woken meanwhile says so itself with its next turn.
                let mut sessions = self.lock();
                if sessions.get(&key).is_some_and(is_old) {
                    sessions.remove(&key);
                    debug!(session_id = %key.session, reason = "Idle", "session_cleanup");
                    self.tenant(&key.tenant).counters.idle_removed.add_one();
                }
            }
        }
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
            // One that is in the pool has its own time.
            let Some(handle) = self.load_unless_present(&key) else { continue };
            // It may have been used, and have left the pool, since the list was read. From
            // here on nobody uses it without being seen.
            let record = self.shared().parts.store.load(&key).await.ok().flatten();
            let is_old = record.is_some_and(|record| record.unused_for > retention);
            let reason = if is_old { CloseReason::Unused } else { CloseReason::Idle };
            let closed = handle.close(reason).await.is_ok_and(|report| report.closed);
            if closed && is_old {
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
        if status.is_busy() {
            return None;
        }
        match status.condition_at(settings.session_ttl) {
            SessionState::Expired => Some(CloseReason::Expired),
            SessionState::Error | SessionState::Disconnected => Some(CloseReason::Broken),
            _ if status.idle_time() > settings.idle_threshold => Some(CloseReason::Idle),
            _ => None,
        }
    }
}
