//! What outlives a session, its process and the service: which conversation belongs to
//! which session, what was said in it, what was counted. Knows ids, options and
//! counters; nothing of processes or turns.
//!
//! [`Store`] is a trait: [`SqlStore`] keeps everything in an embedded database,
//! [`MemoryStore`] only as long as the service lives. A turn's share of the transcript
//! and the session's record are one [`Commit`], which is durable or does not exist.

mod clock;
mod connection;
mod error;
mod memory;
mod orders;
mod readers;
mod record;
mod sql;
mod status;
mod turns;
mod writer;

use std::{fmt, future::Future, pin::Pin, time::Duration};

use tokio::sync::watch;

use clock::Clock;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use record::{Commit, KeptTurn, Line, Record};
pub use sql::{Opening, SqlStore};
pub use status::{Failing, StoreStatus};

use crate::{
    counters::Totals,
    ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
};

/// What a session is told that asks for a conversation of another.
fn owned(id: CliSessionId) -> StoreError {
    StoreError::Refused(format!("conversation {id} belongs to another session"))
}

/// What a store promises.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps conversations. Every method either takes effect as a whole or fails.
pub trait Store: Send + Sync + fmt::Debug {
    /// A session's record.
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>>;

    /// Keeps a session's record and adds lines to its transcripts. A line whose uuid is
    /// there already is left out; so is one of a conversation that other sessions have and
    /// this one does not: an agent can speak in the name of its CLI. Fails if the record's own
    /// is one of those: a conversation has one session.
    fn commit(&self, commit: Commit) -> Pending<'_, ()>;

    /// Another session of the tenant that has a conversation, if there is one.
    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        conversation: CliSessionId,
    ) -> Pending<'a, Option<SessionId>>;

    /// A turn that a caller named, if it ended and is kept still.
    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>>;

    /// Keeps what a tenant has counted, where there is nothing else to keep.
    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()>;

    /// The lines of a conversation, in the order in which they came.
    fn transcript<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
    ) -> Pending<'a, Vec<Line>>;

    /// Removes a session's record, and the conversations that no other session has.
    /// Returns the ids of those; `None` if there is no such session.
    fn forget<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Vec<CliSessionId>>>;

    /// The sessions that are in the pool, and for how long each was not used.
    fn in_pool(&self) -> Pending<'_, Vec<(SessionKey, Duration)>>;

    /// Notes that a session is in the pool no more; its conversation is kept.
    fn leave_pool<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, ()>;

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

    /// What was counted for each tenant.
    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>>;

    /// How the store is, from now on.
    fn status(&self) -> watch::Receiver<StoreStatus>;
}

#[cfg(test)]
mod tests;
