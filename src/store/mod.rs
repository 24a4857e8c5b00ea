//! What outlives a session, its process and the service: which conversation belongs to
//! which session, what was said in it, what was counted. Knows ids, options and
//! counters; nothing of processes or turns.
//!
//! [`Store`] is a trait: [`SqlStore`] keeps everything in an embedded database,
//! [`PostgresStore`] in one that several services share, [`MemoryStore`] only as long as the
//! service lives. A turn's share of the transcript
//! and the session's record are one [`Commit`], which is durable or does not exist.

mod carrying;
mod clock;
mod columns;
mod connection;
mod counts;
mod error;
mod idle;
mod import;
mod keeping;
mod memory;
mod opening;
mod order;
mod orders;
mod owner;
mod pieces;
mod postgres;
mod queries;
mod readers;
mod record;
mod recorded;
mod shared;
mod sql;
mod sqlite;
mod statements;
mod status;
mod tenure;
mod turns;
mod writer;

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use clock::Clock;
pub use error::StoreError;
pub use import::{Import, Part};
pub use memory::MemoryStore;
pub use pieces::{Piece, Place};
pub use postgres::{Lease, Node, PostgresOpening, PostgresStore};
pub use record::{Commit, Epoch, Idle, KeptEnding, KeptTurn, Line, Record};
pub use shared::{Shared, Survey};
pub use sql::{Opening, SqlStore};
pub use status::{Failing, StoreStatus};
pub use tenure::{Claimed, Expiry, Tenure};

use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
};

/// What a store promises.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps conversations. Every method either takes effect as a whole or fails.
pub trait Store: Send + Sync + fmt::Debug {
    /// A session's record.
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>>;

    /// Takes a session over, from whoever had it: they are [`StoreError::Fenced`] from now on.
    /// Returns what commits have to show. Of a session that the store does not know yet,
    /// whoever commits first is the owner. Where several services share the store, one that
    /// lives keeps what it has, also before its first commit: whoever claims it is told
    /// [`StoreError::Elsewhere`].
    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch>;

    /// Gives a session back that was claimed so, unless somebody else has it by now.
    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()>;

    /// Keeps a session's record and adds lines to its transcripts. A line whose uuid is
    /// there already is left out; so is one of a conversation that other sessions have and
    /// this one does not: an agent can speak in the name of its CLI. Fails if the record's own
    /// is one of those: a conversation has one session. Fails as well if the session is not
    /// theirs who commit, by the claim that the commit shows.
    fn commit(&self, commit: Commit) -> Pending<'_, ()>;

    /// Another session of the tenant that has a conversation, if there is one.
    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        conversation: CliSessionId,
    ) -> Pending<'a, Option<SessionId>>;

    /// A turn that a caller named, if it ended and is kept still.
    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>>;

    /// Keeps what a tenant has counted in this life of the service, where there is nothing else
    /// to keep. It is added to what others have counted; what was added before is not added
    /// again, in whatever order it is told.
    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()>;

    /// The lines of a conversation, in the order in which they came: a piece of them, from
    /// the first on or from where another piece ended. None of one that is being taken up.
    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
        from: Option<Place>,
    ) -> Pending<'a, Piece>;

    /// Keeps a part of a transcript that is taken up from a file. Nobody sees any of it
    /// before all has come and the session's next commit makes the conversation its own.
    fn import(&self, import: Import) -> Pending<'_, ()>;

    /// Removes what was kept so of a transcript, unless a commit has made it the session's.
    fn give_up_import<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
    ) -> Pending<'a, ()>;

    /// Removes a session's record, and the conversations that no other session has.
    /// Returns the ids of those; `None` if there is no such session. It is tried at least once,
    /// and until then while somebody else has the store.
    fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
        until: Instant,
    ) -> Pending<'a, Option<Vec<CliSessionId>>>;

    /// How many sessions of each tenant are in the pool. Costs no more where there are many.
    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>>;

    /// Up to `limit` sessions that are in the pool and were not used for so long, the least
    /// recently used first: from the first on, or behind another one.
    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>>;

    /// Notes that a session is in the pool no more, if it was not used for so long; its
    /// conversation is kept. Returns whether it was in the pool, and is not any more.
    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool>;

    /// Up to `limit` sessions of a tenant that are in the pool, with ids after `after`, in order.
    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>>;

    /// Up to `limit` sessions that were not used for so long, as far as services on this
    /// store have seen time pass: whoever sets the clock on the wall makes nothing older.
    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>>;

    /// What was counted for each tenant, in all lives of services.
    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>>;

    /// Whether several services share it: then a session is claimed before it is begun, too.
    fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Whether another service that lives has a session.
    fn is_elsewhere<'a>(&'a self, _key: &'a SessionKey) -> Pending<'a, bool> {
        Box::pin(future::ready(Ok(false)))
    }

    /// For how long what is claimed from now on may be served. A store that one service has to
    /// itself sets no end.
    fn tenure(&self) -> Tenure {
        Tenure::default()
    }

    /// What those who share the store know of each other; `None` where one service has it to
    /// itself.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }

    /// How the store is, from now on.
    fn status(&self) -> watch::Receiver<StoreStatus>;
}

#[cfg(test)]
mod tests;
