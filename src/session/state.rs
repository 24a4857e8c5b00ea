//! What a session does, as values: a phase owns what exists only while it lasts, and
//! hands on the rest. Nothing is decided here.

use tokio::sync::oneshot;

use super::{
    command::{CloseReason, HibernateReason, Refusal},
    process::Process,
    queue::Waiting,
    running::Running,
    steers::Steer,
    stop::{Stop, StopFor},
    work_stops::WorkStop,
};
use crate::{domain::decision::Decision, turn::log::TurnLog};

/// A turn that runs, and its process.
#[derive(Debug)]
pub struct Active {
    /// The process.
    pub process: Box<Process>,
    /// The turn.
    pub turn: Running,
}

/// What a session does, with all that exists only while it does it.
#[derive(Debug)]
pub enum Phase {
    /// It has no process.
    Detached,
    /// It waits for one.
    Connecting(Box<Waiting>),
    /// It has one that does nothing.
    Idle(Box<Process>),
    /// A turn runs.
    Active(Active),
    /// A turn is being stopped.
    Interrupting(Active, Stop),
    /// A turn has its result, and the CLI is about to be idle.
    Settling(Box<Process>),
    /// It ends.
    Closing(Option<Box<Process>>, CloseReason),
}

impl Phase {
    /// The process that there is in it.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Detached | Self::Connecting(_) => None,
            Self::Idle(process) | Self::Settling(process) => Some(process),
            Self::Active(active) | Self::Interrupting(active, _) => Some(&active.process),
            Self::Closing(process, _) => process.as_deref(),
        }
    }

    /// The turn that runs in it, or is about to.
    pub fn turn(&self) -> Option<&TurnLog> {
        match self {
            Self::Connecting(turn) => Some(&turn.log),
            Self::Active(active) | Self::Interrupting(active, _) => Some(&active.turn.log),
            Self::Detached | Self::Idle(_) | Self::Settling(_) | Self::Closing(..) => None,
        }
    }
}

/// What a phase has to do about a command that the session has taken.
#[derive(Debug)]
pub enum Disposition {
    /// Nothing.
    Done,
    /// Stop the turn.
    Stop(StopFor),
    /// End the session. Who asked for that is told when it is gone.
    Leave(CloseReason),
    /// Let the process go, which has nothing to do.
    Hibernate(HibernateReason, oneshot::Sender<bool>),
    /// Hand a message to the turn that runs.
    Steer(Box<Steer>),
    /// Stop what works behind the turns.
    StopWork(WorkStop),
    /// Answer a prompt of the CLI.
    Respond(String, Decision, oneshot::Sender<Result<(), Refusal>>),
}

/// Why a session has no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachReason {
    /// None has served it in this life of the service.
    NeverThere,
    /// It ended, or was ended, without a word.
    Lost,
    /// It was let go, in this life or an earlier one: the next turn resumes.
    Hibernated,
}
