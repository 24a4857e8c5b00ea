//! How a turn gets to its session: it is at hand, or the store knows it, or it is made (`making`).
//!
//! Whoever needs one that has no task asks the store, and until the answer is there no other call
//! may load, create or end it: two calls at once make one session of it, and what the store said
//! still holds when something is made of it. A store error is returned as an error, never as
//! "not found".
//!
//! On a store that several services share, a session is claimed before it is looked up for a turn:
//! of services that are asked for a new one at once a single one begins it, and what the store says
//! of one that others had is the newest.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, error_span};

use super::{SessionPool, sessions::Entry};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::{SessionId, SessionKey, TenantId},
    },
    session::{Refusal, SessionHandle, TurnRequest, Wanted, status::SessionState, store_failed},
    store::{Claimed, Epoch, Record, Store, StoreError},
    telemetry::log_limit::DISABLED,
    turn::listener::Listener,
};

/// A session that was looked for.
pub(super) enum Found {
    /// It has a task.
    Live(SessionHandle),
    /// It has none; the store may know it.
    Absent(Lookup),
}

/// The right to ask the store for a session without a task, and to make something of it. Given
/// back when dropped.
pub(super) struct Lookup {
    pool: SessionPool,
    key: SessionKey,
    over: CancellationToken,
    /// Whether it has left the pool, whatever the store says.
    has_left: bool,
    /// The claim of it, which goes to the session that is made of it, or is given back.
    claimed: Option<Claimed>,
    /// Whether something was made of it.
    is_made: bool,
}

/// What a turn gets.
enum Ready {
    /// A session to run on, and what keeps it from being given back meanwhile.
    Session(SessionHandle, Option<Wanted>),
    /// What it was told before, or is being told: it does not run.
    Turn(Listener),
}

