//! The store in PostgreSQL, which several services share. What is written, and what it means,
//! is said in the files beside this folder, once for both databases; here is what differs: many
//! write at once (`writers`, `carrying`), a session has one owner among the nodes that live
//! (`nodes`, `heartbeat`, `ownership`), and the server, or the way to it, can be gone
//! (`transaction`).
//!
//! Everything is read from the server that is written to. Ages are by its clock.

mod carrying;
#[cfg(feature = "test-tools")]
mod guards;
mod heartbeat;
mod last_life;
mod me;
mod migrations;
mod nodes;
mod opening;
mod ownership;
mod places;
mod shared;
mod time;
mod transaction;
mod unfinished;
mod writers;

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::{debug, error_span, info, warn};
use uuid::Uuid;

pub use heartbeat::Lease;
pub use nodes::Node;
pub use opening::PostgresOpening;

use super::{
    Clock, Commit, Epoch, Idle, Import, KeptTurn, Pending, Piece, Place, Record, Store, StoreError,
    StoreStatus, Tenure,
    columns::{conversation, elapsed},
    counts, idle, import,
    order::{Whose, WriteOp},
    pieces, queries,
    shared::Shared,
    statements::Running,
    status::{Publisher, SharedPublisher},
    turns,
};
use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
    os::clock::boot_time,
    tasks::Tasks,
};
use carrying::Desk;
use heartbeat::Heartbeat;
use last_life::LastLife;
use me::Me;
use nodes::{Identity, Registration};
use places::Places;
use transaction::{Database, Transaction};
use unfinished::{discard, discard_unfinished};
use writers::Writers;

/// How long giving back the node's name may take at the end.
const LEAVING: Duration = Duration::from_secs(1);

/// A database that several services share.
#[derive(Debug)]
pub struct PostgresStore {
    database: Database,
    /// Those who read at once, so that they leave connections to those who write.
    readers: Semaphore,
    acquire_timeout: Duration,
    writers: Arc<Writers>,
    me: Arc<Me>,
    /// By which what this life of the service counts is kept.
    life: String,
    heartbeat: Duration,
    places: Places,
    /// The nodes that lived when that was known last.
    last_living: Mutex<Arc<[Node]>>,
    status: watch::Sender<StoreStatus>,
    renewed: watch::Sender<Duration>,
}

impl PostgresStore {
    /// Opens the database, brings it up to date if it is older, and registers this node, whose
    /// heartbeat is among `tasks`. When they stop, and all is written, the name is given back.
    pub async fn open(opening: PostgresOpening, tasks: &Tasks) -> Result<Self, StoreError> {
        let (database, heartbeats) = (opening.database()?, opening.heartbeats()?);
        migrations::run(&database).await?;
        opening::warn_of_loss(&database).await?;
        let shares = opening.shares();
        let me = Identity {
            name: opening.node,
            incarnation: Uuid::new_v4().to_string(),
            address: opening.address,
            lease: opening.lease,
        };
        let began = boot_time();
        let last_life = opening.last_life.map(LastLife);
        let Registration { takes_over, beat } =
            last_life::register(&heartbeats, &me, last_life.as_ref(), shares.writers).await?;
        if let Err(error) = nodes::clean_up(&heartbeats).await {
            debug!(%error, "nodes_not_cleaned_up");
        }
        let living = nodes::living(&heartbeats).await?;
        info!(node = %me.name, incarnation = %me.incarnation, takes_over, nodes = ?living, "node_registered");
        let mut reading = database.read().await?;
        let clock = Clock::from(time::now(&mut reading).await?);
        reading.commit().await?;
        let (status, renewed) = (watch::Sender::default(), watch::Sender::new(began));
        let publisher = SharedPublisher::new(Publisher::new(status.clone()));
        let expiry = heartbeat::expiry(renewed.subscribe(), me.lease);
        let (me, life) = (Arc::new(Me::new(me, beat, expiry)), Uuid::new_v4().to_string());
        let desk = Desk::new(Arc::clone(&me), life.clone(), clock);
        let (slots, tell, limit) = (shares.writers, publisher.clone(), opening.commit_timeout);
        let writers = Arc::new(Writers::new(database.clone(), desk, tell, slots, limit, tasks));
        let heartbeat = Heartbeat {
            database: heartbeats,
            me: Arc::clone(&me),
            every: opening.heartbeat,
            slots: shares.writers,
            last_life,
            publisher,
            renewed: renewed.clone(),
        };
        let store = Self {
            database,
            readers: Semaphore::new(shares.readers),
            acquire_timeout: opening.acquire_timeout,
            writers,
            me,
            life,
            heartbeat: opening.heartbeat,
            places: Places::default(),
            last_living: Mutex::new(living.into()),
            status,
            renewed,
        };
        store.look_after(heartbeat, tasks);
        Ok(store)
    }

