//! Every way in which a request or a turn can fail, as data. Knows ids and exit
//! codes; says nothing of gRPC, whose statuses are made of these in one place
//! (`rpc::status`).

mod remedy;
mod words;

use std::{fmt, path::PathBuf, time::Duration};

use crate::domain::{
    exit::{Exit, Overrun, Resource},
    ids::{CliSessionId, ClientId, SessionId, TurnId},
};

pub use remedy::Remedy;
use words::{mismatch, too_much, waits_for};

/// What went wrong. Its text is the message of the error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Cause {
    /// `pool.enabled` is false.
    #[error("the session pool is disabled (pool.enabled = false)")]
    PoolDisabled,
    /// The pool has as many sessions as it may have.
    #[error("session pool at capacity: {limit} (pool.max_sessions)")]
    PoolAtCapacity {
        /// `pool.max_sessions`.
        limit: usize,
    },
    /// No process could be had in time.
    #[error(
        "no CLI process became available within {waited:?} (limit {limit}, pool.max_processes)"
    )]
    NoProcess {
        /// `pool.max_processes`.
        limit: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// A quota of the tenant is used up.
    #[error("the tenant has used all that it may: {limit} ({key})")]
    TenantQuota {
        /// The key that sets it.
        key: &'static str,
        /// Its value.
        limit: String,
        /// When to try again.
        retry: Duration,
    },
    /// A budget of memory is used up.
    #[error(
        "no memory is left for the request: prompts, turns and requests hold {limit} bytes ({key})"
    )]
    MemoryBudget {
        /// The key that sets it.
        key: &'static str,
        /// Its value, in bytes.
        limit: u64,
    },
    /// Too many turns wait for the session.
    #[error("{limit} turns wait for the session already (pool.max_queued_turns)")]
    QueueFull {
        /// `pool.max_queued_turns`.
        limit: usize,
    },
    /// Too many listen to the turn, or follow the session.
    #[error("{limit} callers listen already")]
    TooManyListeners {
        /// How many may.
        limit: usize,
    },
    /// A turn is running and the caller does not want to wait.
    #[error("the session is running a turn")]
    SessionBusy,
    /// Options that a living session cannot take on.
    #[error("{}", mismatch(options, *remedy, detail.as_ref()))]
    OptionsMismatch {
        /// Their names.
        options: Vec<String>,
        /// What makes them hold.
        remedy: Remedy,
        /// What the CLI said, if it was asked.
        detail: Option<String>,
    },
    /// Options that were taken before are not allowed any more.
    #[error("{field}: not allowed any more by the server's policy; allowed: {allowed}")]
    NotAllowed {
        /// The fields.
        field: String,
        /// What is allowed, in words.
        allowed: String,
    },
    /// A conversation to start from is not there.
    #[error("options.resume: no conversation {resume}")]
    ConversationNotFound {
        /// Its id.
        resume: String,
    },
    /// The session has spent its budget.
    #[error(
        "the session has spent {spent} of {limit} US dollars (options.max_budget_usd); \
         UpdateSession can raise the budget"
    )]
    BudgetExhausted {
        /// `options.max_budget_usd`.
        limit: f64,
        /// What it has spent, in US dollars.
        spent: f64,
    },
    /// A conversation that another session of the tenant has.
    #[error(
        "conversation {conversation} belongs to session {owner:?}; ask that session, or take \
         up a copy (options.fork_session)"
    )]
    SessionConflict {
        /// The conversation.
        conversation: CliSessionId,
        /// The session that has it.
        owner: SessionId,
    },
    /// Another service has taken the session over.
    #[error("another service has taken the session over: send the call again")]
    SessionMoved {
        /// Which; empty if it is not known.
        owner: String,
        /// Whether a tool may have run in the turn that was stopped; `None` if that is not known,
        /// or no turn was.
        tool_use_seen: Option<bool>,
    },
    /// No such session.
    #[error("no such session")]
    SessionNotFound,
    /// No such turn, or none any more.
    #[error("no such turn, or it is not kept any more")]
    TurnNotFound,
    /// No task with this id works behind the turns.
    #[error("no task works in the background by the id {task_id:?}")]
    TaskNotFound {
        /// The id.
        task_id: String,
    },
    /// What a turn has begun in the background goes on for longer than its caller may wait.
    #[error("the background work of the turn has not ended in {limit:?} (pool.background_timeout)")]
    BackgroundTimeout {
        /// `pool.background_timeout`.
        limit: Duration,
    },
    /// Nothing of that id waits for an answer.
    #[error("no prompt {prompt_id:?} waits for an answer")]
    PromptNotFound {
        /// The id.
        prompt_id: String,
    },
    /// An answer does not fit its prompt.
    #[error("{field} {problem}")]
    InvalidAnswer {
        /// The field of the answer.
        field: String,
        /// What it must be.
        problem: String,
    },
    /// No executable where the configuration says.
    #[error("no executable at {} (cli.path): {detail}", path.display())]
    CliNotFound {
        /// `cli.path`.
        path: PathBuf,
        /// What the system says of it.
        detail: String,
    },
    /// The CLI could not be started, exited, or did not answer.
    #[error("failed to establish a session connection: {detail}")]
    ConnectFailed {
        /// What happened, in words.
        detail: String,
        /// How it exited, if it did.
        exit: Option<Exit>,
        /// The end of its stderr.
        stderr_tail: String,
    },
    /// No first frame in time.
    #[error(
        "the CLI said nothing for {limit:?} after the prompt (pool.stream_first_chunk_timeout){}",
        waits_for(mcp_servers)
    )]
    FirstChunkTimeout {
        /// `pool.stream_first_chunk_timeout`.
        limit: Duration,
        /// The session's MCP servers, which the CLI waits for before it begins.
        mcp_servers: Vec<String>,
    },
    /// The API does not take the credentials of the CLI.
    #[error("the Messages API does not take the credentials of the CLI (cli.env, options.env)")]
    CredentialsRefused {
        /// Whether a tool may have run before that.
        tool_use_seen: bool,
    },
    /// No frame for too long.
    #[error("the CLI said nothing for {limit:?} (pool.stream_stall_timeout)")]
    StreamStalled {
        /// `pool.stream_stall_timeout`.
        limit: Duration,
    },
    /// Ended by an interrupt, without a result.
    #[error("the turn was interrupted")]
    TurnInterrupted,
    /// The process died in the turn.
    #[error("the CLI ended in mid-turn with {exit}")]
    CliExited {
        /// How.
        exit: Exit,
        /// The end of its stderr.
        stderr_tail: String,
        /// Whether a tool may have run.
        tool_use_seen: bool,
    },
    /// The processes of the session held too much, or were too many, and were ended.
    #[error("{}", too_much(overrun))]
    HoldsTooMuch {
        /// Too much of what.
        overrun: Overrun,
        /// Whether a tool may have run.
        tool_use_seen: bool,
    },
    /// A frame is too long.
    #[error("the CLI printed a frame of more than {limit} bytes (cli.max_frame_bytes)")]
    FrameTooLarge {
        /// `cli.max_frame_bytes`.
        limit: usize,
    },
    /// The CLI printed what is not its protocol.
    #[error("the CLI broke its protocol: {detail}")]
    Protocol {
        /// What, in words.
        detail: String,
    },
    /// A listener fell behind everything that the log may keep.
    #[error(
        "the listener fell behind what is kept of the turn, which begins at sequence {first_kept} \
         ({bound})"
    )]
    ListenerTooSlow {
        /// The first sequence that is still kept.
        first_kept: u64,
        /// The key of the bound for which events went.
        bound: &'static str,
    },
    /// A sequence that is no longer kept was asked for.
    #[error("from_sequence: what is kept of the turn begins at {first_kept}")]
    EventsExpired {
        /// The first sequence that is still kept.
        first_kept: u64,
    },
    /// A place in what is kept of a session that is not kept any more.
    #[error("cursor: what it stands before is not kept any more; the first that is: {first_kept}")]
    CursorExpired {
        /// The cursor before the first event behind it that is kept.
        first_kept: String,
    },
    /// The store cannot keep or give what it should just now.
    #[error("{detail}")]
    StoreUnavailable {
        /// Why, in words.
        detail: String,
    },
    /// The service is stopping.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The service is stopping, and has ended a turn that had begun.
    #[error("the service is shutting down, and could not wait for the turn")]
    EndedByShutdown {
        /// Whether a tool may have run.
        tool_use_seen: bool,
    },
    /// The service could not do its own part.
    #[error("{detail}")]
    Internal {
        /// What, in words.
        detail: String,
    },
}

