//! The map of sessions: made on demand, found, listed, closed.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{debug, error, info_span, warn};

use crate::{
    cli::options::Options,
    failure::{Cause, Failure},
    ids::{SessionId, TurnId},
    session::{
        CloseReason, CloseReport, Decision, InterruptReport, Refusal, SessionHandle, SessionTask,
        Surroundings, TurnRequest, UpdateReport,
        status::{Condition, Status},
    },
    tasks::Tasks,
    turn::log::Listener,
};

/// How long the stop of all sessions may take: the steps of a session's stop have
/// bounds of their own, whose sum this is well over.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What the configuration says about the pool.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Whether there is a pool at all.
    pub enabled: bool,
    /// Sessions at most.
    pub max_sessions: usize,
    /// Age at which a session is replaced.
    pub session_ttl: Duration,
    /// Idle time after which the cleanup removes a session.
    pub idle_threshold: Duration,
    /// Time between cleanups.
    pub cleanup_interval: Duration,
}

/// The sessions of the service. Cloning gives another handle to the same pool.
#[derive(Debug, Clone)]
pub struct SessionPool(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: PoolSettings,
    pub(super) around: Surroundings,
    tasks: Tasks,
    sessions: Mutex<BTreeMap<SessionId, Entry>>,
    generations: AtomicU64,
    draining: AtomicBool,
    stopped: AtomicBool,
    pub(super) started_at: Instant,
}

#[derive(Debug)]
struct Entry {
    handle: SessionHandle,
    /// Tells a session from a later one under the same id.
    generation: u64,
}

