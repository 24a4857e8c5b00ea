//! A session's commits. One is under way at a time, and the session goes on meanwhile: its
//! CLI is read, whoever asks is answered. What may be told only once it is kept waits here:
//! the end of a turn, a change of options.
//!
//! Only two things wait for a commit: the next turn, which would be paid and might be lost,
//! and the next process, which takes up what the last one said. What a commit that failed
//! had is kept with the next one; those who waited for it are told that it failed.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tracing::warn;

use super::{
    admission::Availability,
    command::{CloseReport, InterruptOutcome, InterruptReport, UpdateReport},
    deadline::at,
    keeping::{Share, failed},
    queue::UpdateReply,
    task::SessionTask,
    turn_end::Untold,
};
use crate::{
    failure::Cause, ids::TurnId, store::StoreError, tasks::spawn_owned,
    telemetry::log_limit::NOT_KEPT, turn::log::TurnLog,
};

/// How long the answer to an interrupt waits for a commit, so that who has it finds the turn
/// told. A store that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// Between attempts to keep what a running turn says while the store fails.
const AGAIN: Duration = Duration::from_secs(1);

/// What is told when it is kept.
#[derive(Debug, Default)]
struct Due {
    turns: Vec<Untold>,
    updates: Vec<(UpdateReply, UpdateReport)>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.updates.is_empty()
    }
}

/// A commit that the store has not answered yet.
#[derive(Debug)]
struct UnderWay {
    answer: JoinHandle<Result<(), StoreError>>,
    /// What of the session is in it.
    share: Option<Share>,
    due: Due,
    /// Whether the next turn waits to see whether it succeeds.
    is_trial: bool,
}

/// What becomes of commits while a session does something else.
#[derive(Debug)]
pub enum Stir {
    /// The store has answered.
    Answered(Result<(), StoreError>),
    /// Those who are patient have waited long enough.
    Impatient,
    /// What could not be kept is tried again.
    Again,
}

/// The commits of a session, and who waits for them.
#[derive(Debug, Default)]
pub struct Commits {
    under_way: Option<UnderWay>,
    /// For the next one.
    due: Due,
    /// Whether there is to be a next one in any case.
    wanted: bool,
    /// Why the last one failed, if it did.
    failure: Option<Cause>,
    /// Whether the last one was a trial that succeeded, for the turn that is next.
    trusted: bool,
    retry_at: Option<Instant>,
    /// Given when everything is told, at the latest then.
    answers: Vec<(oneshot::Sender<InterruptReport>, InterruptReport)>,
    answer_by: Option<Instant>,
    /// Whether the process works where it must not.
    expelled: bool,
    /// Whether none follows one that fails.
    ends_with_a_failure: bool,
}

impl Commits {
    /// Whether no commit is under way and nobody waits for one.
    pub fn are_settled(&self) -> bool {
        self.under_way.is_none() && self.due.is_empty()
    }

    /// The same, and no further one is wanted.
    pub fn is_idle(&self) -> bool {
        self.are_settled() && !self.wanted
    }

    /// The turns that have ended and whose end nobody has been told.
    pub fn untold(&self) -> impl Iterator<Item = &TurnLog> {
        let under_way = self.under_way.iter().flat_map(|commit| &commit.due.turns);
        under_way.chain(&self.due.turns).map(Untold::log)
    }

    /// Bytes of lines that are on their way to the store.
    pub fn bytes(&self) -> usize {
        self.under_way.iter().filter_map(|commit| commit.share.as_ref()).map(Share::bytes).sum()
    }

    /// Why the last one failed, if it did.
    pub fn failure(&self) -> Option<&Cause> {
        self.failure.as_ref()
    }

    /// Whether what a running turn says may be kept now.
    pub(super) fn may_begin(&self) -> bool {
        self.under_way.is_none() && self.retry_at.is_none()
    }

