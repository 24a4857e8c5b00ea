//! The turns of a session: those that wait, the one that runs, and those that ended lately and
//! can still be joined; and the changes of options that wait for a turn to end. Knows what is
//! asked and the logs of turns; nothing of processes, phases or the store. Nothing here waits
//! for anything: what becomes of a turn is for the session to say. What it lets go of is let go
//! by the session's feed, too.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, futures::Notified, oneshot},
    time::Instant,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    command::{BusyPolicy, DisconnectPolicy, Refusal, TurnRequest, UpdateReport},
    context::Settings,
    feed::Feed,
    status::QueuedTurn,
};
use crate::{
    domain::{ids::TurnId, options::Options},
    tenant::Share,
    traces::Span,
    turn::{listener::Following, log::TurnLog},
};

/// Ended turns that a session keeps for those who come late.
const KEPT_TURNS: usize = 8;
/// Turns that wait and that a session shows.
const SHOWN_TURNS: usize = 100;

/// A turn that waits.
#[derive(Debug)]
pub struct Waiting {
    /// What was asked.
    pub request: TurnRequest,
    /// Its log, which its listeners hold already.
    pub log: TurnLog,
    /// Counted by whoever waits for turns to end.
    pub counted: TaskTrackerToken,
    /// Who waits for what it will leave behind in the background.
    pub following: Option<Following>,
    /// What it has behind it, if a process died before it answered the prompt.
    pub again: Option<Again>,
    /// Whether it was a message for the turn before it, which is told once it begins.
    pub steered: bool,
    /// Its share of the tenant's queued turns, for as long as it waits for another.
    pub _queued: Share,
}

impl Waiting {
    /// Its turn has come. Before anything else is done for it.
    pub fn waits_no_more(&self) {
        if let Some(mut span) = self.log.trace().waited() {
            span.began(SystemTime::now() - self.request.asked_at.elapsed());
        }
    }

    /// The same where it begins to wait for a process.
    pub fn waits_for_process(&self) -> Span {
        self.waits_no_more();
        self.log.trace().call.begin("connect")
    }
}

/// What a turn has behind it that is sent to a second process.
#[derive(Debug, Clone, Copy)]
pub struct Again {
    /// How long it waited until its turn came.
    pub queued_for: Duration,
    /// When its prompt was sent for the first time.
    pub began: Instant,
    /// How long the first process was silent: that counts for the wait for the first frame.
    pub silent_for: Duration,
}

/// Who is told what a change of options changed.
pub type UpdateReply = oneshot::Sender<Result<UpdateReport, Refusal>>;

/// Changes of options that wait for the running turn to end.
#[derive(Debug)]
pub struct PendingUpdate {
    /// Those that are said.
    pub options: Options,
    /// What changed.
    pub reply: UpdateReply,
}

/// The turns of a session, and the changes of its options that wait.
#[derive(Debug)]
pub struct TurnQueue {
    waiting: VecDeque<Waiting>,
    /// What was last shown of those that wait; `None` when they are others since.
    shown: Option<Arc<[QueuedTurn]>>,
    updates: Vec<PendingUpdate>,
    /// The turn that runs, or is about to. Its end may not have been told yet.
    current: Option<TurnLog>,
    /// Whether it runs, or has run.
    begun: bool,
    /// What becomes of a turn that is about to run when its last listener leaves.
    on_disconnect: DisconnectPolicy,
    /// Turns that have ended, the last one at the end.
    recent: VecDeque<(Instant, TurnLog)>,
    /// Told when the last listener of any turn goes.
    listeners_gone: Arc<Notify>,
    /// How long an ended turn can be joined.
    retention: Duration,
    /// What others read of the turns.
    feed: Arc<Feed>,
}

impl TurnQueue {
    /// A session without turns.
    pub fn new(settings: &Settings, feed: Arc<Feed>) -> Self {
        Self {
            waiting: VecDeque::new(),
            shown: None,
            updates: Vec::new(),
            current: None,
            begun: false,
            on_disconnect: DisconnectPolicy::Interrupt,
            recent: VecDeque::new(),
            listeners_gone: Arc::default(),
            retention: settings.turn_retention,
            feed,
        }
    }

    /// Whether no turn waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Turns that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether neither a turn nor a change of options waits.
    pub fn has_nothing_to_do(&self) -> bool {
        self.waiting.is_empty() && self.updates.is_empty()
    }

    /// The turn that is next.
    pub fn first(&self) -> Option<&TurnLog> {
        self.waiting.front().map(|turn| &turn.log)
    }

    /// The first of the turns that wait, as they are shown. Made when they have changed, and
    /// shared by all that is published until they change again.
    pub fn shown(&mut self) -> Arc<[QueuedTurn]> {
        let shown =
            |turn: &Waiting| QueuedTurn { id: turn.log.id().clone(), since: turn.request.asked_at };
        let first = self.waiting.iter().take(SHOWN_TURNS);
        Arc::clone(self.shown.get_or_insert_with(|| first.map(shown).collect()))
    }

    /// Adds a turn behind all others.
    pub fn push_back(&mut self, turn: Waiting) {
        self.shown = None;
        self.waiting.push_back(turn);
    }

    /// Adds a turn before all others.
    pub fn push_front(&mut self, turn: Waiting) {
        self.shown = None;
        self.waiting.push_front(turn);
    }

    /// Adds a turn that was a message for the one that ran: before all others, but behind those
    /// that were messages before it.
    pub fn push_steered(&mut self, turn: Waiting) {
        self.shown = None;
        let last = self.waiting.iter().rposition(|turn| turn.steered);
        self.waiting.insert(last.map_or(0, |last| last + 1), turn);
    }

