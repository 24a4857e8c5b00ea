//! The task of a session: what it owns in every phase, and the loop over phases.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, warn};

use super::{
    SessionHandle,
    command::{CloseReport, Command, InterruptReport},
    commits::Commits,
    keeping::Keeping,
    permissions::Given,
    phase::{Absence, PendingUpdate, Phase, Waiting},
    running::Habits,
    status::{Condition, Status},
};
use crate::{
    cli::{frame::Frame, options::Options},
    failure::{Cause, Failure},
    ids::{CliSessionId, ClientId, SessionId, SessionKey},
    store::Store,
    supply::{Conversation, Supply},
    tenant::{Hold, Tenant},
    turn::{
        log::TurnLog,
        storage::{Accounts, Storage},
    },
};

/// Ended turns that a session keeps for those who come late.
const KEPT_TURNS: usize = 8;

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
    /// How long the store tries what it is asked while somebody else has it.
    pub commit_timeout: Duration,
}

/// What sessions share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What the configuration says.
    pub settings: Arc<Settings>,
    /// Where processes come from.
    pub supply: Arc<dyn Supply>,
    /// What outlives sessions.
    pub store: Arc<dyn Store>,
    /// Told when a session's process has nothing to do and could be let go.
    pub rested: Arc<Notify>,
    /// Whose session it is.
    pub tenant: Arc<Tenant>,
    /// Turns that run or wait.
    pub turns: TaskTracker,
    /// What the logs of all turns share.
    pub logs: Storage,
}

/// Answers that are due once the session is gone from the pool.
#[must_use]
#[derive(Debug, Default)]
pub struct Farewell {
    /// To those who interrupted it.
    pub interrupts: Vec<(oneshot::Sender<InterruptReport>, InterruptReport)>,
    /// To those who closed it.
    pub closes: Vec<(oneshot::Sender<CloseReport>, CloseReport)>,
    /// It stays in the pool without a task, and was last used then.
    pub stays: Option<Instant>,
    /// Dropped last: those who wait for the session's end look for another one then, and
    /// must not find this one in the pool.
    ended: Option<watch::Sender<Status>>,
}

impl Farewell {
    /// Gives the answers. Those who do not wait any more do not need them.
    pub fn send(mut self) {
        self.answer();
        drop(self.ended);
    }

    /// Answers those who interrupted it: its turn has stopped, whatever becomes of the rest.
    pub(super) fn answer_interrupts(&mut self) {
        for (reply, report) in self.interrupts.drain(..) {
            reply.send(report).ok();
        }
    }

    /// Tells those who closed it why the conversation is still there, if it is.
    pub(super) fn note_not_forgotten(&mut self, cause: Option<&Cause>) {
        for (_, report) in &mut self.closes {
            report.not_forgotten = cause.cloned();
        }
    }

    /// Gives the answers that are due by now.
    pub(super) fn answer(&mut self) {
        self.answer_interrupts();
        for (reply, report) in self.closes.drain(..) {
            reply.send(report).ok();
        }
    }
}

/// The owner of one session.
#[derive(Debug)]
pub struct SessionTask {
    pub(super) around: Surroundings,
    pub(super) key: SessionKey,
    pub(super) inbox: mpsc::Receiver<Command>,
    publisher: watch::Sender<Status>,
    /// The last picture; changed in place and published at phase entry.
    pub(super) status: Status,
    pub(super) conversation: Conversation,
    /// The conversations that no other session gets, beside those that the store has as
    /// this one's.
    pub(super) held: Vec<Hold>,
    pub(super) ephemeral: bool,
    /// Why it has no process, when it has none.
    pub(super) absence: Absence,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) updates: Vec<PendingUpdate>,
    pub(super) recent: VecDeque<(Instant, TurnLog)>,
    /// The running turn's log.
    pub(super) current: Option<TurnLog>,
    /// Told when the last listener of any of its turns goes.
    pub(super) listeners_gone: Arc<Notify>,
    /// The tenant's shares of the budgets.
    pub(super) accounts: Accounts,
    /// The sum of costs that a process told last, and of which conversation.
    pub(super) reported: Option<(CliSessionId, f64)>,
    pub(super) farewell: Farewell,
    /// Frames that a phase left for the next.
    pub(super) leftover: Vec<Frame>,
    /// What the running process has shown of itself.
    pub(super) habits: Habits,
    /// The rules that the running process was given.
    pub(super) given: Given,
    /// What of it is to be kept.
    pub(super) keeping: Keeping,
    /// What of it is being kept, and who waits for that.
    pub(super) commits: Commits,
    /// Whether it is to be in the pool when the service starts again.
    pub(super) in_pool: bool,
}

