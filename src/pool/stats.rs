//! The pool's figures, taken from the sessions' snapshots.

use std::{sync::Arc, time::Duration};

use super::{Scope, SessionPool};
use crate::{
    counters::Counters, session::status::SessionState, store::StoreStatus, tenant::Tenant,
    turn::storage::Usage,
};

/// The pool's figures.
#[derive(Debug)]
pub struct PoolStats {
    /// Whether there is a pool at all.
    pub enabled: bool,
    /// Sessions.
    pub total_sessions: usize,
    /// Those connected to a live process.
    pub active_sessions: usize,
    /// Those without one, which the next turn resumes.
    pub hibernated_sessions: usize,
    /// Sessions at most.
    pub max_sessions: usize,
    /// Age at which a session is replaced.
    pub session_ttl: Duration,
    /// Time between cleanups.
    pub cleanup_interval: Duration,
    /// Turns that run.
    pub streaming_turns: usize,
    /// Turns that wait.
    pub queued_turns: usize,
    /// What CLIs ask and wait for, as far as it is shown.
    pub open_prompts: usize,
    /// Whether new turns are refused because the service stops.
    pub draining: bool,
    /// Since the pool was made.
    pub uptime: Duration,
    /// Ids of the sessions' processes.
    pub process_ids: Vec<u32>,
    /// What is counted.
    pub counters: Counters,
    /// What this life of the service has counted of it.
    pub counted_here: Counters,
    /// Of the sessions those that have a task here.
    pub live_sessions: usize,
    /// Of these those that the store has in the pool.
    pub stored_sessions: usize,
    /// What is used of the budgets of memory and disk.
    pub usage: Usage,
    /// How the store is.
    pub store: StoreStatus,
}

impl SessionPool {
    /// The figures of a tenant, or of all.
    pub fn stats(&self, scope: &Scope) -> PoolStats {
        let settings = &self.shared().settings;
        let mut stats = PoolStats {
            enabled: settings.enabled,
            total_sessions: 0,
            active_sessions: 0,
            hibernated_sessions: 0,
            max_sessions: self.max_sessions(scope),
            session_ttl: settings.session_ttl,
            cleanup_interval: settings.cleanup_interval,
            streaming_turns: 0,
            queued_turns: 0,
            open_prompts: 0,
            draining: self.is_draining(),
            uptime: self.shared().started_at.elapsed(),
            process_ids: Vec::new(),
            counters: self.counters(scope),
            counted_here: self.counted_here(scope),
            live_sessions: 0,
            stored_sessions: 0,
            usage: self.usage(scope),
            store: self.store_status().borrow().clone(),
        };
        stats.total_sessions = self.lock().stored(scope);
        stats.hibernated_sessions = stats.total_sessions;
        for (_, handle) in self.handles(scope) {
            let status = handle.status();
            stats.total_sessions += 1;
            stats.live_sessions += 1;
            stats.stored_sessions += usize::from(status.is_stored);
            match status.condition {
                SessionState::Active | SessionState::Interrupting => stats.active_sessions += 1,
                SessionState::Disconnected | SessionState::Hibernated => {
                    stats.hibernated_sessions += 1
                }
                SessionState::Idle
                | SessionState::Connecting
                | SessionState::Error
                | SessionState::Expired => {}
            }
            stats.streaming_turns += usize::from(status.running.is_some());
            stats.queued_turns += status.queued;
            stats.open_prompts += status.open_prompts.len();
            stats.process_ids.extend(status.process_id);
        }
        stats
    }

    fn max_sessions(&self, scope: &Scope) -> usize {
        let all = self.shared().settings.max_sessions;
        match scope {
            Scope::All => all,
            Scope::Tenant(id) => self.tenant(id).quotas().sessions.unwrap_or(all).min(all),
        }
    }

    fn counters(&self, scope: &Scope) -> Counters {
        let sum = Counters::default();
        self.tenants_of(scope).iter().for_each(|one| sum.add(&one.counters));
        sum
    }

    pub(super) fn tenants_of(&self, scope: &Scope) -> Vec<Arc<Tenant>> {
        match scope {
            Scope::Tenant(id) => vec![self.tenant(id)],
            Scope::All => self.shared().parts.tenants.all(),
        }
    }
}
