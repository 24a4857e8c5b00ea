//! The task of a session, and the way to it. [`SessionHandle`] has one short method for each
//! command, which puts it into the task's mailbox; [`SessionTask`] is what the task owns in every
//! phase, and the loop over phases. The phase that it is in takes commands out of the mailbox.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument as _, debug, warn};

use super::{
    answers::Answers,
    claim::{Claim, Wanted},
    command::{
        CloseReason, CloseReport, Command, HibernateReason, InterruptReport, InterruptTarget,
        Refusal, TurnRequest, UpdateReport,
    },
    commits::{Commits, failed},
    context::SessionContext,
    feed::Feed,
    followers::Followers,
    journal::Journal,
    open_turns::OpenTurns,
    ownership::Ownership,
    publisher::{Doing, StatusPublisher},
    queue::TurnQueue,
    replies::PendingReplies,
    state::{DetachReason, Phase},
    status::{SessionState, Status},
    undone::Undone,
    work_stops::WorkStop,
};
use crate::{
    domain::{
        decision::Decision,
        failure::{Cause, Failure},
        ids::{CliSessionId, ClientId, SessionId, SessionKey, TurnId},
        options::Options,
    },
    store::{Claimed, Record, StoreError},
    tasks::spawn_owned,
    turn::{event::Partials, listener::Listener, storage::Accounts},
};

/// Commands that may wait for a session's task.
const MAILBOX: usize = 64;

/// The way to a session's task. Cloning gives another handle to the same session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    /// That of a session with a name.
    claim: Option<Arc<Claim>>,
}

impl SessionHandle {
    /// A handle to a session that publishes this status, and what the session is asked.
    fn new(
        status: watch::Receiver<Status>,
        claim: Option<Arc<Claim>>,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(MAILBOX);
        (Self { commands, status, claim }, inbox)
    }

    /// Until what is returned is dropped the session is not given back.
    pub fn want(&self) -> Option<Wanted> {
        self.claim.as_ref().filter(|claim| claim.is_shared()).map(Claim::want)
    }

