//! What a session can be asked, and what it answers.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};
use tracing::Span;

use crate::{
    budget::Reservation,
    cli::background::Task,
    domain::{
        decision::Decision,
        failure::{Cause, Failure},
        ids::{CliSessionId, TurnId},
        input::Input,
        options::Options,
    },
    traces::Trace,
    turn::{event::Partials, listener::Listener},
};

pub use super::policies::{
    BackgroundPolicy, BusyPolicy, DisconnectPolicy, InterruptTarget, MismatchPolicy,
};

/// Why a session did not take a command.
#[derive(Debug)]
pub enum Refusal {
    /// It is ending; wait for [`SessionHandle::ended`] and ask a new one.
    ///
    /// [`SessionHandle::ended`]: super::SessionHandle::ended
    Closed,
    /// It says why.
    Failed(Failure),
}

impl<T: Into<Failure>> From<T> for Refusal {
    fn from(failure: T) -> Self {
        Self::Failed(failure.into())
    }
}

/// A conversation to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeFrom {
    /// Its id.
    pub id: CliSessionId,
    /// Whether to work on a copy.
    pub fork: bool,
}

/// Asks for a turn. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// The caller's name for it.
    pub turn_id: Option<TurnId>,
    /// What is asked.
    pub input: Arc<Input>,
    /// Options, as far as they are said.
    pub options: Options,
    /// Where a new session's conversation comes from.
    pub resume: Option<ResumeFrom>,
    /// Whether the conversation so far is to be left behind.
    pub new_conversation: bool,
    /// While another turn runs.
    pub on_busy: BusyPolicy,
    /// When its last listener leaves.
    pub on_disconnect: DisconnectPolicy,
    /// What becomes of what it leaves behind in the background.
    pub on_background: BackgroundPolicy,
    /// When options cannot be applied.
    pub on_mismatch: MismatchPolicy,
    /// Whether the caller sees partial messages.
    pub partials: Partials,
    /// When the caller asked.
    pub asked_at: Instant,
    /// Until when it waits for an answer.
    pub deadline: Option<Instant>,
    /// The call that asks for it, in the log.
    pub span: Span,
    /// The same in its trace.
    pub trace: Trace,
    /// What it claims of the memory until the CLI has read it.
    pub held: Option<Arc<Reservation>>,
}

impl TurnRequest {
    /// Until when it waits for a process; `None` is as long as anybody may.
    pub fn patience(&self) -> Option<Instant> {
        // Without a caller it goes on all the same.
        self.deadline.filter(|_| self.on_disconnect == DisconnectPolicy::Interrupt)
    }
}

/// How an interrupt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptOutcome {
    /// The CLI stopped the turn.
    Interrupted,
    /// No turn was running.
    NoActiveTurn,
    /// The process had to be ended.
    Terminated,
    /// The turn ended by itself first.
    TurnEnded,
}

impl InterruptOutcome {
    /// In a word, for figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::NoActiveTurn => "no_active_turn",
            Self::Terminated => "terminated",
            Self::TurnEnded => "turn_ended",
        }
    }
}

/// What became of an interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterruptReport {
    /// How it ended.
    pub outcome: InterruptOutcome,
    /// Whether a turn was running.
    pub had_active_turn: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// What worked behind the turns and was stopped with it.
    pub stopped: Vec<Arc<Task>>,
    /// What still works there.
    pub still_running: Vec<Arc<Task>>,
}

impl InterruptReport {
    /// One that concerns the turn alone.
    pub const fn of_turn(
        outcome: InterruptOutcome,
        had_active_turn: bool,
        elapsed: Duration,
    ) -> Self {
        Self { outcome, had_active_turn, elapsed, stopped: Vec::new(), still_running: Vec::new() }
    }

    /// The same where the process ends, and with it all that works in it.
    #[must_use]
    pub fn with_all_stopped(mut self) -> Self {
        self.stopped.append(&mut self.still_running);
        self
    }

    /// Whether the turn, if any, stopped without its process having to be ended.
    pub fn interrupted(&self) -> bool {
        self.outcome != InterruptOutcome::Terminated
    }
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// A caller closed it.
    Requested {
        /// The conversation goes too.
        forget: bool,
    },
    /// A caller interrupted it without keeping it.
    Interrupted,
    /// It had no name and its turn is over.
    Ephemeral,
    /// It could not be connected.
    ConnectFailed,
    /// Older than its time to live, found by the cleanup. Leaves a busy session alone.
    Expired,
    /// Idle for too long, found by the cleanup. Leaves a busy session alone.
    Idle,
    /// Without a process or in error, found by the cleanup. Leaves a busy session alone.
    Broken,
    /// Its conversation was not used for so long that it is forgotten. Leaves a busy session alone.
    Unused,
    /// Its turn went on for too long and could not be stopped.
    Stuck,
    /// The service stops.
    Shutdown,
    /// The service stops, and another one goes on with it. Lets a turn that runs end first.
    HandOver,
    /// It has no process and nobody asks for it: it stays in the pool without a task.
    Unloaded,
    /// Another service has taken it over: nothing of it is kept here any more.
    Moved,
}

