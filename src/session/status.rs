//! What a session shows of itself: plain data, published at every change of phase, so
//! that whoever lists sessions never has to ask their tasks.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{
    cli::options::Options,
    counters::Spent,
    ids::{CliSessionId, ClientId, SessionId, TurnId},
};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Made, not connected yet.
    Idle,
    /// Waits for its process.
    Connecting,
    /// Connected to a live process, with or without a turn.
    Active,
    /// Its turn is being stopped.
    Interrupting,
    /// Its process is gone.
    Disconnected,
    /// Its last connect failed.
    Error,
    /// Older than its time to live.
    Expired,
}

/// A picture of a session.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its id.
    pub session_id: SessionId,
    /// What it is doing; see [`Self::condition_at`] for one that may have expired.
    pub condition: Condition,
    /// Its process's life.
    pub client_id: Option<ClientId>,
    /// Its process's id.
    pub process_id: Option<u32>,
    /// Its conversation.
    pub cli_session_id: CliSessionId,
    /// The running turn.
    pub running: Option<TurnId>,
    /// Turns that wait.
    pub queued: usize,
    /// When it was made.
    pub created_at: Instant,
    /// The same, by the wall clock.
    pub create_time: SystemTime,
    /// When a turn last began or ended.
    pub last_used_at: Instant,
    /// Prompts sent to the CLI.
    pub message_count: u64,
    /// Turns and connects that failed.
    pub error_count: u64,
    /// The last of those failures.
    pub last_error: Option<String>,
    /// Cost and tokens.
    pub spent: Spent,
    /// The options in force.
    pub options: Options,
}

impl Status {
    /// A session that is about to be.
    pub fn new(session_id: SessionId, cli_session_id: CliSessionId, options: Options) -> Self {
        let now = Instant::now();
        Self {
            session_id,
            condition: Condition::Idle,
            client_id: None,
            process_id: None,
            cli_session_id,
            running: None,
            queued: 0,
            created_at: now,
            create_time: SystemTime::now(),
            last_used_at: now,
            message_count: 0,
            error_count: 0,
            last_error: None,
            spent: Spent::default(),
            options,
        }
    }

    /// Whether a turn runs or waits.
    pub fn is_busy(&self) -> bool {
        self.running.is_some() || self.queued > 0
    }

    /// Time since it was made.
    pub fn age(&self) -> Duration {
        self.created_at.elapsed()
    }

    /// Time since it was last used; none while it is busy.
    pub fn idle_time(&self) -> Duration {
        if self.is_busy() { Duration::ZERO } else { self.last_used_at.elapsed() }
    }

    /// What it is doing, seen by a clock that knows its time to live.
    pub fn condition_at(&self, session_ttl: Duration) -> Condition {
        if !self.is_busy() && self.age() >= session_ttl {
            return Condition::Expired;
        }
        self.condition
    }
}