impl SessionTask {
    /// A session, not running yet, and its handle. A conversation that the store knows
    /// under this id goes on.
    pub fn new(
        session_id: SessionId,
        ephemeral: bool,
        around: Surroundings,
    ) -> (Self, SessionHandle) {
        let key = SessionKey::new(around.tenant.id().clone(), session_id.clone());
        let cli_session_id = CliSessionId::fresh();
        let status = Status::new(session_id, cli_session_id, Options::default());
        let (handle, inbox, publisher) = SessionHandle::new(status.clone());
        let task = Self {
            accounts: around.logs.accounts(around.tenant.id()),
            around,
            key,
            inbox,
            publisher,
            status,
            conversation: Conversation::Own(cli_session_id),
            held: Vec::new(),
            ephemeral,
            absence: Absence::NeverThere,
            queue: VecDeque::new(),
            updates: Vec::new(),
            recent: VecDeque::new(),
            current: None,
            listeners_gone: Arc::new(Notify::new()),
            reported: None,
            farewell: Farewell::default(),
            leftover: Vec::new(),
            habits: Habits::default(),
            given: Given::default(),
            keeping: Keeping::default(),
            commits: Commits::default(),
            in_pool: true,
        };
        (task, handle)
    }

    /// Runs the session to its end.
    pub async fn run(mut self) -> Farewell {
        if let Err(error) = self.recall().await {
            // Tried again before a process is started.
            warn!(session_id = %self.status.session_id, %error, "session_not_recalled");
        }
        let mut phase = Phase::Detached;
        loop {
            self.publish(&phase);
            // Boxed: an idle session should not hold the space that a busy one needs.
            phase = match phase {
                Phase::Detached => self.detached().await,
                Phase::Connecting(turn) => {
                    let span = turn.log.span().clone();
                    Box::pin(self.connecting(turn)).instrument(span).await
                }
                Phase::Idle(lease) => Box::pin(self.idle(lease)).await,
                Phase::Active(active) => {
                    let span = active.turn.log.span().clone();
                    Box::pin(self.active(active)).instrument(span).await
                }
                Phase::Interrupting(active, stop) => {
                    let span = active.turn.log.span().clone();
                    Box::pin(self.interrupting(active, stop)).instrument(span).await
                }
                Phase::Settling(lease) => Box::pin(self.settling(lease)).await,
                Phase::Closing(lease, reason) => {
                    let farewell = Box::pin(self.closing(lease, reason)).await;
                    return Farewell { ended: Some(self.publisher), ..farewell };
                }
            };
        }
    }

    fn publish(&mut self, phase: &Phase) {
        let (condition, lease, running) = match phase {
            Phase::Detached => match self.absence {
                Absence::LetGo => (Condition::Hibernated, None, None),
                Absence::Lost => (Condition::Disconnected, None, None),
                Absence::NeverThere if self.status.last_error.is_some() => {
                    (Condition::Error, None, None)
                }
                Absence::NeverThere => (Condition::Idle, None, None),
            },
            Phase::Connecting(turn) => (Condition::Connecting, None, Some(turn.log.id().clone())),
            Phase::Idle(lease) | Phase::Settling(lease) => (Condition::Active, Some(lease), None),
            Phase::Active(active) => {
                (Condition::Active, Some(&active.lease), Some(active.turn.log.id().clone()))
            }
            Phase::Interrupting(active, _) => {
                (Condition::Interrupting, Some(&active.lease), Some(active.turn.log.id().clone()))
            }
            Phase::Closing(lease, _) => (Condition::Disconnected, lease.as_ref(), None),
        };
        self.status.condition = condition;
        self.status.client_id = lease.map(|lease| lease.client_id);
        self.status.process_id = lease.map(|lease| lease.child.id());
        // A turn runs until its end is told.
        self.status.running = running.or_else(|| self.untold_turn());
        self.status.can_rest = matches!(phase, Phase::Idle(_)) && self.may_rest();
        self.show();
        if self.status.can_rest {
            self.around.rested.notify_waiters();
        }
    }

