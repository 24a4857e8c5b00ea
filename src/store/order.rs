//! What whoever writes is asked to do, and until when.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{Commit, Epoch, Import, StoreError};
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
    /// Note that a session is in the pool no more, if it was not used for so long; the answer
    /// is whether it was.
    LeavePool(SessionKey, Duration, Answer<bool>),
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

/// An order, and until when it is tried.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) order: WriteOp,
    pub(super) until: Instant,
}

/// What an answer may be late by: a disk or a server that hangs is not waited
/// for.
const LATE: Duration = Duration::from_secs(15);

/// Asks for something by `hand_over`, and waits for the answer, within a bound.
pub(super) async fn ask_until<T>(
    until: Instant,
    order: impl FnOnce(Answer<T>) -> WriteOp,
    hand_over: impl AsyncFnOnce(Asked) -> Result<(), StoreError>,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { order: order(reply), until };
    let answered = async {
        hand_over(asked).await?;
        answer.await.map_err(|_| StoreError::unavailable("the store is closed"))?
    };
    timeout_at(until.max(Instant::now()) + LATE, answered)
        .await
        .unwrap_or_else(|_| Err(StoreError::unavailable("the store does not answer")))
}