impl CloseReason {
    /// Whether a session with a turn or a waiting turn goes on.
    pub fn skips_busy(&self) -> bool {
        matches!(self, Self::Expired | Self::Idle | Self::Broken | Self::Unused)
    }

    /// Whether the session stays in the pool, or is there again when the service starts
    /// again.
    pub fn keeps_place(&self) -> bool {
        matches!(self, Self::Shutdown | Self::HandOver | Self::Unloaded | Self::Moved)
    }

    /// Whether the conversation goes too.
    pub fn forgets(&self) -> bool {
        matches!(self, Self::Requested { forget: true } | Self::Ephemeral | Self::Unused)
    }

    /// Which of two reasons counts: who wants it forgotten wants more than it to end.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        let wants_more = self == Self::HandOver && !later.keeps_place();
        if wants_more || later.forgets() && !self.forgets() { later } else { self }
    }

    /// What its turns are told.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Shutdown | Self::HandOver => Cause::ShuttingDown,
            Self::Moved => Cause::moved(""),
            Self::Requested { .. }
            | Self::Unloaded
            | Self::Interrupted
            | Self::Ephemeral
            | Self::ConnectFailed
            | Self::Expired
            | Self::Idle
            | Self::Unused
            | Self::Broken
            | Self::Stuck => Cause::TurnInterrupted,
        }
    }
}

/// What became of a close.
#[derive(Debug, Clone, PartialEq)]
pub struct CloseReport {
    /// Whether the session ended.
    pub closed: bool,
    /// Whether a turn was running.
    pub had_active_turn: bool,
    /// Why the conversation is still there, where it was to be forgotten.
    pub not_forgotten: Option<Cause>,
}

/// Why a process is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HibernateReason {
    /// Nobody has used it for `pool.hibernate_after`.
    Idle,
    /// Another session needs its place.
    Pressure,
    /// A tenant that holds fewer has waited for its place for too long. What works in its
    /// background ends with it.
    Fairness,
}

/// What an update changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateReport {
    /// Names of the options that changed.
    pub changed: Vec<&'static str>,
}

/// What a session can be asked.
pub enum Command {
    /// Run a turn.
    Run {
        /// Which.
        request: Box<TurnRequest>,
        /// The place to listen.
        reply: oneshot::Sender<Result<Listener, Refusal>>,
    },
    /// Join a turn.
    Attach {
        /// Which; `None`: the running one, else the last.
        turn: Option<TurnId>,
        /// From which sequence on.
        from: u64,
        /// Whether the caller sees partial messages.
        partials: Partials,
        /// The place to listen.
        reply: oneshot::Sender<Result<Listener, Refusal>>,
    },
    /// Answer a prompt.
    Respond {
        /// Which.
        prompt_id: String,
        /// The answer.
        decision: Decision,
        /// Whether it was waited for.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Change options.
    Update {
        /// Those that are said.
        options: Box<Options>,
        /// What changed.
        reply: oneshot::Sender<Result<UpdateReport, Refusal>>,
    },
    /// Stop a turn.
    Interrupt {
        /// What.
        target: InterruptTarget,
        /// Whether the session stays; it does in any case where one turn is named.
        keep_session: bool,
        /// What became of it.
        reply: oneshot::Sender<InterruptReport>,
    },
    /// Stop a task that works behind the turns.
    StopTask {
        /// Which.
        task_id: String,
        /// Told when it has ended.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Let the process go.
    Hibernate {
        /// Why.
        why: HibernateReason,
        /// Whether it is gone.
        reply: oneshot::Sender<bool>,
    },
    /// End the session.
    Close {
        /// Why.
        reason: CloseReason,
        /// What became of it.
        reply: oneshot::Sender<CloseReport>,
    },
}

impl Command {
    /// Refuses it. Those who close or interrupt a session, or want its process, are told by
    /// the end of the session, and ask the one that comes after it.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Self::Run { reply, .. } | Self::Attach { reply, .. } => {
                reply.send(Err(refusal)).ok();
            }
            Self::Respond { reply, .. } | Self::StopTask { reply, .. } => {
                reply.send(Err(refusal)).ok();
            }
            Self::Update { reply, .. } => {
                reply.send(Err(refusal)).ok();
            }
            Self::Interrupt { .. } | Self::Hibernate { .. } | Self::Close { .. } => {}
        }
    }
}

impl fmt::Debug for Command {
    /// Prompts are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run { .. } => "Run(..)",
            Self::Attach { .. } => "Attach(..)",
            Self::Respond { .. } => "Respond(..)",
            Self::Update { .. } => "Update(..)",
            Self::Interrupt { .. } => "Interrupt(..)",
            Self::StopTask { .. } => "StopTask(..)",
            Self::Hibernate { .. } => "Hibernate(..)",
            Self::Close { .. } => "Close(..)",
        })
    }
}
