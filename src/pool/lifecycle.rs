//! The pool as a whole: it takes over what is in the store, looks after its sessions, lets
//! its turns end, and stops.

use std::{future::Future, sync::atomic::Ordering, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tracing::{Span, debug, error, error_span};

use super::{Scope, SessionPool};
use crate::{session::CloseReason, store::StoreError};

/// How long the stop of all sessions may take: the steps of a session's stop have
/// bounds of their own, whose sum this is well over.
const STOP_LIMIT: Duration = Duration::from_secs(15);

impl SessionPool {
    /// Takes over what an earlier life of the service left in the store: what was counted,
    /// and how many sessions were in the pool. The sessions stay in the store until they are
    /// asked for.
    pub async fn resume(&self) -> Result<(), StoreError> {
        for (tenant, totals) in self.shared().parts.store.totals().await? {
            self.tenant(&tenant).resume(&totals);
        }
        let stored = self.shared().parts.store.in_pool().await?;
        self.lock().begin_with(stored);
        Ok(())
    }

    /// Starts the cleanup and the relief of those who wait for a process; does nothing when
    /// the pool is disabled.
    pub fn start(&self) {
        let settings = &self.shared().settings;
        if !settings.enabled {
            return;
        }
        debug!(
            max_sessions = settings.max_sessions,
            ttl = settings.session_ttl.as_secs_f64(),
            cleanup_interval = settings.cleanup_interval.as_secs_f64(),
            "session_pool_starting"
        );
        let pool = self.clone();
        self.keep_doing(error_span!("cleanup"), async move { pool.clean_up_for_ever().await });
        let pool = self.clone();
        self.keep_doing(error_span!("retention"), async move { pool.forget_for_ever().await });
        if self.shared().parts.store.is_shared() {
            let pool = self.clone();
            self.keep_doing(
                error_span!("moves"),
                async move { pool.follow_moves_for_ever().await },
            );
        }
        let pool = self.clone();
        self.keep_doing(error_span!("relief"), async move { pool.relieve_for_ever().await });
        let pool = self.clone();
        self.keep_doing(error_span!("nodes"), async move { pool.look_around_for_ever().await });
    }

    /// Does something until the service's tasks are to end.
    fn keep_doing(&self, span: Span, work: impl Future<Output = ()> + Send + 'static) {
        let tasks = &self.shared().tasks;
        let stopping = tasks.stopping().clone();
        tasks.spawn(span, async move {
            tokio::select! {
                () = work => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Refuses new turns from now on, and waits until those under way have ended, at
    /// most `limit`. Returns whether they all have. Where other services have the store, too,
    /// each session is handed over to them as soon as no turn runs in it.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared().draining.store(true, Ordering::Relaxed);
        self.shared().turns.close();
        let over = async { tokio::join!(self.shared().turns.wait(), self.hand_over()) };
        timeout(limit, over).await.is_ok()
    }

    /// Hands over what rests, and tells what does not to do so when it does. Whoever makes a
    /// session has looked under the lock whether the service stops: none is missed.
    async fn hand_over(&self) {
        if !self.leaves_to_others() {
            return;
        }
        let handles = self.handles(&Scope::All);
        self.lock().hand_over_feeds(|_| true);
        let mut closes = JoinSet::new();
        for (_, handle) in handles {
            closes.spawn(async move { handle.close(CloseReason::HandOver).await.is_ok() });
        }
        closes.join_all().await;
    }

    /// Ends every session, all at once. Safe to call twice.
    pub async fn stop(&self) {
        self.shared().draining.store(true, Ordering::Relaxed);
        if self.shared().stopped.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut closes = JoinSet::new();
        for (_, handle) in self.handles(&Scope::All) {
            closes.spawn(async move { handle.close(CloseReason::Shutdown).await.is_ok() });
        }
        if timeout(STOP_LIMIT, closes.join_all()).await.is_err() {
            error!(left = self.handles(&Scope::All).len(), "session_pool_stop_timeout");
        }
        // Who follows a session has seen its turns end by now.
        self.lock().feeds.shut();
        let settings = &self.shared().settings;
        debug!(
            max_sessions = settings.max_sessions,
            ttl = settings.session_ttl.as_secs_f64(),
            cleanup_interval = settings.cleanup_interval.as_secs_f64(),
            "session_pool_stopped"
        );
    }
}