impl SessionPool {
    /// Runs a turn on a session, which is made if there is none; `None` is a session of
    /// the turn's own.
    pub async fn query(
        &self,
        tenant: &TenantId,
        id: Option<SessionId>,
        request: TurnRequest,
    ) -> Result<Listener, Failure> {
        let ephemeral = id.is_none();
        let id = id.unwrap_or_else(SessionId::anonymous);
        let key = SessionKey::new(tenant.clone(), id.clone());
        let known = self.find(&key).map(|handle| handle.status().condition);
        debug!(
            session_id = %id,
            pool_enabled = self.shared().settings.enabled,
            current_sessions = self.len(),
            max_sessions = self.shared().settings.max_sessions,
            session_exists = known.is_some(),
            "session_pool_get_client_start"
        );
        if let Some(session_status) = known {
            debug!(session_id = %id, ?session_status, "session_pool_existing_session_found");
        }
        loop {
            // In every round: it may have run, and its session have gone, meanwhile.
            if let Some(listener) = self.told_before(&key, &request).await? {
                return Ok(listener);
            }
            let (handle, _wanted) = match self.find_or_make(&key, &request, ephemeral).await? {
                Ready::Session(handle, wanted) => (handle, wanted),
                Ready::Turn(listener) => return Ok(listener),
            };
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

    /// The session under this key. One that is not in the pool is made, if the pool takes one
    /// more of this tenant.
    async fn find_or_make(
        &self,
        key: &SessionKey,
        request: &TurnRequest,
        ephemeral: bool,
    ) -> Result<Ready, Failure> {
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
            let joined = self.join(key, request).await;
            return joined.map(Ready::Turn).ok_or_else(|| refusal(Cause::ShuttingDown));
        }
        let mut lookup = match self.look_up(key).await {
            Found::Live(handle) => {
                let claimed = handle.claim().await.map_err(|it| it.concerning(Some(id), None));
                let (wanted, is_new) = claimed?;
                if is_new && let Some(listener) = self.told_before(key, request).await? {
                    return Ok(Ready::Turn(listener));
                }
                return Ok(Ready::Session(handle, wanted));
            }
            Found::Absent(lookup) => lookup,
        };
        // The store knows nothing of a session that has its name from here.
        let record = if ephemeral { None } else { lookup.take().await? };
        // Whoever had it until just now may have run the turn.
        if let Some(listener) = self.told_before(key, request).await? {
            return Ok(Ready::Turn(listener));
        }
        let has_place = record.as_ref().is_some_and(|record| record.in_pool);
        self.learn_what_is_spent(&key.tenant).await.map_err(refusal)?;
        let place = match has_place {
            true => None,
            false => self.take_place(key).await.map_err(refusal)?,
        };
        let made = lookup.make_if(record, ephemeral, |sessions| {
            // The store may have taken its time.
            if self.is_draining() {
                return Err(refusal(Cause::ShuttingDown));
            }
            if has_place { Ok(()) } else { self.admit(sessions, key).map_err(refusal) }
        });
        let (handle, wanted) = made?;
        if let Some(place) = place {
            self.lock().keep_place(key, place);
        }
        Ok(Ready::Session(handle, wanted))
    }

    /// The turn that is asked for, if it is there already.
    async fn join(&self, key: &SessionKey, request: &TurnRequest) -> Option<Listener> {
        let (turn, handle) = (request.turn_id.clone()?, self.find(key)?);
        handle.attach(Some(turn), 1, request.partials).await.ok()
    }

    /// Looks for a session; waits while somebody else asks the store for it.
    pub(super) async fn look_up(&self, key: &SessionKey) -> Found {
        loop {
            let over = {
                let mut sessions = self.lock();
                match sessions.get(key) {
                    Some(Entry::Live { handle, .. }) => return Found::Live(handle.clone()),
                    Some(Entry::Asked { over, .. }) => over.clone(),
                    Some(Entry::Left) | None => {
                        let (over, has_left) = sessions.ask(key);
                        return Found::Absent(self.lookup(key, over, has_left));
                    }
                }
            };
            over.cancelled().await;
        }
    }

    /// The same if it has no task and nobody else asks for it.
    pub(super) fn look_up_absent(&self, key: &SessionKey) -> Option<Lookup> {
        let mut sessions = self.lock();
        match sessions.get(key) {
            Some(Entry::Live { .. } | Entry::Asked { .. }) => None,
            Some(Entry::Left) | None => {
                let (over, has_left) = sessions.ask(key);
                Some(self.lookup(key, over, has_left))
            }
        }
    }

    fn lookup(&self, key: &SessionKey, over: CancellationToken, has_left: bool) -> Lookup {
        let (pool, key) = (self.clone(), key.clone());
        Lookup { pool, key, over, has_left, claimed: None, is_made: false }
    }

    /// A service that stops takes up nothing that another one could take up.
    pub(super) fn leaves_to_others(&self) -> bool {
        self.is_draining() && self.shared().parts.store.is_shared()
    }

    async fn look_up_to_load(&self, key: &SessionKey) -> Result<Found, Failure> {
        match self.look_up(key).await {
            Found::Absent(_) if self.leaves_to_others() => {
                Err(Failure::from(Cause::ShuttingDown).concerning(Some(&key.session), None))
            }
            found @ (Found::Live(_) | Found::Absent(_)) => Ok(found),
        }
    }

    /// A session that is in the pool; one without a task is given one.
    pub(super) async fn load(&self, key: &SessionKey) -> Result<Option<SessionHandle>, Failure> {
        let lookup = match self.look_up_to_load(key).await? {
            Found::Live(handle) => return Ok(Some(handle)),
            Found::Absent(lookup) => lookup,
        };
        let record = lookup.ask().await?.filter(|record| record.in_pool);
        Ok(record.map(|record| lookup.make(Some(record))))
    }

    /// A session that the store knows, in the pool or not. Capacity is not checked: it is loaded
    /// only to be ended.
    pub(super) async fn load_for_end(
        &self,
        key: &SessionKey,
    ) -> Result<Option<SessionHandle>, Failure> {
        let lookup = match self.look_up_to_load(key).await? {
            Found::Live(handle) => return Ok(Some(handle)),
            Found::Absent(lookup) => lookup,
        };
        let record = lookup.ask().await?;
        Ok(record.map(|record| lookup.make(Some(record))))
    }
}

impl Lookup {
    /// Claims it, where another service could begin it as well; then what the store knows of it.
    async fn take(&mut self) -> Result<Option<Record>, Failure> {
        if self.pool.shared().parts.store.is_shared() {
            self.claimed = Some(self.claim().await.map_err(|error| self.failure(error))?);
        }
        self.ask().await
    }

