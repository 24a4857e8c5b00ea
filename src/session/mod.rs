//! One session's life. A task owns everything of a session: its process, its queue,
//! its timers. Others hold a [`SessionHandle`], which sends it commands, and read the
//! [`status::Status`] that it publishes. Knows `supply`, `cli`, `turn` and `store`;
//! nothing of gRPC or of other sessions.
//!
//! ```text
//!             Run                connected               prompt sent
//!  Detached ───────▶ Connecting ───────────▶ Idle ◀──────────────────────┐
//!     ▲                  │ failed              │ Run, or the CLI begins   │ idle event
//!     │                  ▼                     ▼                          │
//!     │               Closing ◀── Close ──── Active ──── result ──▶ Settling
//!     │                  ▲                     │ interrupt, timeout,      ▲
//!     │                  │ leave               ▼ disconnect               │
//!     └── process gone ──┴─────────────── Interrupting ──── result ───────┘
//!         or let go
//! ```
//!
//! Each phase is one function that takes what exists only in that phase by value and
//! returns the next; its `select!` lists what can happen there. Whether a command is
//! taken in a phase is decided by [`admission`], a pure table.
//!
//! Races, and how they end:
//! - A command that reaches a closing session is refused with [`Refusal::Closed`]; the
//!   pool waits for the session's end and asks a new one.
//! - An interrupt and the natural end of a turn: whichever frame comes first names the
//!   outcome. An interrupt that a CLI version loses is repeated until the turn ends.
//! - A listener that leaves and a result: a turn that has ended is not interrupted.
//! - A commit and everything else: one is under way at a time, in every phase (`commits`).
//!   A turn whose result is not kept yet has ended for an interrupt, but not for its
//!   callers, and the next turn waits for it.
//! - A prompt and the death of its process: one that no frame answered runs on another
//!   process (`beginning`).

mod active;
pub mod admission;
mod background;
mod beginning;
mod closing;
pub mod command;
mod commits;
mod connecting;
mod detached;
mod ended;
mod idle;
mod intake;
mod interrupting;
mod keeping;
mod mishap;
mod open_prompts;
mod ownership;
mod permissions;
mod phase;
mod resting;
mod running;
mod said;
mod spending;
pub mod status;
mod task;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, oneshot, watch};

pub use closing::{forgotten_too_late, longest_forgetting};
pub use command::{
    BusyPolicy, CloseReason, CloseReport, Decision, DisconnectPolicy, InterruptOutcome,
    InterruptReport, MismatchPolicy, TurnRequest, UpdateReport,
};
pub use keeping::failed as store_failed;
pub use resting::LetGo;
pub use task::{Farewell, SessionTask, Settings, Surroundings};

use crate::{
    cli::options::Options,
    failure::Failure,
    ids::TurnId,
    turn::listener::{Listener, Partials},
};
use command::Command;
use status::Status;

/// Commands that may wait for a session's task.
const MAILBOX: usize = 64;

/// Why a session did not take a command.
#[derive(Debug)]
pub enum Refusal {
    /// It is ending; wait for [`SessionHandle::ended`] and ask a new one.
    Closed,
    /// It says why.
    Failed(Failure),
}

impl<T: Into<Failure>> From<T> for Refusal {
    fn from(failure: T) -> Self {
        Self::Failed(failure.into())
    }
}

/// The way to a session's task. Cloning gives another handle to the same session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl SessionHandle {
    /// A handle and the ends that the task keeps.
    pub(crate) fn new(status: Status) -> (Self, mpsc::Receiver<Command>, watch::Sender<Status>) {
        let (commands, inbox) = mpsc::channel(MAILBOX);
        let (publisher, status) = watch::channel(status);
        (Self { commands, status }, inbox, publisher)
    }

    /// What the session is doing.
    pub fn status(&self) -> watch::Ref<'_, Status> {
        self.status.borrow()
    }

    /// Waits until the session's task has ended.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Asks for a turn. The listener sees the turn from its first event on.
    pub async fn run(&self, request: TurnRequest) -> Result<Listener, Refusal> {
        self.ask(|reply| Command::Run { request: Box::new(request), reply }).await?
    }

    /// Joins a turn; `None` is the running one, else the last.
    pub async fn attach(
        &self,
        turn: Option<TurnId>,
        from: u64,
        partials: Partials,
    ) -> Result<Listener, Refusal> {
        self.ask(|reply| Command::Attach { turn, from, partials, reply }).await?
    }

    /// Answers a prompt of the CLI.
    pub async fn respond(&self, prompt_id: String, decision: Decision) -> Result<(), Refusal> {
        self.ask(|reply| Command::Respond { prompt_id, decision, reply }).await?
    }

    /// Changes options.
    pub async fn update(&self, options: Options) -> Result<UpdateReport, Refusal> {
        self.ask(|reply| Command::Update { options: Box::new(options), reply }).await?
    }

    /// Stops the running turn.
    pub async fn interrupt(&self, keep_session: bool) -> Result<InterruptReport, Refusal> {
        self.ask(|reply| Command::Interrupt { keep_session, reply }).await
    }

    /// Lets the process go if it has nothing to do. Answered when it is gone; returns
    /// whether it is.
    pub async fn let_go(&self, why: LetGo) -> bool {
        self.ask(|reply| Command::LetGo { why, reply }).await.unwrap_or(false)
    }

    /// Ends the session. Answered when its process is gone and, for the reasons that
    /// spare a busy session, with `closed = false` when it goes on.
    pub async fn close(&self, reason: CloseReason) -> Result<CloseReport, Refusal> {
        self.ask(|reply| Command::Close { reason, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Refusal::Closed)?;
        answer.await.map_err(|_| Refusal::Closed)
    }
}
