//! A store whose writer waits while somebody else has the database, or fails.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
    store::{
        Commit, Epoch, Expiry, Failing, Idle, Import, KeptTurn, MemoryStore, Pending, Piece, Place,
        Record, Store, StoreError, StoreStatus, Tenure,
    },
};

/// How long an order waits for the database.
pub const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// What becomes of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// They are done.
    #[default]
    Open,
    /// They wait: somebody else has the database.
    Locked,
    /// They fail.
    Broken,
    /// They are not answered at all: the disk hangs.
    Hanging,
}

/// When, by the time since the machine was started, the lease is over.
#[derive(Debug)]
struct LeaseOver(watch::Sender<Duration>);

impl Default for LeaseOver {
    fn default() -> Self {
        Self(watch::Sender::new(Duration::MAX))
    }
}

/// Conversations in memory, behind a gate.
#[derive(Debug, Default)]
pub struct GatedStore {
    pub inner: MemoryStore,
    /// Whether other services have it, too.
    shared: AtomicBool,
    /// Whether what is read has to wait.
    reads_wait: watch::Sender<bool>,
    gate: watch::Sender<Gate>,
    tenure: Mutex<watch::Sender<bool>>,
    lease_over: LeaseOver,
    claims: AtomicUsize,
    status: watch::Sender<StoreStatus>,
}

impl GatedStore {
    pub fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
        self.status.send_modify(|status| {
            status.failing = (gate == Gate::Broken).then(|| Failing {
                since: std::time::SystemTime::UNIX_EPOCH,
                reason: "told to".to_owned(),
            });
        });
    }

    /// Other services have it, too.
    pub fn share(&self) {
        self.shared.store(true, Ordering::SeqCst);
    }

    /// How often a session was claimed.
    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::SeqCst)
    }

    /// What was claimed may be another service's from here on.
    pub fn end_tenure(&self) {
        self.tenure().send_replace(true);
    }

    /// The same, and another tenure has begun.
    pub fn begin_anew(&self) {
        std::mem::take(&mut *self.tenure()).send_replace(true);
    }

    fn tenure(&self) -> MutexGuard<'_, watch::Sender<bool>> {
        self.tenure.lock().expect("no panic")
    }

    /// The same, by the clock; nobody has said so yet.
    pub fn outlive_lease(&self) {
        self.lease_over.0.send_replace(Duration::ZERO);
    }

    /// From here on what is read waits, or does not.
    pub fn let_reads_wait(&self, wait: bool) {
        self.reads_wait.send_replace(wait);
    }

    async fn pass_to_read(&self) -> Result<(), StoreError> {
        let mut reads_wait = self.reads_wait.subscribe();
        let passed = timeout(LOCK_LIMIT, reads_wait.wait_for(|wait| !wait)).await;
        passed.map(drop).map_err(|_| StoreError::unavailable("told to"))
    }

    async fn pass(&self) -> Result<(), StoreError> {
        self.pass_until(Instant::now() + LOCK_LIMIT).await
    }

    async fn pass_until(&self, until: Instant) -> Result<(), StoreError> {
        let mut gate = self.gate.subscribe();
        gate.wait_for(|gate| *gate != Gate::Hanging).await.ok();
        let passed = timeout_at(until, gate.wait_for(|gate| *gate != Gate::Locked)).await;
        match passed.map(|gate| gate.map(|gate| *gate)) {
            Ok(Ok(Gate::Open)) => Ok(()),
            Ok(_) => Err(StoreError::unavailable("told to")),
            Err(_) => Err(StoreError::unavailable("database is locked")),
        }
    }
}

impl Store for GatedStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        Box::pin(async move {
            self.pass_to_read().await?;
            self.inner.load(key).await
        })
    }

    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch> {
        Box::pin(async move {
            self.pass().await?;
            self.claims.fetch_add(1, Ordering::SeqCst);
            self.inner.claim(key).await
        })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()> {
        Box::pin(async move {
            self.pass().await?;
            self.inner.release(key, epoch).await
        })
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        Box::pin(async move {
            self.pass().await?;
            self.inner.commit(commit).await
        })
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        conversation: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        Box::pin(async move {
            self.pass_to_read().await?;
            self.inner.other_owner(key, conversation).await
        })
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        self.inner.turn(key, turn)
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        Box::pin(async move {
            self.pass().await?;
            self.inner.count(tenant, totals).await
        })
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
        from: Option<Place>,
    ) -> Pending<'a, Piece> {
        Box::pin(async move {
            self.pass_to_read().await?;
            self.inner.piece(tenant, conversation, from).await
        })
    }

    fn import(&self, import: Import) -> Pending<'_, ()> {
        Box::pin(async move {
            self.pass().await?;
            self.inner.import(import).await
        })
    }

    fn give_up_import<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
    ) -> Pending<'a, ()> {
        self.inner.give_up_import(tenant, conversation)
    }

    fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
        until: Instant,
    ) -> Pending<'a, Option<Vec<CliSessionId>>> {
        Box::pin(async move {
            self.pass_until(until).await?;
            self.inner.forget(key, until).await
        })
    }

    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>> {
        self.inner.in_pool()
    }

    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>> {
        self.inner.idle(time, after, limit)
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        self.inner.leave_pool(key, unused_for)
    }

    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>> {
        self.inner.list(tenant, after, limit)
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        self.inner.unused_for(time, limit)
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        self.inner.totals()
    }

    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst)
    }

    fn tenure(&self) -> Tenure {
        let expiry = Expiry { renewed: self.lease_over.0.subscribe(), after: Duration::ZERO };
        Tenure::within(self.tenure().subscribe(), expiry)
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        self.status.subscribe()
    }
}

/// Whether a store has a turn that its caller named.
pub async fn has_turn(store: &Arc<GatedStore>, turn: &TurnId) -> bool {
    let session = SessionId::parse("s").expect("a name");
    let key = SessionKey::new(TenantId::default(), session);
    store.turn(&key, turn).await.expect("read").is_some()
}
