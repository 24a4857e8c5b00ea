//! What is asked of sessions that are there: found, asked, answered. A session that ends
//! meanwhile is one that is not there.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{task::JoinSet, time::timeout};
use tracing::{debug, error, warn};

use super::{Scope, SessionPool};
use crate::{
    domain::{
        decision::Decision,
        failure::{Cause, Failure},
        ids::{SessionId, SessionKey, TenantId, TurnId},
        options::Options,
    },
    session::{
        CloseReason, CloseReport, InterruptReport, InterruptTarget, Refusal, SessionHandle,
        UpdateReport, forgotten_too_late, longest_forgetting, status::Status, store_failed,
    },
    store::{Record, StoreError},
    telemetry::log_limit::NOT_FOUND,
    turn::{event::Partials, listener::Listener},
};

impl SessionPool {
    /// Stops a turn of a session, or whatever works in it; `None` when there is no such session.
    pub async fn interrupt(
        &self,
        key: &SessionKey,
        target: InterruptTarget,
        keep_session: bool,
    ) -> Result<Option<InterruptReport>, Failure> {
        let asked = self.ask(key, |handle| {
            let target = target.clone();
            async move { handle.stop(target, keep_session).await }
        });
        let report = if_there(key, asked.await)?;
        report.iter().for_each(|report| self.count_interrupt(key, report));
        Ok(report)
    }

    fn count_interrupt(&self, key: &SessionKey, report: &InterruptReport) {
        self.tenant(&key.tenant).measures.interrupt(report.outcome.name());
    }

    /// Stops a task that works behind a session's turns.
    pub async fn stop_task(&self, key: &SessionKey, task_id: String) -> Result<(), Failure> {
        self.ask(key, |handle| {
            let task_id = task_id.clone();
            async move { handle.stop_task(task_id).await }
        })
        .await
    }