    fn look_after(&self, heartbeat: Heartbeat, tasks: &Tasks) {
        let (database, writers) = (self.database.clone(), Arc::clone(&self.writers));
        let (me, beats) = (Arc::clone(&self.me), heartbeat.database.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn(error_span!("store"), async move {
            let cleaning = discard_unfinished(&database, &writers);
            let ending = async {
                stopping.cancelled().await;
                writers.finish().await;
            };
            let working = async {
                tokio::join!(cleaning, heartbeat.run());
                pending::<()>().await;
            };
            tokio::select! {
                () = working => {}
                () = ending => {}
            }
            let me = me.identity();
            let late = |_| Err(StoreError::unavailable("it took too long"));
            match timeout(LEAVING, nodes::deregister(&beats, &me)).await.unwrap_or_else(late) {
                Ok(()) => info!(node = %me.name, "node_deregistered"),
                Err(error) => warn!(node = %me.name, %error, "node_not_deregistered"),
            }
            drop(timeout(LEAVING, async { tokio::join!(database.close(), beats.close()) }).await);
        });
    }

    /// When the lease was last renewed, by [`boot_time`].
    pub(super) fn renewed(&self) -> watch::Receiver<Duration> {
        self.renewed.subscribe()
    }

    /// What has to be ended when the lease is not renewed; `None` if it never ends.
    pub fn lease(&self) -> Option<Lease> {
        #[cfg(feature = "test-tools")]
        if guards::is_missing(guards::Guard::LeaseWatch) {
            return None;
        }
        self.me.expiry()?;
        Some(Lease { renewed: self.renewed(), length: self.me.identity().lease })
    }

    /// The other node that has a session, if it lives.
    pub async fn elsewhere(&self, key: &SessionKey) -> Result<Option<Node>, StoreError> {
        nodes::owner(&self.database, &self.me.identity(), key).await
    }

    /// Tells other nodes that this one takes no new sessions.
    pub async fn drain(&self) -> Result<(), StoreError> {
        self.me.drain();
        nodes::drain(&self.database, &self.me.identity()).await
    }

    /// Reads in a transaction, and once more if the connection turns out to be gone.
    async fn read<T: Send>(
        &self,
        work: impl for<'c> Fn(&'c mut Transaction) -> Running<'c, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let permit = timeout(self.acquire_timeout, self.readers.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(StoreError::unavailable("all connections to the database are busy"));
        };
        match self.read_once(&work).await {
            Err(StoreError::Unavailable { .. }) => self.read_once(&work).await,
            done => done,
        }
    }

    async fn read_once<T: Send>(
        &self,
        work: &(impl for<'c> Fn(&'c mut Transaction) -> Running<'c, T> + Send + Sync),
    ) -> Result<T, StoreError> {
        let mut transaction = self.database.read().await?;
        let found = work(&mut transaction).await?;
        transaction.commit().await?;
        Ok(found)
    }
}