    /// Whether a message for a running turn waits that had to become a turn of its own.
    pub fn holds_message(&self) -> bool {
        self.waiting.iter().any(|turn| turn.request.on_busy == BusyPolicy::Steer)
    }

    /// Takes the turn that is next.
    pub fn pop(&mut self) -> Option<Waiting> {
        self.shown = None;
        self.waiting.pop_front()
    }

    /// Whether this turn waits.
    pub fn holds(&self, id: &TurnId) -> bool {
        self.waiting.iter().any(|turn| turn.log.id() == id)
    }

    /// Takes this turn out, wherever it stands.
    pub fn take(&mut self, id: &TurnId) -> Option<Waiting> {
        let at = self.waiting.iter().position(|turn| turn.log.id() == id)?;
        self.shown = None;
        self.waiting.remove(at)
    }

    /// Takes the turns out that nobody wants any more.
    pub fn drop_abandoned(&mut self) -> Vec<Waiting> {
        self.shown = None;
        let all = std::mem::take(&mut self.waiting);
        let (left, stay): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|turn| turn.request.on_disconnect.abandons(&turn.log));
        self.waiting = stay.into();
        left
    }

    /// Waits until the last listener of a turn goes. Cancel safe.
    pub fn listeners_gone(&self) -> Notified<'_> {
        self.listeners_gone.notified()
    }

    /// What the log of a turn has to tell when its last listener goes.
    pub fn listeners_gone_notifier(&self) -> Arc<Notify> {
        Arc::clone(&self.listeners_gone)
    }

    /// Changes of options that wait, and that somebody still wants to hear of.
    pub fn updates(&self) -> usize {
        self.updates.iter().filter(|update| !update.reply.is_closed()).count()
    }

    /// Lets a change of options wait.
    pub fn push_update(&mut self, update: PendingUpdate) {
        // Of those whose callers have left nobody wants to hear.
        self.updates.retain(|update| !update.reply.is_closed());
        self.updates.push(update);
    }

    /// Whether changes of options wait.
    pub fn has_updates(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Takes the changes of options that wait.
    pub fn take_updates(&mut self) -> Vec<PendingUpdate> {
        std::mem::take(&mut self.updates)
    }

    /// Gives changes of options back that could not be made yet.
    pub fn return_updates(&mut self, updates: impl IntoIterator<Item = PendingUpdate>) {
        self.updates.extend(updates);
    }

    /// The turn that runs, or is about to.
    pub fn current(&self) -> Option<&TurnLog> {
        self.current.as_ref()
    }

    /// A turn is about to run, once there is a process that is as it wants it.
    pub fn expect(&mut self, turn: &Waiting) {
        self.current = Some(turn.log.clone());
        self.begun = false;
        self.on_disconnect = turn.request.on_disconnect;
    }

    /// The turn that is about to run, if nobody wants it any more.
    pub fn abandoned(&self) -> Option<&TurnLog> {
        self.expected().filter(|turn| self.on_disconnect.abandons(turn))
    }

    /// The turn that is about to run.
    pub fn expected(&self) -> Option<&TurnLog> {
        self.current.as_ref().filter(|_| !self.begun)
    }

    /// A turn that was about to run waits again, before all others.
    pub fn put_back(&mut self, turn: Waiting) {
        self.current = None;
        self.push_front(turn);
    }

    /// A turn runs.
    pub fn begin(&mut self, turn: &TurnLog) {
        self.current = Some(turn.clone());
        self.begun = true;
    }

    /// A turn has ended, and that was told. It can be joined for a while.
    pub fn end(&mut self, turn: TurnLog) {
        if self.current.as_ref().is_some_and(|current| current.id() == turn.id()) {
            self.current = None;
        }
        self.drop_old();
        if self.recent.len() == KEPT_TURNS {
            self.let_go();
        }
        self.recent.push_back((Instant::now(), turn));
    }

    /// Lets go of ended turns that are past their time; returns when the next one is.
    pub fn drop_old(&mut self) -> Option<Instant> {
        while self.recent.front().is_some_and(|(ended, _)| ended.elapsed() >= self.retention) {
            self.let_go();
        }
        let turn = self.recent.front().map(|(ended, _)| *ended);
        let aside = self.feed.forget_asides(self.retention);
        turn.into_iter().chain(aside).min().map(|first| first + self.retention)
    }

    /// Lets go of the turn that ended first.
    fn let_go(&mut self) {
        if let Some((_, turn)) = self.recent.pop_front() {
            self.feed.forget(turn.id());
        }
    }

    /// Until when the turn can be joined that ended last.
    pub fn joinable_until(&self) -> Option<Instant> {
        self.recent.back().map(|(ended, _)| *ended + self.retention)
    }

    /// The turn with this id; without one the turn that runs, else the last. `untold` are the
    /// turns that have ended without their callers having been told.
    pub fn find<'a>(
        &'a self,
        id: Option<&TurnId>,
        untold: impl Iterator<Item = &'a TurnLog>,
    ) -> Option<&'a TurnLog> {
        let mut ended = self.recent.iter().map(|(_, turn)| turn);
        let Some(id) = id else { return self.current.as_ref().or_else(|| ended.next_back()) };
        let waiting = self.waiting.iter().map(|turn| &turn.log);
        let mut all = self.current.iter().chain(untold).chain(ended).chain(waiting);
        all.find(|turn| turn.id() == id)
    }
}

#[cfg(test)]
mod tests;