impl Cause {
    /// A session that is another service's, whose name is not known or empty.
    pub fn moved(owner: impl Into<String>) -> Self {
        Self::SessionMoved { owner: owner.into(), tool_use_seen: None }
    }

    /// The same of a turn of the session: whether a tool may have run in it is known.
    #[must_use]
    pub fn in_turn(self, has_used_tools: bool) -> Self {
        match self {
            Self::SessionMoved { owner, tool_use_seen } => {
                let tool_use_seen = tool_use_seen.or(Some(has_used_tools));
                Self::SessionMoved { owner, tool_use_seen }
            }
            other => other,
        }
    }

    /// Whether a tool may have run in a turn that had begun, where that is known.
    pub fn tool_use_seen(&self) -> Option<bool> {
        match self {
            Self::CliExited { tool_use_seen, .. }
            | Self::HoldsTooMuch { tool_use_seen, .. }
            | Self::CredentialsRefused { tool_use_seen }
            | Self::EndedByShutdown { tool_use_seen } => Some(*tool_use_seen),
            Self::SessionMoved { tool_use_seen, .. } => *tool_use_seen,
            _ => None,
        }
    }

    /// Its reason, as the contract's `ErrorReason` calls it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PoolDisabled => "POOL_DISABLED",
            Self::PoolAtCapacity { .. } | Self::NoProcess { .. } => "POOL_AT_CAPACITY",
            Self::TenantQuota { .. } => "TENANT_QUOTA_EXCEEDED",
            Self::MemoryBudget { .. } => "MEMORY_BUDGET_EXCEEDED",
            Self::QueueFull { .. } | Self::TooManyListeners { .. } => "QUEUE_FULL",
            Self::SessionBusy => "SESSION_BUSY",
            Self::OptionsMismatch { .. } => "OPTIONS_MISMATCH",
            Self::NotAllowed { .. } => "POLICY_DENIED",
            Self::ConversationNotFound { .. } => "INVALID_ARGUMENT",
            Self::BudgetExhausted { .. } => "BUDGET_EXHAUSTED",
            Self::SessionConflict { .. } => "SESSION_CONFLICT",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::TurnNotFound => "TURN_NOT_FOUND",
            Self::PromptNotFound { .. } => "PROMPT_NOT_FOUND",
            Self::TaskNotFound { .. } => "TASK_NOT_FOUND",
            Self::BackgroundTimeout { .. } => "BACKGROUND_TIMEOUT",
            Self::InvalidAnswer { .. } => "INVALID_ARGUMENT",
            Self::CliNotFound { .. } => "CLI_NOT_FOUND",
            Self::ConnectFailed { .. } => "CONNECT_FAILED",
            Self::FirstChunkTimeout { .. } => "FIRST_CHUNK_TIMEOUT",
            Self::CredentialsRefused { .. } => "CREDENTIALS_REFUSED",
            Self::SessionMoved { .. } => "SESSION_MOVED",
            Self::StreamStalled { .. } => "STREAM_STALLED",
            Self::TurnInterrupted => "TURN_INTERRUPTED",
            Self::CliExited { .. } => "CLI_EXITED",
            Self::HoldsTooMuch { overrun, .. } => match overrun.resource {
                Resource::Memory => "MEMORY_LIMIT",
                Resource::Processes | Resource::Tasks => "TASK_LIMIT_EXCEEDED",
                Resource::Workspace => "WORKSPACE_LIMIT_EXCEEDED",
            },
            Self::FrameTooLarge { .. } => "FRAME_TOO_LARGE",
            Self::Protocol { .. } => "PROTOCOL_ERROR",
            Self::ListenerTooSlow { .. } => "LISTENER_TOO_SLOW",
            Self::EventsExpired { .. } | Self::CursorExpired { .. } => "EVENTS_EXPIRED",
            Self::ShuttingDown | Self::EndedByShutdown { .. } => "SHUTTING_DOWN",
            Self::StoreUnavailable { .. } => "STORE_UNAVAILABLE",
            Self::Internal { .. } => "INTERNAL",
        }
    }
}

/// A failure and whom it concerns.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What went wrong.
    pub cause: Cause,
    /// The session, where there is one.
    pub session_id: Option<SessionId>,
    /// The turn, where there is one.
    pub turn_id: Option<TurnId>,
    /// The process, where there was one.
    pub client_id: Option<ClientId>,
}

impl Failure {
    /// With whom it concerns as far as they are not known yet.
    #[must_use]
    pub fn concerning(mut self, session: Option<&SessionId>, turn: Option<&TurnId>) -> Self {
        self.session_id = self.session_id.or_else(|| session.cloned());
        self.turn_id = self.turn_id.or_else(|| turn.cloned());
        self
    }

    /// With the process that it happened on.
    #[must_use]
    pub fn on_client(mut self, client: ClientId) -> Self {
        self.client_id.get_or_insert(client);
        self
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, session_id: None, turn_id: None, client_id: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Failure {}