    /// Asks a session, which is woken if need be. One that falls asleep just then is asked
    /// again.
    async fn ask<T, F>(
        &self,
        key: &SessionKey,
        question: impl Fn(SessionHandle) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        loop {
            let handle = self.load(key).await?.ok_or_else(|| not_found(key))?;
            match question(handle.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Failed(failure)) => {
                    return Err(failure.concerning(Some(&key.session), None));
                }
                Err(Refusal::Closed) => handle.ended().await,
            }
        }
    }

    /// Stops every session's turn, all at once.
    pub async fn interrupt_all(&self, scope: &Scope) -> Vec<(SessionKey, InterruptReport)> {
        let handles = self.handles(scope);
        let total = handles.len();
        debug!(total_sessions = total, "session_interrupt_all_requested");
        let mut interrupts = JoinSet::new();
        for (key, handle) in handles {
            interrupts.spawn(async move {
                // A session that ends meanwhile has no turn to stop.
                let report = handle.stop(InterruptTarget::Running, true).await;
                report.ok().map(|report| (key, report))
            });
        }
        let mut reports: Vec<_> = interrupts.join_all().await.into_iter().flatten().collect();
        reports.sort_by(|(a, _), (b, _)| a.cmp(b));
        reports.iter().for_each(|(key, report)| self.count_interrupt(key, report));
        for (key, report) in reports.iter().filter(|(_, report)| !report.interrupted()) {
            error!(session_id = %key.session, error = ?report.outcome, "session_interrupt_failed_during_all");
        }
        let interrupted_count = reports.iter().filter(|(_, report)| report.interrupted()).count();
        debug!(interrupted_count, total_requested = total, "session_interrupt_all_completed");
        reports
    }

    /// A session's snapshot.
    pub async fn get(&self, key: &SessionKey) -> Result<Status, Failure> {
        if let Some(handle) = self.find(key) {
            return Ok(self.seen(&handle));
        }
        let record = self.shared().parts.store.load(key).await;
        // It may have got a task meanwhile, which knows better.
        if let Some(handle) = self.find(key) {
            return Ok(self.seen(&handle));
        }
        let record = record.map_err(|error| unknown(key, error))?;
        let is_there = |record: &Record| record.in_pool && !self.lock().has_left(key);
        let record = record.filter(is_there).ok_or_else(|| not_found(key))?;
        Ok(Status::unloaded(key.session.clone(), record))
    }

    /// Up to `limit` sessions of a tenant with ids after `after`, and whether there are
    /// more.
    pub async fn list(
        &self,
        tenant: &TenantId,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<Status>, bool), Failure> {
        // One more says whether there are more.
        let wanted = limit.saturating_add(1);
        // Those at hand first: what they become meanwhile, the store knows.
        let (mut page, left) = self.at_hand(tenant, after.clone(), wanted);
        for (id, record) in self.stored(tenant, after, wanted, &left).await? {
            page.entry(id.clone()).or_insert_with(|| Status::unloaded(id, record));
        }
        let more = page.len() > limit;
        Ok((page.into_values().take(limit).collect(), more))
    }

    /// The first of a tenant's sessions that have a task, and those that have left although the
    /// store says otherwise.
    pub(super) fn at_hand(
        &self,
        tenant: &TenantId,
        after: Option<SessionId>,
        limit: usize,
    ) -> (BTreeMap<SessionId, Status>, BTreeSet<SessionId>) {
        let sessions = self.lock();
        let (mut live, mut left) = (BTreeMap::new(), BTreeSet::new());
        for (key, entry) in sessions.of_tenant(tenant, after) {
            match entry.handle() {
                Some(handle) if live.len() < limit => {
                    live.insert(key.session.clone(), self.seen(handle));
                }
                Some(_) => break,
                None if sessions.has_left(key) => {
                    left.insert(key.session.clone());
                }
                None => {}
            }
        }
        (live, left)
    }

    /// The first of a tenant's sessions that the store has in the pool, but for these.
    async fn stored(
        &self,
        tenant: &TenantId,
        mut after: Option<SessionId>,
        limit: usize,
        left: &BTreeSet<SessionId>,
    ) -> Result<Vec<(SessionId, Record)>, Failure> {
        let mut stored = Vec::new();
        loop {
            let page = self.shared().parts.store.list(tenant, after.as_ref(), limit).await;
            let page = page.map_err(store_failed)?;
            let is_last = page.len() < limit;
            after = page.last().map(|(id, _)| id.clone());
            stored.extend(page.into_iter().filter(|(id, _)| !left.contains(id)));
            if is_last || stored.len() >= limit {
                return Ok(stored);
            }
        }
    }

    /// Ends a session; answered when its process is gone.
    pub async fn close(&self, key: &SessionKey, forget: bool) -> Result<CloseReport, Failure> {
        let reason = CloseReason::Requested { forget };
        let report = match forget {
            true => self.forget(key).await?,
            false => self.ask(key, |handle| async move { handle.close(reason).await }).await?,
        };
        match report.not_forgotten {
            Some(cause) => Err(Failure::from(cause).concerning(Some(&key.session), None)),
            None => Ok(report),
        }
    }

    /// Ends a session and forgets its conversation. One that is ending already without that
    /// waits for the store, too: both are waited for together as long as for one.
    async fn forget(&self, key: &SessionKey) -> Result<CloseReport, Failure> {
        let reason = CloseReason::Requested { forget: true };
        let ending = match self.load(key).await? {
            Some(handle) => match handle.close(reason).await {
                Ok(report) => return Ok(report),
                Err(_) => Some(handle),
            },
            None => None,
        };
        let settings = &self.shared().parts.session;
        let forgotten = async {
            if let Some(handle) = ending {
                handle.ended().await;
            }
            self.forget_absent(key).await
        };
        timeout(longest_forgetting(settings), forgotten).await.unwrap_or_else(|_| {
            let failure = Failure::from(forgotten_too_late(settings));
            Err(failure.concerning(Some(&key.session), None))
        })
    }

    /// Forgets a conversation whose session has left the pool, by way of a session that is made
    /// for it if need be: nobody begins another under the same id meanwhile.
    async fn forget_absent(&self, key: &SessionKey) -> Result<CloseReport, Failure> {
        let mut known = self.load_for_end(key).await?.ok_or_else(|| not_found(key))?;
        loop {
            match known.close(CloseReason::Requested { forget: true }).await {
                Ok(report) => return Ok(report),
                Err(_) => known.ended().await,
            }
            known = match self.load_for_end(key).await? {
                Some(handle) => handle,
                // Somebody else has forgotten it.
                None => {
                    let (closed, had_active_turn) = (true, false);
                    return Ok(CloseReport { closed, had_active_turn, not_forgotten: None });
                }
            };
        }
    }

    /// Joins a turn.
    pub async fn attach(
        &self,
        key: &SessionKey,
        turn: Option<TurnId>,
        from: u64,
        partials: Partials,
    ) -> Result<Listener, Failure> {
        self.ask(key, |handle| {
            let turn = turn.clone();
            async move { handle.attach(turn, from, partials).await }
        })
        .await
    }

    /// Answers a prompt of the CLI.
    pub async fn respond(
        &self,
        key: &SessionKey,
        prompt_id: String,
        decision: Decision,
    ) -> Result<(), Failure> {
        self.ask(key, |handle| {
            let (prompt_id, decision) = (prompt_id.clone(), decision.clone());
            async move { handle.respond(prompt_id, decision).await }
        })
        .await
    }

    /// Changes options of a living session.
    pub async fn update(
        &self,
        key: &SessionKey,
        options: Options,
    ) -> Result<(Status, UpdateReport), Failure> {
        self.ask(key, |handle| {
            let options = options.clone();
            async move {
                let report = handle.update(options).await?;
                Ok((self.seen(&handle), report))
            }
        })
        .await
    }
}

/// What became of an interrupt; a session that is not there is none of its failures.
fn if_there(
    key: &SessionKey,
    asked: Result<InterruptReport, Failure>,
) -> Result<Option<InterruptReport>, Failure> {
    match asked {
        Ok(report) => Ok(Some(report)),
        Err(Failure { cause: Cause::SessionNotFound, .. }) => {
            if NOT_FOUND.admits() {
                warn!(tenant = %key.tenant, session_id = %key.session, "session_not_found");
            }
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Whether there is such a session is not known.
fn unknown(key: &SessionKey, error: StoreError) -> Failure {
    Failure::from(store_failed(error)).concerning(Some(&key.session), None)
}

fn not_found(key: &SessionKey) -> Failure {
    Failure::from(Cause::SessionNotFound).concerning(Some(&key.session), None)
}