    /// Claims the session before it is asked for a turn, where others could begin it meanwhile:
    /// who does not get it has not been told anything yet. Returns what holds it until it is asked,
    /// and whether it was not held before.
    pub async fn claim(&self) -> Result<(Option<Wanted>, bool), Failure> {
        let (wanted, Some(claim)) = (self.want(), self.claim.clone()) else {
            return Ok((None, false));
        };
        if wanted.is_none() || claim.is_held() {
            return Ok((wanted, false));
        }
        // A task of its own: what the store gives is known here, whoever waits for it.
        let held = spawn_owned(async move { claim.hold(true).await }).await;
        let held = held.unwrap_or_else(|_| Err(StoreError::unavailable("the store is closed")));
        held.map(|_| (wanted, true)).map_err(|error| Failure::from(failed(error)))
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

/// The owner of one session.
#[derive(Debug)]
pub struct SessionTask {
    pub(super) ctx: SessionContext,
    pub(super) key: SessionKey,
    pub(super) inbox: mpsc::Receiver<Command>,
    /// What others see of it.
    pub(super) status: StatusPublisher,
    /// Its conversations.
    pub(super) ownership: Ownership,
    pub(super) ephemeral: bool,
    /// Why it has no process, when it has none.
    pub(super) detach_reason: DetachReason,
    /// Its turns, and the changes of its options that wait.
    pub(super) queue: TurnQueue,
    /// Those of them that have not ended.
    pub(super) open_turns: OpenTurns,
    /// The tenant's shares of the budgets.
    pub(super) accounts: Accounts,
    /// The sum of costs that a process told last, and of which conversation.
    pub(super) reported: Option<(CliSessionId, f64)>,
    /// Answers that are due once it is gone.
    pub(super) replies: PendingReplies,
    /// Answers to what its process asks, from a time when that was not at hand.
    pub(super) deferred: Answers,
    /// Wishes to stop work, likewise.
    pub(super) deferred_stops: Vec<WorkStop>,
    /// Callers who wait for what their turns have begun in the background.
    pub(super) followers: Followers,
    /// Why it is to leave as soon as it can, or leaves.
    pub(super) leaving: Option<CloseReason>,
    /// Whether it is to go on at another service, once no turn runs.
    pub(super) hands_over: bool,
    /// What of it is kept, and is to be.
    pub(super) journal: Journal,
    /// What others read of what happens in it.
    pub(super) feed: Arc<Feed>,
}

impl SessionTask {
    /// A session, not running yet, and its handle. A conversation that the store knows
    /// under this id goes on.
    pub fn new(
        session_id: SessionId,
        ephemeral: bool,
        feed: Arc<Feed>,
        ctx: SessionContext,
    ) -> (Self, SessionHandle) {
        let key = SessionKey::new(ctx.tenant.id().clone(), session_id.clone());
        let cli_session_id = CliSessionId::fresh();
        let status = Status::new(session_id, cli_session_id, Options::default());
        let (status, watch) = StatusPublisher::new(status);
        feed.load(watch.clone());
        let journal = Journal::new(&ctx, key.clone(), !ephemeral);
        let claim = (!ephemeral).then(|| Arc::clone(&journal.claim));
        let (handle, inbox) = SessionHandle::new(watch, claim);
        let task = Self {
            accounts: ctx.logs.accounts(ctx.tenant.id()),
            queue: TurnQueue::new(&ctx.settings, Arc::clone(&feed)),
            feed,
            ownership: Ownership::new(&ctx, key.clone(), cli_session_id),
            journal,
            ctx,
            key,
            inbox,
            status,
            ephemeral,
            open_turns: OpenTurns::default(),
            detach_reason: DetachReason::NeverThere,
            reported: None,
            replies: PendingReplies::default(),
            deferred: Answers::default(),
            deferred_stops: Vec::new(),
            followers: Followers::default(),
            leaving: None,
            hands_over: false,
        };
        (task, handle)
    }

    /// The same of a session that the store was asked for: it knows this, or nothing.
    #[must_use]
    pub fn knowing(mut self, record: Option<Record>) -> Self {
        self.journal.find(record);
        self
    }

    /// The same of one that was claimed before the store was asked for it.
    #[must_use]
    pub fn claimed(mut self, claimed: Option<Claimed>) -> Self {
        if let Some(Claimed { epoch, tenure }) = claimed {
            self.journal.claim.note_claimed(epoch);
            self.journal.commits = Commits::within(tenure);
        }
        self
    }

    /// Runs the session to its end. Boxed, so that it has one place, wherever its future is moved.
    pub async fn run(mut self: Box<Self>) -> PendingReplies {
        if let Err(Undone::Failed(error)) = Box::pin(self.recall()).await {
            // Tried again before a process is started.
            warn!(session_id = %self.status.session_id, %error, "session_not_recalled");
        }
        let mut phase = Phase::Detached;
        loop {
            self.hand_over_at(&phase);
            phase = self.unless_leaving(phase);
            self.publish(&phase);
            // Boxed: an idle session should not hold the space that a busy one needs.
            phase = match phase {
                Phase::Detached => Box::pin(self.detached()).await,
                Phase::Connecting(turn) => {
                    let span = turn.log.span().clone();
                    Box::pin(self.connecting(*turn)).instrument(span).await
                }
                Phase::Idle(process) => Box::pin(self.idle(process)).await,
                Phase::Active(active) => {
                    let span = active.turn.log.span().clone();
                    Box::pin(self.active(active)).instrument(span).await
                }
                Phase::Interrupting(active, stop) => {
                    let span = active.turn.log.span().clone();
                    Box::pin(self.interrupting(active, stop)).instrument(span).await
                }
                Phase::Settling(process) => Box::pin(self.settling(process)).await,
                Phase::Closing(process, reason) => {
                    let replies = Box::pin(self.closing(process, reason)).await;
                    return PendingReplies { ended: Some(self.status), ..replies };
                }
            };
        }
    }

    /// Shows that a phase begins.
    fn publish(&mut self, phase: &Phase) {
        let condition = match phase {
            Phase::Detached => match self.detach_reason {
                DetachReason::Hibernated => SessionState::Hibernated,
                DetachReason::Lost => SessionState::Disconnected,
                DetachReason::NeverThere if self.status.last_error.is_some() => SessionState::Error,
                DetachReason::NeverThere => SessionState::Idle,
            },
            Phase::Connecting(_) => SessionState::Connecting,
            Phase::Idle(_) | Phase::Settling(_) | Phase::Active(_) => SessionState::Active,
            Phase::Interrupting(..) => SessionState::Interrupting,
            Phase::Closing(..) => SessionState::Disconnected,
        };
        let process = phase.process();
        let can_hibernate = matches!(phase, Phase::Idle(_)) && self.may_hibernate(process);
        let running = phase.turn().map(|turn| turn.id().clone());
        self.status.enter(Doing {
            condition,
            process: process.map(|it| (it.lease.client_id, it.lease.child.id())),
            open_prompts: process.map_or_else(Vec::new, |it| it.prompts.shown()),
            // A turn runs until its end is told.
            running: running.or_else(|| self.untold_turn()),
            can_hibernate,
        });
        self.show();
        if can_hibernate {
            self.ctx.hibernatable.notify_waiters();
        }
    }

    /// Publishes the snapshot as it is.
    pub(super) fn show(&mut self) {
        self.status.publish(self.queue.len(), self.queue.shown());
    }

    /// A failure of this session.
    pub(super) fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(Some(&self.status.session_id), None)
    }

    /// Makes a session that is past its time as new, except for its conversation.
    pub(super) fn expire(&mut self, client_id: Option<ClientId>) {
        debug!(
            session_id = %self.status.session_id,
            client_id = client_id.map(tracing::field::display),
            age_seconds = self.status.age().as_secs_f64(),
            "session_expired"
        );
        self.ctx.tenant.counters.expired.add_one();
        self.status.renew();
    }
}
