//! What a session shows of itself: plain data, published at every change of phase, so
//! that whoever lists sessions never has to ask their tasks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::open_prompts::ShownPrompt;
pub use crate::cli::background::BackgroundWork;
use crate::{
    counters::Spent,
    domain::{
        acquired::Acquired,
        ids::{CliSessionId, ClientId, SessionId, TurnId},
        options::Options,
    },
    store::Record,
};

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
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
    /// Its process was let go; the next turn resumes it.
    Hibernated,
    /// Its last connect failed.
    Error,
    /// Older than its time to live.
    Expired,
}

/// A turn that waits, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedTurn {
    /// Which.
    pub id: TurnId,
    /// When it was asked for.
    pub since: Instant,
}

/// A snapshot of a session.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its id.
    pub session_id: SessionId,
    /// What it is doing; see [`Self::condition_at`] for one that may have expired.
    pub condition: SessionState,
    /// Its process's life.
    pub client_id: Option<ClientId>,
    /// Its process's id.
    pub process_id: Option<u32>,
    /// Its conversation.
    pub cli_session_id: CliSessionId,
    /// The running turn.
    pub running: Option<TurnId>,
    /// What of its prompts waits for an answer.
    pub open_prompts: Vec<ShownPrompt>,
    /// What works behind the turns of its process.
    pub work: Arc<BackgroundWork>,
    /// Turns that wait.
    pub queued: usize,
    /// The first of them.
    pub queue: Arc<[QueuedTurn]>,
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
    /// The options that were asked for.
    pub options: Arc<Options>,
    /// What it has come to beyond them.
    pub acquired: Arc<Acquired>,
    /// Whether its process has nothing to do and could be let go.
    pub can_hibernate: bool,
    /// Whether there is more of it here than what the store has.
    pub is_loaded: bool,
    /// Whether the store has it in the pool.
    pub is_stored: bool,
    /// How often it has been published before: it grows with every publication.
    pub generation: u64,
}

impl Status {
    /// A session that is about to be.
    pub fn new(session_id: SessionId, cli_session_id: CliSessionId, options: Options) -> Self {
        let now = Instant::now();
        Self {
            session_id,
            condition: SessionState::Idle,
            client_id: None,
            process_id: None,
            cli_session_id,
            running: None,
            open_prompts: Vec::new(),
            work: Arc::default(),
            queued: 0,
            queue: Arc::default(),
            created_at: now,
            create_time: SystemTime::now(),
            last_used_at: now,
            message_count: 0,
            error_count: 0,
            last_error: None,
            spent: Spent::default(),
            options: Arc::new(options),
            acquired: Arc::default(),
            can_hibernate: false,
            is_loaded: true,
            is_stored: false,
            generation: 0,
        }
    }

    /// A session of which there is nothing but what is kept.
    pub fn unloaded(session_id: SessionId, record: Record) -> Self {
        let mut status = Self::new(session_id, record.cli_session_id, Options::default());
        status.recall(record);
        status.condition = SessionState::Hibernated;
        status.is_loaded = false;
        status
    }

    /// Takes over what is known of an earlier life of the session.
    pub fn recall(&mut self, record: Record) {
        let Record {
            cli_session_id,
            options,
            acquired,
            create_time,
            last_used_time: _,
            age,
            unused_for,
            message_count,
            error_count,
            spent,
            reported_cost_usd: _,
            in_pool,
            epoch: _,
        } = record;
        self.cli_session_id = cli_session_id;
        self.options = Arc::new(options);
        self.acquired = Arc::new(acquired);
        self.spent = spent;
        self.is_stored = in_pool;
        // One that left the pool comes back as a new one, except for its conversation.
        if in_pool {
            self.create_time = create_time;
            self.created_at = ago(age);
            self.last_used_at = ago(unused_for);
            self.message_count = message_count;
            self.error_count = error_count;
        }
    }

    /// Whether a turn runs or waits.
    pub fn is_busy(&self) -> bool {
        self.running.is_some() || self.queued > 0
    }

    /// Whether it does anything: a turn runs or waits, or something works behind its turns.
    pub fn is_at_work(&self) -> bool {
        self.is_busy() || !self.work.is_empty()
    }

    /// Time since it was made.
    pub fn age(&self) -> Duration {
        self.created_at.elapsed()
    }

    /// Time since it was last used; none while it is at work.
    pub fn idle_time(&self) -> Duration {
        if self.is_at_work() { Duration::ZERO } else { self.last_used_at.elapsed() }
    }

    /// What it is doing, seen by a clock that knows its time to live.
    pub fn condition_at(&self, session_ttl: Duration) -> SessionState {
        if !self.is_at_work() && self.age() >= session_ttl {
            return SessionState::Expired;
        }
        self.condition
    }
}

/// So long ago.
fn ago(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(time).unwrap_or(now)
}