impl Store for PostgresStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        Box::pin(self.read(move |by| {
            let key = key.clone();
            Box::pin(async move {
                let now_ms = time::now(by).await?;
                queries::load(by, &key, now_ms).await
            })
        }))
    }

    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch> {
        Box::pin(async move { self.writers.ask(|reply| WriteOp::Claim(key.clone(), reply)).await })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()> {
        let order = move |reply| WriteOp::Release(key.clone(), epoch, reply);
        Box::pin(async move { self.writers.ask(order).await })
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        let order = |reply| WriteOp::Commit(Box::new(commit), reply);
        Box::pin(async move { self.writers.ask(order).await })
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        id: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        Box::pin(self.read(move |by| {
            let key = key.clone();
            Box::pin(async move { import::other_owner(by, &key, id).await })
        }))
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        Box::pin(self.read(move |by| {
            let (key, turn) = (key.clone(), turn.clone());
            Box::pin(async move {
                let now_ms = time::now(by).await?;
                turns::find(by, &key, &turn, now_ms).await
            })
        }))
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        let order = move |reply| WriteOp::Count(tenant.clone(), Box::new(totals), reply);
        Box::pin(async move { self.writers.ask(order).await })
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        id: CliSessionId,
        from: Option<Place>,
    ) -> Pending<'a, Piece> {
        Box::pin(async move {
            let piece = self.read(move |by| {
                let tenant = tenant.clone();
                Box::pin(async move { pieces::read(by, &tenant, id, from).await })
            });
            if let Some(piece) = piece.await? {
                return Ok(piece);
            }
            // What nobody is at is of a start that failed: the file counts.
            discard(&self.writers, tenant, id, Whose::Anybody).await.map(|()| Piece::default())
        })
    }

    fn import(&self, import: Import) -> Pending<'_, ()> {
        let order = |reply| WriteOp::Import(Box::new(import), reply);
        Box::pin(async move { self.writers.ask(order).await })
    }

    fn give_up_import<'a>(&'a self, tenant: &'a TenantId, id: CliSessionId) -> Pending<'a, ()> {
        Box::pin(discard(&self.writers, tenant, id, Whose::Own))
    }

    fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
        until: Instant,
    ) -> Pending<'a, Option<Vec<CliSessionId>>> {
        Box::pin(async move {
            let order = |reply| WriteOp::Forget(key.clone(), reply);
            let gone = self.writers.ask_until(until, order).await?;
            gone.map(|gone| gone.iter().map(|id| conversation(id)).collect()).transpose()
        })
    }

    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>> {
        Box::pin(self.read(|by| Box::pin(queries::in_pool(by))))
    }

    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>> {
        Box::pin(self.read(move |by| {
            let after = after.cloned();
            Box::pin(async move {
                let before_ms = time::now(by).await?.saturating_sub(elapsed(time));
                idle::list(by, before_ms, after.as_ref(), limit).await
            })
        }))
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        let order = move |reply| WriteOp::LeavePool(key.clone(), unused_for, reply);
        Box::pin(async move { self.writers.ask(order).await })
    }

    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>> {
        Box::pin(self.read(move |by| {
            let (tenant, after) = (tenant.clone(), after.cloned());
            Box::pin(async move {
                let now_ms = time::now(by).await?;
                queries::list(by, &tenant, after.as_ref(), limit, now_ms).await
            })
        }))
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        Box::pin(self.read(move |by| {
            Box::pin(async move {
                let before_ms = time::now(by).await?.saturating_sub(elapsed(time));
                queries::unused(by, before_ms, limit).await
            })
        }))
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        Box::pin(self.read(|by| Box::pin(counts::read(by))))
    }

    fn is_elsewhere<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, bool> {
        Box::pin(async move { Ok(self.elsewhere(key).await?.is_some()) })
    }

    fn tenure(&self) -> Tenure {
        self.me.tenure()
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        self.status.subscribe()
    }
}
