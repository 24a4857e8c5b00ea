//! What works behind the turns and is being stopped, as values. No behaviour is here.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::command::{InterruptReport, Refusal};
use crate::cli::background::Task;

/// What is to be stopped.
#[derive(Debug)]
pub enum WorkToStop {
    /// This task.
    Task(String),
    /// These tasks, as far as they still work.
    Tasks(Vec<String>),
    /// All tasks. No turn runs.
    All,
}

/// Who is told when it has stopped.
#[derive(Debug)]
pub enum StopReply {
    /// Nobody.
    Nobody,
    /// Who wants one task stopped.
    Task(oneshot::Sender<Result<(), Refusal>>),
    /// Who interrupts a session with all that works in it, and what they are told beside.
    Interrupt(oneshot::Sender<InterruptReport>, InterruptReport),
}

/// A wish to stop work.
#[derive(Debug)]
pub struct WorkStop {
    /// What.
    pub what: WorkToStop,
    /// Who is told.
    pub reply: StopReply,
}

/// A stop under way.
#[derive(Debug)]
pub struct Pending {
    /// What is to end.
    pub tasks: Vec<Arc<Task>>,
    /// Who is told.
    pub reply: StopReply,
    /// When the CLI was asked.
    pub began: Instant,
    /// When it has taken too long.
    pub deadline: Instant,
}

/// The stops of work of a process.
#[derive(Debug, Default)]
pub struct WorkStops {
    /// Those that go on.
    pub pending: Vec<Pending>,
}

impl WorkStops {
    /// When the first of them has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|stop| stop.deadline).min()
    }
}