    /// Who gives up waiting leaves nothing claimed.
    async fn claim(&self) -> Result<Claimed, StoreError> {
        let tenure = self.pool.shared().parts.store.tenure();
        let (store, key) = (Arc::clone(&self.pool.shared().parts.store), self.key.clone());
        let (told, claimed) = oneshot::channel();
        let span = error_span!("claim", session_id = %key.session);
        self.pool.shared().tasks.spawn(span, async move {
            if let Err(Ok(epoch)) = told.send(store.claim(&key).await) {
                give_back(&*store, &key, epoch).await;
            }
        });
        let stops = |_| Err(StoreError::unavailable("the service stops"));
        claimed.await.unwrap_or_else(stops).map(|epoch| Claimed { epoch, tenure })
    }

    fn failure(&self, error: StoreError) -> Failure {
        Failure::from(store_failed(error)).concerning(Some(&self.key.session), None)
    }

    /// What the store knows of it.
    pub(super) async fn ask(&self) -> Result<Option<Record>, Failure> {
        let loaded = self.pool.shared().parts.store.load(&self.key).await;
        let loaded = loaded.map_err(|error| self.failure(error))?;
        Ok(loaded.map(|record| Record { in_pool: record.in_pool && !self.has_left, ..record }))
    }

    /// Whose it is.
    pub(super) fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Whether it has left the pool without the store having taken note.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Records that the store has removed it from the pool.
    pub(super) fn left(mut self) {
        let mut sessions = self.pool.lock();
        if !std::mem::take(&mut self.has_left) {
            sessions.one_less(&self.key.tenant);
        }
        // Who follows it waits for a task that it does not get any more.
        sessions.feeds.session_ended(&self.key);
    }

    /// Makes a session of what the store knows.
    pub(super) fn make(mut self, record: Option<Record>) -> SessionHandle {
        let pool = self.pool.clone();
        let mut sessions = pool.lock();
        let claimed = self.claimed.take();
        let (made, _) = pool.make(&mut sessions, &self.key, (record, claimed), false);
        self.is_made = true;
        made
    }

    /// Makes the session if `admits` allows one more.
    pub(super) fn make_if(
        mut self,
        record: Option<Record>,
        ephemeral: bool,
        admits: impl FnOnce(&super::sessions::Sessions) -> Result<(), Failure>,
    ) -> Result<(SessionHandle, Option<Wanted>), Failure> {
        let pool = self.pool.clone();
        let mut sessions = pool.lock();
        if let Err(refusal) = admits(&sessions) {
            // `Drop` takes the same lock.
            drop(sessions);
            return Err(refusal);
        }
        let claimed = self.claimed.take();
        let made = pool.make(&mut sessions, &self.key, (record, claimed), ephemeral);
        self.is_made = true;
        Ok(made)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if !self.is_made {
            self.pool.lock().asked(&self.key, self.has_left);
            if let Some(Claimed { epoch, .. }) = self.claimed {
                let (store, key) = (Arc::clone(&self.pool.shared().parts.store), self.key.clone());
                let span = error_span!("claim", session_id = %key.session);
                let given = async move { give_back(&*store, &key, epoch).await };
                self.pool.shared().tasks.spawn(span, given);
            }
        }
        self.over.cancel();
    }
}

/// Nobody waits for that: whoever claims it next has it.
async fn give_back(store: &dyn Store, key: &SessionKey, epoch: Epoch) {
    if let Err(error) = store.release(key, epoch).await {
        debug!(session_id = %key.session, %error, "session_not_given_back");
    }
}

fn note_complete(handle: &SessionHandle) {
    let status = handle.status();
    let condition: SessionState = status.condition;
    debug!(
        session_id = %status.session_id,
        client_id = status.client_id.map(tracing::field::display),
        session_status = ?condition,
        session_age_seconds = status.age().as_secs_f64(),
        session_message_count = status.message_count,
        "session_pool_get_client_complete"
    );
}
