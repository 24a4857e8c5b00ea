//! What a session does, as values: a phase owns what exists only while it lasts, and
//! hands on the rest. No behaviour is here.

use tokio::sync::oneshot;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    Decision, Refusal,
    active::Active,
    beginning::Again,
    command::{CloseReason, CloseReport, InterruptReport, TurnRequest, UpdateReport},
    interrupting::Stop,
    resting::LetGo,
};
use crate::{cli::options::Options, supply::Lease, tenant::Share, turn::log::TurnLog};

/// A turn that waits.
#[derive(Debug)]
pub struct Waiting {
    /// What was asked.
    pub request: TurnRequest,
    /// Its log, which its listeners hold already.
    pub log: TurnLog,
    /// Counted by whoever waits for turns to end.
    pub counted: TaskTrackerToken,
    /// What it has behind it, if a process died before it answered the prompt.
    pub again: Option<Again>,
    /// Its share of the tenant's queued turns, for as long as it waits for another.
    pub _queued: Share,
}

/// Changes of options that wait for the running turn to end.
#[derive(Debug)]
pub struct PendingUpdate {
    /// Those that are said.
    pub options: Options,
    /// What changed.
    pub reply: oneshot::Sender<Result<UpdateReport, Refusal>>,
}

/// What a session does, with all that exists only while it does it.
#[derive(Debug)]
pub enum Phase {
    /// It has no process.
    Detached,
    /// It waits for one.
    Connecting(Waiting),
    /// It has one that does nothing.
    Idle(Lease),
    /// A turn runs.
    Active(Active),
    /// A turn is being stopped.
    Interrupting(Active, Stop),
    /// A turn has its result, and the CLI is about to be idle.
    Settling(Lease),
    /// It ends.
    Closing(Option<Lease>, CloseReason),
}

/// What a phase has to do about a command after [`take`](super::task::SessionTask::take).
#[derive(Debug)]
pub enum Taken {
    /// Nothing.
    Done,
    /// Stop the running turn for the one that goes next.
    StopForNext,
    /// Interrupt the running turn.
    Interrupt(bool, oneshot::Sender<InterruptReport>),
    /// End the session.
    Close(CloseReason, oneshot::Sender<CloseReport>),
    /// Let the process go, which has nothing to do.
    LetGo(LetGo, oneshot::Sender<bool>),
    /// Answer a prompt of the CLI.
    Respond(String, Decision, oneshot::Sender<Result<(), Refusal>>),
}

/// Why a session has no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// None has served it in this life of the service.
    NeverThere,
    /// It ended, or was ended, without a word.
    Lost,
    /// It was let go, in this life or an earlier one: the next turn resumes.
    LetGo,
}
