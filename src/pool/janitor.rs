//! The cleanup: every so often, sessions that nobody will miss are closed. It looks at
//! pictures of sessions, and a session that has become busy since refuses to go.

use tokio::{task::JoinSet, time::interval};
use tracing::debug;

use super::{Scope, SessionPool};
use crate::session::{
    CloseReason,
    status::{Condition, Status},
};

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

    async fn clean_up(&self) {
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

    /// Why a session is to go, if it is.
    fn due(&self, status: &Status) -> Option<CloseReason> {
        let settings = &self.shared().settings;
        if status.is_busy() {
            return None;
        }
        match status.condition_at(settings.session_ttl) {
            Condition::Expired => Some(CloseReason::Expired),
            Condition::Error | Condition::Disconnected => Some(CloseReason::Broken),
            _ if status.idle_time() > settings.idle_threshold => Some(CloseReason::Idle),
            _ => None,
        }
    }
}
