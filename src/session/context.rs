//! What every session is given: its configuration, and what it shares with the others.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::{
    store::Store, supply::Supply, tenant::Tenant, tools::ToolServers, traces::Traces,
    turn::storage::Storage,
};

/// What the configuration says about every session.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age at which a session is replaced.
    pub session_ttl: Duration,
    /// Whether a session whose process is gone is connected again.
    pub connection_recovery: bool,
    /// From the prompt to the first frame.
    pub first_chunk_timeout: Duration,
    /// Silence after which another caller may take the session.
    pub ongoing_timeout: Duration,
    /// Silence after which a turn is ended; `None` is never.
    pub stall_timeout: Option<Duration>,
    /// Age at which a turn is interrupted; `None` is never.
    pub stuck_threshold: Option<Duration>,
    /// Bound of an interrupt before the process is ended.
    pub interrupt_timeout: Duration,
    /// Turns that may wait.
    pub max_queued_turns: usize,
    /// How long an ended turn can be joined.
    pub turn_retention: Duration,
    /// How long the name of an ended turn, and its result, are kept.
    pub named_turn_retention: Duration,
    /// Idle time after which a process is let go; `None` is never.
    pub hibernate_after: Option<Duration>,
    /// How long what works behind a session's turns keeps its process; `None` is for ever.
    pub background_max_age: Option<Duration>,
    /// How long a Query that waits for what its turn has begun in the background waits.
    pub background_timeout: Duration,
    /// How long the store tries what it is asked while somebody else has it.
    pub commit_timeout: Duration,
    /// How long a prompt of the CLI waits for an answer; `None` is for ever.
    pub prompt_timeout: Option<Duration>,
    /// Whether CLIs are told of which trace their turns are.
    pub tells_trace: bool,
}

/// What sessions share.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// What the configuration says.
    pub settings: Arc<Settings>,
    /// Where processes come from.
    pub supply: Arc<dyn Supply>,
    /// What outlives sessions.
    pub store: Arc<dyn Store>,
    /// Told when a session's process has nothing to do and could be let go.
    pub hibernatable: Arc<Notify>,
    /// Whose session it is.
    pub tenant: Arc<Tenant>,
    /// Turns that run or wait.
    pub turns: TaskTracker,
    /// What the logs of all turns share.
    pub logs: Storage,
    /// The tools that callers serve.
    pub tools: ToolServers,
    /// Where traces begin that no call has begun.
    pub traces: Traces,
}
