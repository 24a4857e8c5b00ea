//! What is kept of a session.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    counters::{Spent, Totals},
    domain::{
        acquired::Acquired,
        ids::{CliSessionId, ClientId, SessionKey, TurnId},
        options::Options,
    },
};

/// What is known of a session beyond its life.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The id that the CLI knows its conversation by.
    pub cli_session_id: CliSessionId,
    /// Its options.
    pub options: Options,
    /// What it has come to beyond them.
    pub acquired: Acquired,
    /// When it was made. Kept to the millisecond, as all times here.
    pub create_time: SystemTime,
    /// When a turn last began or ended.
    pub last_used_time: SystemTime,
    /// How old it is, by a clock that nobody sets.
    pub age: Duration,
    /// For how long no turn has begun or ended, likewise.
    pub unused_for: Duration,
    /// Prompts sent to the CLI.
    pub message_count: u64,
    /// Turns and connects that failed.
    pub error_count: u64,
    /// Cost and tokens.
    pub spent: Spent,
    /// US dollars that its process had reported when it was last heard.
    pub reported_cost_usd: f64,
    /// Whether the session is in the pool, with or without a process; if not, only its
    /// conversation is kept.
    pub in_pool: bool,
    /// The claim that the session was last under when this was read; not written.
    pub epoch: Epoch,
}

/// Which claim of a session a commit relies on: each is one more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub(super) i64);

impl Epoch {
    /// There is nothing yet to be claimed: the first commit makes it.
    pub const NONE: Self = Self(0);

    /// Whether nobody has claimed the session between `earlier` and this.
    pub fn follows(self, earlier: Self) -> bool {
        self.0 == earlier.0 + 1
    }

    /// What it is once something was committed in it.
    #[must_use]
    pub fn kept(self) -> Self {
        Self(self.0.max(1))
    }
}

/// A session that is in the pool and was not used for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Which.
    pub key: SessionKey,
    /// When it was last used, by the store's own clock.
    pub(super) used_ms: i64,
}

/// A line of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The conversation.
    pub conversation: CliSessionId,
    /// Empty for the conversation itself, else the file of one of its subagents, below
    /// the folder of the conversation's name.
    pub subpath: Arc<str>,
    /// The entry's own id, if it has one.
    pub uuid: Option<String>,
    /// The entry, as JSON without line ends.
    pub json: String,
}

/// Turns that are kept of a session, at most.
pub(super) const MOST_TURNS: usize = 256;

/// Bytes of their results together. The oldest give way; their names stay, so that they
/// are not run again.
pub(super) const MOST_TURN_BYTES: usize = 4 << 20;

/// What the result of a kept turn was for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptEnding {
    /// The turn came to its end.
    Complete,
    /// Something stopped it.
    Interrupted,
    /// It came to its end without the object that its schema asks for.
    Unstructured,
}

impl KeptEnding {
    /// As it stands in the database, where it was a truth value in earlier versions.
    pub fn to_number(self) -> i64 {
        match self {
            Self::Complete => 0,
            Self::Interrupted => 1,
            Self::Unstructured => 2,
        }
    }

    /// The ending of this number; `None` if there is none.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Complete, Self::Interrupted, Self::Unstructured]
            .into_iter()
            .find(|ending| ending.to_number() == number)
    }
}

/// A turn that its caller named, and what the caller was told in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTurn {
    /// Its name.
    pub turn_id: TurnId,
    /// The process that it ran on.
    pub client_id: ClientId,
    /// The conversation that it belongs to.
    pub cli_session_id: CliSessionId,
    /// When it began. Kept to the millisecond, as all times here.
    pub start_time: SystemTime,
    /// When it ended.
    pub end_time: SystemTime,
    /// Until when it is kept.
    pub expire_time: SystemTime,
    /// What its result was for its caller.
    pub ending: KeptEnding,
    /// The CLI's result, as JSON; empty where it had to give way to newer ones.
    pub result: Arc<str>,
}

/// What a turn leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// Whose it is.
    pub key: SessionKey,
    /// The claim that it relies on.
    pub epoch: Epoch,
    /// Whether the session is given back with it.
    pub releases: bool,
    /// The session's record from now on.
    pub record: Record,
    /// The turn, if its caller named it.
    pub turn: Option<KeptTurn>,
    /// What was added to its transcripts.
    pub lines: Arc<Vec<Line>>,
    /// What its tenant has counted so far in this life of the service.
    pub totals: Totals,
}
