//! A store that counts what is read of sessions, and whose look-ups wait or fail when told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
    store::{
        Commit, Epoch, Idle, Import, KeptTurn, Pending, Piece, Place, Record, Store, StoreError,
        StoreStatus,
    },
};

/// What becomes of what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// It is answered.
    Given,
    /// It waits.
    Held,
    /// It fails.
    Failing,
}

/// A store that is watched.
#[derive(Debug)]
pub struct WatchedStore {
    inner: Arc<dyn Store>,
    /// Sessions that were read.
    pub rows: AtomicUsize,
    /// Most sessions that were asked for at once.
    pub most_at_once: AtomicUsize,
    /// Look-ups of single sessions.
    pub loads: watch::Sender<usize>,
    /// What becomes of look-ups.
    pub reads: watch::Sender<Answers>,
    /// What becomes of what is written.
    pub writes: watch::Sender<Answers>,
}

async fn pass(answers: &watch::Sender<Answers>) -> Result<(), StoreError> {
    let mut answers = answers.subscribe();
    let answer = answers.wait_for(|answers| *answers != Answers::Held).await.map(|it| *it);
    match answer {
        Ok(Answers::Given) => Ok(()),
        _ => Err(StoreError::unavailable("told to")),
    }
}

impl WatchedStore {
    pub fn new(inner: impl Store + 'static) -> Self {
        Self {
            inner: Arc::new(inner),
            rows: AtomicUsize::default(),
            most_at_once: AtomicUsize::default(),
            loads: watch::Sender::default(),
            reads: watch::Sender::new(Answers::Given),
            writes: watch::Sender::new(Answers::Given),
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::SeqCst)
    }

    fn read<T>(&self, limit: usize, rows: Vec<T>) -> Vec<T> {
        self.most_at_once.fetch_max(limit, Ordering::SeqCst);
        self.rows.fetch_add(rows.len(), Ordering::SeqCst);
        rows
    }
}

impl Store for WatchedStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        Box::pin(async move {
            self.loads.send_modify(|loads| *loads += 1);
            pass(&self.reads).await?;
            let record = self.inner.load(key).await?;
            self.rows.fetch_add(usize::from(record.is_some()), Ordering::SeqCst);
            Ok(record)
        })
    }

    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch> {
        Box::pin(async move {
            pass(&self.writes).await?;
            self.inner.claim(key).await
        })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()> {
        Box::pin(async move {
            pass(&self.writes).await?;
            self.inner.release(key, epoch).await
        })
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        Box::pin(async move {
            pass(&self.writes).await?;
            self.inner.commit(commit).await
        })
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        conversation: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        self.inner.other_owner(key, conversation)
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        self.inner.turn(key, turn)
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        self.inner.count(tenant, totals)
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
        from: Option<Place>,
    ) -> Pending<'a, Piece> {
        self.inner.piece(tenant, conversation, from)
    }

    fn import(&self, import: Import) -> Pending<'_, ()> {
        self.inner.import(import)
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
            pass(&self.writes).await?;
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
        Box::pin(async move { Ok(self.read(limit, self.inner.idle(time, after, limit).await?)) })
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        Box::pin(async move {
            pass(&self.writes).await?;
            self.inner.leave_pool(key, unused_for).await
        })
    }

    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>> {
        Box::pin(async move {
            pass(&self.reads).await?;
            Ok(self.read(limit, self.inner.list(tenant, after, limit).await?))
        })
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        Box::pin(async move { Ok(self.read(limit, self.inner.unused_for(time, limit).await?)) })
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        self.inner.totals()
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        self.inner.status()
    }
}
