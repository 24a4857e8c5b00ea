//! The way to a session from outside: one short method for each command.

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    command::{
        CloseReason, CloseReport, Command, HibernateReason, InterruptReport, InterruptTarget,
        Refusal, TurnRequest, UpdateReport,
    },
    status::Status,
};
use crate::{
    domain::{decision::Decision, ids::TurnId, options::Options},
    turn::{event::Partials, listener::Listener},
};

/// Commands that may wait for a session's task.
const MAILBOX: usize = 64;

/// The way to a session's task. Cloning gives another handle to the same session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl SessionHandle {
    /// A handle to a session that publishes this status, and what the session is asked.
    pub(super) fn new(status: watch::Receiver<Status>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(MAILBOX);
        (Self { commands, status }, inbox)
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

    /// Stops a turn, or whatever works in the session.
    pub async fn stop(
        &self,
        target: InterruptTarget,
        keep_session: bool,
    ) -> Result<InterruptReport, Refusal> {
        self.ask(|reply| Command::Interrupt { target, keep_session, reply }).await
    }

    /// Stops a task that works behind the turns. Answered when it has ended.
    pub async fn stop_task(&self, task_id: String) -> Result<(), Refusal> {
        self.ask(|reply| Command::StopTask { task_id, reply }).await?
    }

    /// Lets the process go if it has nothing to do. Answered when it is gone; returns
    /// whether it is.
    pub async fn hibernate(&self, why: HibernateReason) -> bool {
        self.ask(|reply| Command::Hibernate { why, reply }).await.unwrap_or(false)
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
