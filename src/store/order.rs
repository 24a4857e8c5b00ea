//! What the writer is asked to do, and how each of it is carried out in a transaction.

use tokio::sync::oneshot;

use super::{
    Commit, Epoch, Import, StoreError,
    connection::Transaction,
    counts::Counted,
    import::{self, Imports},
    orders, owner,
};
use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionKey, TenantId},
};

/// Where an order is answered.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum WriteOp {
    /// Keep what a turn left.
    Commit(Box<Commit>, Answer<()>),
    /// Take a session over.
    Claim(SessionKey, Answer<Epoch>),
    /// Give a session back.
    Release(SessionKey, Epoch, Answer<()>),
    /// Keep what a tenant has counted.
    Count(TenantId, Box<Totals>, Answer<()>),
    /// Remove a session; the answer is the conversations that went with it.
    Forget(SessionKey, Answer<Option<Vec<String>>>),
    /// Note that a session is in the pool no more, if it was not used after this time; the
    /// answer is whether it was.
    LeavePool(SessionKey, i64, Answer<bool>),
    /// Keep a part of a transcript that is taken up.
    Import(Box<Import>, Answer<()>),
    /// Remove a piece of one that is not; the answer is whether there is more.
    Discard(TenantId, CliSessionId, Whose, Answer<bool>),
}

/// Who says that a transcript is not taken up any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Whoever was at it.
    Own,
    /// Somebody else, who cannot know.
    Anybody,
}

impl WriteOp {
    /// Bytes of lines that it has.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Commit(commit, _) => commit.lines.iter().map(|line| line.json.len()).sum(),
            Self::Import(import, _) => import.part.bytes(),
            Self::Claim(..)
            | Self::Release(..)
            | Self::Count(..)
            | Self::Forget(..)
            | Self::LeavePool(..)
            | Self::Discard(..) => 0,
        }
    }

    /// Whoever asked may be gone; what was written stays written.
    pub(super) fn answer(self, outcome: Result<Written, StoreError>) {
        match self {
            Self::Commit(_, reply)
            | Self::Release(_, _, reply)
            | Self::Count(_, _, reply)
            | Self::Import(_, reply) => {
                reply.send(outcome.map(drop)).ok();
            }
            Self::Forget(_, reply) => {
                let gone = outcome.map(|written| match written {
                    Written::Forgotten(gone) => gone,
                    _ => None,
                });
                reply.send(gone).ok();
            }
            Self::Claim(_, reply) => {
                let epoch = outcome.map(|written| match written {
                    Written::Claimed(epoch) => epoch,
                    _ => Epoch::NONE,
                });
                reply.send(epoch).ok();
            }
            Self::LeavePool(.., reply) => {
                let left = |written| matches!(written, Written::Left(true));
                reply.send(outcome.map(left)).ok();
            }
            Self::Discard(.., reply) => {
                let more = |written| matches!(written, Written::Discarded(true));
                reply.send(outcome.map(more)).ok();
            }
        }
    }
}

/// What became of an order.
#[derive(Debug)]
pub(super) enum Written {
    Kept,
    Forgotten(Option<Vec<String>>),
    Discarded(bool),
    Left(bool),
    Claimed(Epoch),
}

/// Who carries out orders, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    /// This life of the service.
    pub(super) writer: &'a str,
    /// The time, by the store's own clock.
    pub(super) observed_ms: i64,
    /// The transcripts that are being taken up.
    pub(super) imports: &'a Imports,
}

/// Carries out one order, but for what it counted, which is only noted. The inner error is its
/// own fault, and nothing of it is written.
pub(super) async fn carry_out(
    transaction: &mut Transaction<'_>,
    order: &WriteOp,
    by: By<'_>,
    counted: &mut Counted,
) -> Result<Result<Written, StoreError>, StoreError> {
    let By { observed_ms, imports, .. } = by;
    let connection = transaction.connection();
    Ok(Ok(match order {
        WriteOp::Commit(commit, _) => {
            let kept = orders::keep(connection, commit, by.writer, observed_ms).await?;
            let (key, id) = (&commit.key, commit.record.cli_session_id);
            if kept.is_ok() {
                counted.note(&key.tenant, &commit.totals);
            }
            if kept.is_ok() && imports.settles(key, id) {
                import::settle(connection, key, id).await?;
            }
            return Ok(kept.map(|()| Written::Kept));
        }
        WriteOp::Claim(key, _) => Written::Claimed(owner::claim(connection, by.writer, key).await?),
        WriteOp::Release(key, epoch, _) => {
            owner::release(connection, by.writer, key, *epoch).await?;
            Written::Kept
        }
        WriteOp::Count(tenant, totals, _) => {
            counted.note(tenant, totals);
            Written::Kept
        }
        WriteOp::Forget(key, _) => {
            for id in imports.of(key) {
                import::remove(connection, &key.tenant, id).await?;
            }
            Written::Forgotten(orders::forget(connection, key).await?)
        }
        WriteOp::Import(part, _) => {
            let kept = import::keep(connection, part, imports).await?;
            return Ok(kept.map(|()| Written::Kept));
        }
        // Somebody else's is still coming.
        WriteOp::Discard(tenant, id, Whose::Anybody, _) if imports.has(tenant, *id) => {
            Written::Discarded(false)
        }
        WriteOp::Discard(tenant, id, ..) => {
            Written::Discarded(import::discard(connection, tenant, *id).await?)
        }
        WriteOp::LeavePool(key, until_ms, _) => {
            Written::Left(orders::leave_pool(connection, key, *until_ms).await?)
        }
    }))
}