    /// Whether the process works where it must not; said once.
    pub fn take_expelled(&mut self) -> bool {
        std::mem::take(&mut self.expelled)
    }

    /// Once one fails there is no other: what the session says is to be forgotten anyway, and
    /// those who wait are told of that failure.
    pub fn end_with_a_failure(&mut self) {
        self.ends_with_a_failure = true;
    }

    /// The end of a turn is told with the next commit.
    pub fn tell_turn(&mut self, turn: Untold) {
        self.due.turns.push(turn);
    }

    /// A change of options is told with the next commit.
    pub fn tell_update(&mut self, reply: UpdateReply, report: UpdateReport) {
        self.due.updates.push((reply, report));
    }

    /// Waits for what becomes of commits; for ever while nothing is under way. Cancel safe.
    pub async fn stir(&mut self) -> Stir {
        let (answer_by, idle) = (self.answer_by, self.under_way.is_none());
        let retry_at = self.retry_at.filter(|_| idle);
        let answered = async {
            match &mut self.under_way {
                Some(commit) => (&mut commit.answer)
                    .await
                    .unwrap_or_else(|_| Err(StoreError::Unavailable("the store is closed".into()))),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answered => Stir::Answered(answer),
            () = at(answer_by) => Stir::Impatient,
            () = at(retry_at) => Stir::Again,
        }
    }
}

impl SessionTask {
    /// Begins to keep what is not kept yet; behind the commit that is under way, if there is
    /// one.
    pub(super) async fn keep_on(&mut self) {
        self.begin_commit(false).await;
    }

    /// Keeps what a running turn says, if that has become much.
    pub(super) async fn keep_much(&mut self) {
        if self.holds_much() && self.commits.may_begin() {
            self.keep_on().await;
        }
    }

    async fn begin_commit(&mut self, is_trial: bool) {
        if self.commits.under_way.is_some() {
            self.commits.wanted = true;
            return;
        }
        self.commits.wanted = false;
        self.commits.retry_at = None;
        let settled = self.settle_move().await;
        let due = std::mem::take(&mut self.commits.due);
        if let Err(cause) = settled {
            // The name of a turn whose result is not told is not kept either.
            self.drop_turn();
            self.commits.expelled |= matches!(cause, Cause::SessionConflict { .. })
                && due.turns.iter().any(Untold::has_result);
            return self.know(due, Err(cause), is_trial);
        }
        let store = Arc::clone(&self.ctx.store);
        if let Some((commit, share)) = self.next_commit() {
            let work = async move { store.commit(commit).await };
            self.commits.under_way = Some(UnderWay::begin(work, Some(share), due, is_trial));
        } else if is_trial {
            let (tenant, totals) = (self.key.tenant.clone(), self.ctx.tenant.totals());
            let work = async move { store.count(&tenant, totals).await };
            self.commits.under_way = Some(UnderWay::begin(work, None, due, is_trial));
        } else {
            self.know(due, Ok(()), is_trial);
        }
    }

    /// Goes on with what has become of commits.
    pub(super) async fn stirred(&mut self, stir: Stir) {
        let answer = match stir {
            Stir::Answered(answer) => answer,
            Stir::Impatient => return self.answer_those_who_wait(),
            Stir::Again => return self.keep_on().await,
        };
        let Some(UnderWay { share, due, is_trial, .. }) = self.commits.under_way.take() else {
            return;
        };
        let outcome = answer.map_err(failed);
        if let Some(share) = share {
            match &outcome {
                Ok(()) => self.kept(share),
                Err(_) => self.not_kept(share),
            }
        }
        self.know(due, outcome.clone(), is_trial);
        if self.commits.ends_with_a_failure && outcome.is_err() {
            self.commits.wanted = false;
            let due = std::mem::take(&mut self.commits.due);
            self.know(due, outcome, false);
        }
        if self.commits.wanted || !self.commits.due.is_empty() {
            self.keep_on().await;
        }
        if self.commits.are_settled() {
            self.answer_those_who_wait();
        }
    }