impl SessionPool {
    /// A pool without sessions; its tasks are among `tasks`.
    pub fn new(settings: PoolSettings, around: Surroundings, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            settings,
            around,
            tasks,
            sessions: Mutex::default(),
            generations: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            started_at: Instant::now(),
        }))
    }

    /// Starts the cleanup; does nothing when the pool is disabled.
    pub fn start(&self) {
        let settings = &self.0.settings;
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
        let stopping = self.0.tasks.stopping().clone();
        self.0.tasks.spawn(info_span!("cleanup"), async move {
            tokio::select! {
                () = pool.clean_up_for_ever() => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Runs a turn on a session, which is made if there is none; `None` is a session of
    /// the turn's own.
    pub async fn query(
        &self,
        id: Option<SessionId>,
        request: TurnRequest,
    ) -> Result<Listener, Failure> {
        let ephemeral = id.is_none();
        let id = id.unwrap_or_else(SessionId::anonymous);
        let known = self.find(&id).map(|handle| handle.status().condition);
        debug!(
            session_id = %id,
            pool_enabled = self.0.settings.enabled,
            current_sessions = self.len(),
            max_sessions = self.0.settings.max_sessions,
            session_exists = known.is_some(),
            "session_pool_get_client_start"
        );
        if let Some(session_status) = known {
            debug!(session_id = %id, ?session_status, "session_pool_existing_session_found");
        }
        loop {
            let handle = self.find_or_make(&id, ephemeral)?;
            match handle.run(request.clone()).await {
                Ok(listener) => {
                    note_complete(&handle);
                    return Ok(listener);
                }
                Err(Refusal::Failed(failure)) => return Err(failure),
                Err(Refusal::Closed) => handle.ended().await,
            }
        }
    }

    /// Stops a session's turn; `None` when there is no such session.
    pub async fn interrupt(&self, id: &SessionId, keep_session: bool) -> Option<InterruptReport> {
        let Some(handle) = self.find(id) else {
            warn!(session_id = %id, "session_not_found");
            return None;
        };
        let report = handle.interrupt(keep_session).await.ok();
        if report.is_none() {
            warn!(session_id = %id, "session_not_found");
        }
        report
    }

    /// Stops every session's turn, all at once.
    pub async fn interrupt_all(&self) -> Vec<(SessionId, InterruptReport)> {
        let handles = self.handles();
        let total = handles.len();
        debug!(total_sessions = total, "session_interrupt_all_requested");
        let mut interrupts = JoinSet::new();
        for handle in handles {
            interrupts.spawn(async move {
                let id = handle.status().session_id.clone();
                // A session that ends meanwhile has no turn to stop.
                handle.interrupt(true).await.ok().map(|report| (id, report))
            });
        }
        let mut reports: Vec<_> = interrupts.join_all().await.into_iter().flatten().collect();
        reports.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (id, report) in reports.iter().filter(|(_, report)| !report.interrupted()) {
            error!(session_id = %id, error = ?report.outcome, "session_interrupt_failed_during_all");
        }
        let interrupted_count = reports.iter().filter(|(_, report)| report.interrupted()).count();
        debug!(interrupted_count, total_requested = total, "session_interrupt_all_completed");
        reports
    }

    /// A session's picture.
    pub fn get(&self, id: &SessionId) -> Result<Status, Failure> {
        let handle = self.find(id).ok_or_else(|| not_found(id))?;
        Ok(self.seen(&handle))
    }

    /// Up to `limit` sessions with ids after `after`, and whether there are more.
    pub fn list(&self, after: Option<&SessionId>, limit: usize) -> (Vec<Status>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = self.lock();
        let mut rest = sessions.range::<SessionId, _>((from, Bound::Unbounded));
        let page = rest.by_ref().take(limit).map(|(_, entry)| self.seen(&entry.handle)).collect();
        (page, rest.next().is_some())
    }

    /// Ends a session; answered when its process is gone.
    pub async fn close(&self, id: &SessionId, forget: bool) -> Result<CloseReport, Failure> {
        let reason = CloseReason::Requested { forget };
        let closed = match self.find(id) {
            Some(handle) => handle.close(reason).await.ok(),
            None => None,
        };
        // A conversation whose session has left the pool can be forgotten too.
        let remembered = forget && self.forget(id).await;
        match closed {
            Some(report) => Ok(report),
            None if remembered => Ok(CloseReport { closed: true, had_active_turn: false }),
            None => Err(not_found(id)),
        }
    }

    async fn forget(&self, id: &SessionId) -> bool {
        let Some(record) = self.0.around.ledger.remove(id) else { return false };
        self.0.around.supply.forget(id, record.cli_session_id).await;
        true
    }

    /// Joins a turn.
    pub async fn attach(
        &self,
        id: &SessionId,
        turn: Option<TurnId>,
        from: u64,
    ) -> Result<Listener, Failure> {
        let handle = self.find(id).ok_or_else(|| not_found(id))?;
        handle.attach(turn, from).await.map_err(|refusal| gone(id, refusal))
    }

    /// Answers a prompt of the CLI.
    pub async fn respond(
        &self,
        id: &SessionId,
        prompt_id: String,
        decision: Decision,
    ) -> Result<(), Failure> {
        let handle = self.find(id).ok_or_else(|| not_found(id))?;
        handle.respond(prompt_id, decision).await.map_err(|refusal| gone(id, refusal))
    }

    /// Changes options of a living session.
    pub async fn update(
        &self,
        id: &SessionId,
        options: Options,
    ) -> Result<(Status, UpdateReport), Failure> {
        let handle = self.find(id).ok_or_else(|| not_found(id))?;
        let report = handle.update(options).await.map_err(|refusal| gone(id, refusal))?;
        Ok((self.seen(&handle), report))
    }

    /// Refuses new turns from now on, and waits until those under way have ended, at
    /// most `limit`. Returns whether they all have.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.around.turns.close();
        timeout(limit, self.0.around.turns.wait()).await.is_ok()
    }

    /// Ends every session, all at once. Safe to call twice.
    pub async fn stop(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        if self.0.stopped.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut closes = JoinSet::new();
        for handle in self.handles() {
            closes.spawn(async move { handle.close(CloseReason::Shutdown).await.is_ok() });
        }
        if timeout(STOP_LIMIT, closes.join_all()).await.is_err() {
            error!(left = self.len(), "session_pool_stop_timeout");
        }
        let settings = &self.0.settings;
        debug!(
            max_sessions = settings.max_sessions,
            ttl = settings.session_ttl.as_secs_f64(),
            cleanup_interval = settings.cleanup_interval.as_secs_f64(),
            "session_pool_stopped"
        );
    }

    /// Sessions in the pool.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether new turns are refused because the service stops.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(super) fn handles(&self) -> Vec<SessionHandle> {
        self.lock().values().map(|entry| entry.handle.clone()).collect()
    }

    /// A session's picture, with its time to live in mind.
    fn seen(&self, handle: &SessionHandle) -> Status {
        let mut status = handle.status().clone();
        status.condition = status.condition_at(self.0.settings.session_ttl);
        status
    }

    fn find(&self, id: &SessionId) -> Option<SessionHandle> {
        self.lock().get(id).map(|entry| entry.handle.clone())
    }

    fn find_or_make(&self, id: &SessionId, ephemeral: bool) -> Result<SessionHandle, Failure> {
        let settings = &self.0.settings;
        let refuse = |cause| Err(Failure::from(cause).concerning(Some(id), None));
        if !settings.enabled {
            let (current_sessions, max_sessions) = (self.len(), settings.max_sessions);
            error!(session_id = %id, current_sessions, max_sessions, "session_pool_disabled");
            return refuse(Cause::PoolDisabled);
        }
        if self.is_draining() {
            return refuse(Cause::ShuttingDown);
        }
        let mut sessions = self.lock();
        if let Some(entry) = sessions.get(id) {
            return Ok(entry.handle.clone());
        }
        let current_sessions = sessions.len();
        if current_sessions >= settings.max_sessions {
            self.0.around.counters.capacity_refusals.add_one();
            let max_sessions = settings.max_sessions;
            error!(session_id = %id, current_sessions, max_sessions, "session_pool_at_capacity");
            return refuse(Cause::PoolAtCapacity { limit: max_sessions });
        }
        debug!(session_id = %id, "session_pool_creating_new_session");
        let (task, handle) = SessionTask::new(id.clone(), ephemeral, self.0.around.clone());
        let generation = self.0.generations.fetch_add(1, Ordering::Relaxed);
        sessions.insert(id.clone(), Entry { handle: handle.clone(), generation });
        drop(sessions);
        self.spawn(id.clone(), generation, task);
        Ok(handle)
    }

    fn spawn(&self, id: SessionId, generation: u64, task: SessionTask) {
        let pool = self.clone();
        // No parent: the call that made the session is not what it lives for.
        let span = info_span!(parent: None, "session", session_id = %id);
        self.0.tasks.spawn(span, async move {
            let farewell = task.run().await;
            pool.remove(&id, generation);
            farewell.send();
        });
    }

    fn remove(&self, id: &SessionId, generation: u64) {
        let mut sessions = self.lock();
        if sessions.get(id).is_some_and(|entry| entry.generation == generation) {
            sessions.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Entry>> {
        // Nothing panics half-way through a change of the map.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_complete(handle: &SessionHandle) {
    let status = handle.status();
    let condition: Condition = status.condition;
    debug!(
        session_id = %status.session_id,
        client_id = status.client_id.map(tracing::field::display),
        session_status = ?condition,
        session_age_seconds = status.age().as_secs_f64(),
        session_message_count = status.message_count,
        "session_pool_get_client_complete"
    );
}

fn not_found(id: &SessionId) -> Failure {
    Failure::from(Cause::SessionNotFound).concerning(Some(id), None)
}

fn gone(id: &SessionId, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Closed => not_found(id),
        Refusal::Failed(failure) => failure.concerning(Some(id), None),
    }
}
