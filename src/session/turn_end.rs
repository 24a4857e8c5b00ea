//! How turns end, as values. No behaviour is here.

use bytes::Bytes;

use super::running::Running;
use crate::{
    counters::Spent,
    domain::{failure::Cause, ids::ClientId},
    traces::Span,
    turn::{event::Class, log::TurnLog},
};

/// The end of a turn, as the CLI gave it.
#[derive(Debug)]
pub struct TurnEnd {
    /// Whether the CLI stopped it because it was asked to.
    pub interrupted: bool,
    /// Whether its result is an error.
    pub is_error: bool,
    /// Whether the CLI is idle already.
    pub settled: bool,
    /// Its last events, the result among them, which nobody has been told yet.
    pub untold: Vec<(Class, Bytes)>,
}

/// How a turn ended.
#[derive(Debug)]
pub enum End {
    /// As the CLI says, which is told only once it is kept.
    Result(TurnEnd),
    /// It failed, which is told in any case. The session is kept before.
    Failed(Cause),
}

/// A turn that has ended, and whose caller is told when what it left is kept.
#[derive(Debug)]
pub struct Untold {
    /// The turn.
    pub turn: Running,
    /// The process on which it ran.
    pub client_id: ClientId,
    /// How it ended.
    pub end: End,
    /// The commit that keeps it, once that is under way.
    pub commit: Option<Span>,
}

impl Untold {
    /// A turn that has ended so.
    pub fn new(turn: Running, client_id: ClientId, end: End) -> Self {
        Self { turn, client_id, end, commit: None }
    }

    /// The commit that keeps it begins.
    pub fn begin_commit(&mut self) {
        self.commit = Some(self.turn.log.trace().turn.begin("commit"));
    }

    /// Its log.
    pub fn log(&self) -> &TurnLog {
        &self.turn.log
    }

    /// Whether it is told only if it is kept.
    pub fn has_result(&self) -> bool {
        matches!(self.end, End::Result(_))
    }
}

/// How a turn with a result ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// Whether something stopped it.
    pub interrupted: bool,
    /// Whether its result is an error.
    pub is_error: bool,
    /// What it cost.
    pub spent: Spent,
}