    /// Tells those who waited for a commit what became of it.
    fn know(&mut self, due: Due, outcome: Result<(), Cause>, is_trial: bool) {
        let Due { turns, updates } = due;
        if let Err(error) = &outcome
            && turns.is_empty()
            && updates.is_empty()
            && NOT_KEPT.admits()
        {
            warn!(session_id = %self.status.session_id, %error, "session_not_kept");
        }
        for turn in turns {
            self.tell_end(turn, &outcome);
        }
        for (reply, report) in updates {
            let answer = outcome.clone().map(|()| report);
            reply.send(answer.map_err(|cause| self.failure(cause).into())).ok();
        }
        if let (Err(cause), true) = (&outcome, is_trial) {
            // Those that wait would each wait as long, and end the same.
            self.fail_queue(cause);
        }
        self.commits.trusted = is_trial && outcome.is_ok();
        self.commits.failure = outcome.err();
        let again = self.commits.failure.is_some() && self.holds_much();
        self.commits.retry_at = again.then(|| Instant::now() + AGAIN);
        self.show();
    }

    /// Whether the next turn may begin: what was before is kept, and a store that fails has
    /// been tried, so that no answer is paid that could not be told. If that is not known,
    /// it is found out.
    pub(super) async fn may_begin_turn(&mut self) -> bool {
        if self.queue.is_empty() || self.ephemeral {
            return true;
        }
        if !self.commits.are_settled() {
            return false;
        }
        let fails = || self.ctx.store.status().borrow().failing.is_some();
        if std::mem::take(&mut self.commits.trusted) || (self.commits.failure.is_none() && !fails())
        {
            return true;
        }
        self.begin_commit(true).await;
        false
    }

    /// The report of an interrupt that comes when no turn runs: one that has its result is
    /// not stopped, whether its caller has been told or not.
    pub(super) fn nothing_to_stop(&self) -> InterruptReport {
        let had_active_turn = self.commits.untold().next().is_some();
        let outcome = match had_active_turn {
            true => InterruptOutcome::TurnEnded,
            false => InterruptOutcome::NoActiveTurn,
        };
        InterruptReport { outcome, had_active_turn, elapsed: Duration::ZERO }
    }

    /// The report of a close that comes when no turn runs.
    pub(super) fn nothing_to_close(&self) -> CloseReport {
        let had_active_turn = self.commits.untold().next().is_some();
        CloseReport { closed: true, had_active_turn, not_forgotten: None }
    }

    /// What a session without a running turn does, as far as that matters for commands: a turn
    /// whose end nobody was told is not over.
    pub(super) fn unless_untold(&self, availability: Availability) -> Availability {
        match self.commits.untold().next() {
            Some(_) => Availability::Settling,
            None => availability,
        }
    }

    /// Answers an interrupt when what it is about is told, or when that takes long.
    pub(super) fn answer_soon(
        &mut self,
        reply: oneshot::Sender<InterruptReport>,
        report: InterruptReport,
    ) {
        if self.commits.are_settled() {
            reply.send(report).ok();
            return;
        }
        self.commits.answers.push((reply, report));
        self.commits.answer_by.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    fn answer_those_who_wait(&mut self) {
        self.commits.answer_by = None;
        for (reply, report) in std::mem::take(&mut self.commits.answers) {
            reply.send(report).ok();
        }
    }

    /// The turn that ended last without its caller having been told.
    pub(super) fn untold_turn(&self) -> Option<TurnId> {
        self.commits.untold().last().map(|log| log.id().clone())
    }
}

impl UnderWay {
    fn begin(
        work: impl Future<Output = Result<(), StoreError>> + Send + 'static,
        share: Option<Share>,
        due: Due,
        is_trial: bool,
    ) -> Self {
        // A task of its own: the store has the order even if the session ends first.
        Self { answer: spawn_owned(work), share, due, is_trial }
    }
}
