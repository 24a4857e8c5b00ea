//! The pool's figures, taken from the sessions' pictures.

use std::{sync::Arc, time::Duration};

use super::SessionPool;
use crate::{counters::Counters, session::status::Condition};

/// The pool's figures.
#[derive(Debug, Clone)]
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
    /// Whether new turns are refused because the service stops.
    pub draining: bool,
    /// Since the pool was made.
    pub uptime: Duration,
    /// Ids of the sessions' processes.
    pub process_ids: Vec<u32>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl SessionPool {
    /// The pool's figures.
    pub fn stats(&self) -> PoolStats {
        let settings = &self.shared().settings;
        let mut stats = PoolStats {
            enabled: settings.enabled,
            total_sessions: 0,
            active_sessions: 0,
            hibernated_sessions: 0,
            max_sessions: settings.max_sessions,
            session_ttl: settings.session_ttl,
            cleanup_interval: settings.cleanup_interval,
            streaming_turns: 0,
            queued_turns: 0,
            draining: self.is_draining(),
            uptime: self.shared().started_at.elapsed(),
            process_ids: Vec::new(),
            counters: Arc::clone(&self.shared().around.counters),
        };
        for handle in self.handles() {
            let status = handle.status();
            stats.total_sessions += 1;
            match status.condition {
                Condition::Active | Condition::Interrupting => stats.active_sessions += 1,
                Condition::Disconnected => stats.hibernated_sessions += 1,
                _ => {}
            }
            stats.streaming_turns += usize::from(status.running.is_some());
            stats.queued_turns += status.queued;
            stats.process_ids.extend(status.process_id);
        }
        stats
    }
}