    /// Publishes the picture as it is.
    pub(super) fn show(&mut self) {
        self.status.queued = self.queue.len();
        self.publisher.send_replace(self.status.clone());
    }

    /// A failure of this session.
    pub(super) fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(Some(&self.status.session_id), None)
    }

    /// Ends a turn that failed, and takes note of it.
    pub(super) fn fail(&mut self, log: &TurnLog, failure: Failure) {
        let failure = failure.concerning(Some(&self.status.session_id), Some(log.id()));
        let text = failure.to_string();
        if self.end_turn(log, Err(failure)) {
            self.around.tenant.counters.turns_failed.add_one();
            self.status.error_count += 1;
            self.status.last_error = Some(text);
        }
        self.keep(log.clone());
    }

    /// Keeps an ended turn for those who come late.
    pub(super) fn keep(&mut self, log: TurnLog) {
        if self.current.as_ref().is_some_and(|current| current.id() == log.id()) {
            self.current = None;
        }
        if self.status.running.as_ref() == Some(log.id()) {
            self.status.running = None;
        }
        self.status.last_used_at = Instant::now();
        self.keep_other(log);
    }

    /// Keeps an ended turn that is not the running one.
    pub(super) fn keep_other(&mut self, log: TurnLog) {
        self.drop_old_turns();
        if self.recent.len() == KEPT_TURNS {
            self.recent.pop_front();
        }
        self.recent.push_back((Instant::now(), log));
    }

    /// Lets go of turns that are past their time; returns when the next one is.
    pub(super) fn drop_old_turns(&mut self) -> Option<Instant> {
        let retention = self.around.settings.turn_retention;
        while self.recent.front().is_some_and(|(ended, _)| ended.elapsed() >= retention) {
            self.recent.pop_front();
        }
        self.recent.front().map(|(ended, _)| *ended + retention)
    }

    /// Fails every turn that waits.
    pub(super) fn fail_queue(&mut self, cause: &Cause) {
        while let Some(waiting) = self.queue.pop_front() {
            let failure = self.failure(cause.clone());
            self.fail(&waiting.log, failure);
        }
    }

    /// Drops the turns from the queue whose callers have left.
    pub(super) fn drop_abandoned(&mut self) {
        let before = self.queue.len();
        let queue = std::mem::take(&mut self.queue);
        let (stay, leave): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(|waiting| {
            waiting.log.listeners() > 0
                || waiting.request.on_disconnect == super::DisconnectPolicy::Continue
        });
        self.queue = stay;
        for waiting in leave {
            // Nobody listens; the end is for those who might still join by its id.
            self.end_turn(&waiting.log, Err(self.failure(Cause::TurnInterrupted)));
        }
        if self.queue.len() != before {
            self.show();
        }
    }

    /// Makes a session that is past its time as new, except for its conversation.
    pub(super) fn expire(&mut self, client_id: Option<ClientId>) {
        debug!(
            session_id = %self.status.session_id,
            client_id = client_id.map(tracing::field::display),
            age_seconds = self.status.age().as_secs_f64(),
            "session_expired"
        );
        self.around.tenant.counters.expired.add_one();
        let now = Instant::now();
        self.status.created_at = now;
        self.status.create_time = SystemTime::now();
        self.status.message_count = 0;
        self.status.error_count = 0;
        self.status.last_error = None;
    }
}
