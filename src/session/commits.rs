//! A session's commits. One is under way at a time, and the session goes on meanwhile: its
//! CLI is read, whoever asks is answered. What may be told only once it is kept waits here:
//! the end of a turn, a change of options.
//!
//! Only two things wait for a commit: the next turn, which would be paid and might be lost,
//! and the next process, which takes up what the last one said. What a commit that failed
//! had is kept with the next one; those who waited for it are told that it failed.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{
    command::{InterruptReport, UpdateReport},
    queue::UpdateReply,
    turn_end::Untold,
};
use crate::{
    domain::{failure::Cause, ids::CliSessionId},
    store::{Line, StoreError, Tenure},
    tasks::{at, spawn_owned},
    tenant::Hold,
    turn::log::TurnLog,
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

/// What of a session is in a commit that the store has not answered.
#[derive(Debug)]
pub struct Share {
    /// Lines of its transcripts.
    pub lines: Arc<Vec<Line>>,
    /// What they take.
    pub bytes: usize,
    /// The conversation that it worked in then.
    pub conversation: CliSessionId,
    /// The conversations that it held then.
    pub held: Vec<CliSessionId>,
}

/// What became of a commit, for those who wait for it.
#[must_use]
#[derive(Debug)]
pub struct Outcome {
    /// Whether what there was to keep is kept.
    pub result: Result<(), Cause>,
    /// The turns whose end is to be told.
    pub turns: Vec<Untold>,
    /// The changes of options that are to be told.
    pub updates: Vec<(UpdateReply, UpdateReport)>,
    /// What of the session the store has by now.
    pub kept: Option<Share>,
    /// Whether the next turn waited to see whether it succeeds.
    pub is_trial: bool,
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

/// A conversation that is to be the session's own, and held for it if it was not before.
#[derive(Debug)]
pub struct Taken {
    /// Its id.
    pub id: CliSessionId,
    /// What holds it.
    pub hold: Option<Hold>,
}

/// A move to another conversation that is settled before the commit in which it is kept.
#[derive(Debug)]
struct Move {
    answer: JoinHandle<Result<Taken, Cause>>,
    to: CliSessionId,
    /// Of that commit.
    is_trial: bool,
}

/// What is known of such a move.
#[derive(Debug)]
pub struct Settled {
    /// Where to.
    pub to: CliSessionId,
    /// Whether it is the session's own.
    pub taken: Result<Taken, Cause>,
    /// Whether the next turn waits for the commit.
    pub is_trial: bool,
}

/// What becomes of commits while a session does something else.
#[derive(Debug)]
pub enum Stir {
    /// It is known whether the session follows its CLI.
    Settled(Settled),
    /// The store has answered.
    Answered(Result<(), StoreError>),
    /// Those who are patient have waited long enough.
    Impatient,
    /// What could not be kept is tried again.
    Again,
    /// The session is this service's no more, whatever the store has of it.
    Lost,
}

/// The commits of a session, and who waits for them.
#[derive(Debug, Default)]
pub struct Commits {
    under_way: Option<UnderWay>,
    /// A commit begins once this is settled.
    moving: Option<Move>,
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
    /// For how long the session is this service's.
    tenure: Tenure,
}

impl Commits {
    /// Those of a session that is this service's for so long.
    pub fn within(tenure: Tenure) -> Self {
        Self { tenure, ..Self::default() }
    }

    /// Whether no commit is under way and nobody waits for one.
    pub fn are_settled(&self) -> bool {
        !self.are_under_way() && self.due.is_empty()
    }

    fn are_under_way(&self) -> bool {
        self.under_way.is_some() || self.moving.is_some()
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
        self.under_way
            .iter()
            .filter_map(|commit| commit.share.as_ref())
            .map(|share| share.bytes)
            .sum()
    }

    /// Why the last one failed, if it did.
    pub fn failure(&self) -> Option<&Cause> {
        self.failure.as_ref()
    }

    /// Whether what a running turn says may be kept now.
    pub fn may_begin(&self) -> bool {
        !self.are_under_way() && self.retry_at.is_none()
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

    /// Answers an interrupt when what it is about is told, or when that takes long.
    pub fn answer_soon(
        &mut self,
        reply: oneshot::Sender<InterruptReport>,
        report: InterruptReport,
    ) {
        if self.are_settled() {
            reply.send(report).ok();
            return;
        }
        self.answers.push((reply, report));
        self.answer_by.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    /// Answers those who have waited.
    pub fn answer_those_who_wait(&mut self) {
        self.answer_by = None;
        for (reply, report) in std::mem::take(&mut self.answers) {
            reply.send(report).ok();
        }
    }

    /// Whether a commit may begin now. If one is under way, another follows it; one that waits
    /// for a move takes along what there is by then.
    pub fn claim(&mut self) -> bool {
        self.wanted = self.under_way.is_some();
        if self.are_under_way() {
            return false;
        }
        self.retry_at = None;
        true
    }

    /// The commit that was claimed begins when this move is settled.
    pub fn begin_move(
        &mut self,
        to: CliSessionId,
        asked: impl Future<Output = Result<Taken, Cause>> + Send + 'static,
        is_trial: bool,
    ) {
        self.moving = Some(Move { answer: spawn_owned(asked), to, is_trial });
    }

    /// Whether another is to follow.
    pub fn wants_another(&self) -> bool {
        self.wanted || !self.due.is_empty()
    }

    /// What becomes of those who wait depends on this work of the store.
    pub fn begin(
        &mut self,
        work: impl Future<Output = Result<(), StoreError>> + Send + 'static,
        share: Option<Share>,
        is_trial: bool,
    ) {
        let mut due = std::mem::take(&mut self.due);
        due.turns.iter_mut().for_each(Untold::begin_commit);
        // A task of its own: the store has the order even if the session ends first.
        self.under_way = Some(UnderWay { answer: spawn_owned(work), share, due, is_trial });
    }

    /// There is nothing to keep.
    pub fn succeed(&mut self, is_trial: bool) -> Outcome {
        let due = std::mem::take(&mut self.due);
        self.conclude(due, Ok(()), is_trial)
    }

    /// What there is to keep cannot be.
    pub fn fail(&mut self, cause: Cause, is_trial: bool) -> Outcome {
        let due = std::mem::take(&mut self.due);
        self.expelled |= matches!(cause, Cause::SessionConflict { .. })
            && due.turns.iter().any(Untold::has_result);
        self.conclude(due, Err(cause), is_trial)
    }

    /// The store has answered. Returns what becomes of those who wait, and what of the session
    /// was in the commit; `None` if none was under way.
    pub fn answered(&mut self, answer: Result<(), StoreError>) -> Option<(Outcome, Option<Share>)> {
        let UnderWay { share, due, is_trial, .. } = self.under_way.take()?;
        Some((self.conclude(due, answer.map_err(failed), is_trial), share))
    }

    /// Whether those who wait for the next one are told of the failure of this one instead.
    pub fn ends_here(&mut self) -> Option<Outcome> {
        let cause = self.failure.clone().filter(|_| self.ends_with_a_failure)?;
        self.wanted = false;
        let due = std::mem::take(&mut self.due);
        Some(self.conclude(due, Err(cause), false))
    }

    /// Whether the session is this service's no more, though nobody has said so yet.
    pub fn are_outlived(&self) -> bool {
        self.tenure.is_over()
    }

    /// The session is this service's no more. Nobody waits for the store any longer: it may keep
    /// what it was given, or refuse it, and those who ask again learn which.
    pub fn lose(&mut self, cause: Cause) -> Outcome {
        // Said once.
        self.tenure = Tenure::default();
        (self.wanted, self.moving) = (false, None);
        let mut due = std::mem::take(&mut self.due);
        if let Some(commit) = self.under_way.take() {
            due.turns.splice(..0, commit.due.turns);
            due.updates.splice(..0, commit.due.updates);
        }
        self.conclude(due, Err(cause), false)
    }

    /// What could not be kept is tried again after a while.
    pub fn try_again(&mut self) {
        self.retry_at = Some(Instant::now() + AGAIN);
    }

    /// Whether a store that fails has just been tried, and did not; said once.
    pub fn take_trust(&mut self) -> bool {
        std::mem::take(&mut self.trusted)
    }

    fn conclude(&mut self, due: Due, result: Result<(), Cause>, is_trial: bool) -> Outcome {
        self.trusted = is_trial && result.is_ok();
        self.failure = result.clone().err();
        self.retry_at = None;
        let Due { turns, updates } = due;
        Outcome { result, turns, updates, kept: None, is_trial }
    }

    /// Waits for what becomes of commits; for ever while nothing is under way. Cancel safe.
    pub async fn stir(&mut self) -> Stir {
        let (answer_by, idle) = (self.answer_by, !self.are_under_way());
        let retry_at = self.retry_at.filter(|_| idle);
        let tenure = &mut self.tenure;
        let answered = async {
            match &mut self.under_way {
                Some(commit) => (&mut commit.answer)
                    .await
                    .unwrap_or_else(|_| Err(StoreError::unavailable("the store is closed"))),
                None => std::future::pending().await,
            }
        };
        let settled = async {
            match &mut self.moving {
                Some(moving) => (&mut moving.answer)
                    .await
                    .unwrap_or_else(|error| Err(Cause::Internal { detail: error.to_string() })),
                None => std::future::pending().await,
            }
        };
        let taken = tokio::select! {
            biased;
            () = tenure.over() => return Stir::Lost,
            taken = settled => taken,
            answer = answered => return Stir::Answered(answer),
            () = at(answer_by) => return Stir::Impatient,
            () = at(retry_at) => return Stir::Again,
        };
        match self.moving.take() {
            Some(Move { to, is_trial, .. }) => Stir::Settled(Settled { to, taken, is_trial }),
            None => std::future::pending().await,
        }
    }
}

/// What a caller is told whose call the store did not serve: the one place that says so.
pub fn failed(error: StoreError) -> Cause {
    let detail = error.to_string();
    match error {
        StoreError::Conflict { conversation, owner: Some(owner) } => {
            Cause::SessionConflict { conversation, owner }
        }
        StoreError::Fenced { owner } | StoreError::Elsewhere { owner, .. } => Cause::moved(owner),
        StoreError::Unavailable { .. } => Cause::StoreUnavailable { detail },
        StoreError::Conflict { owner: None, .. } | StoreError::Corrupt(_) => {
            Cause::Internal { detail }
        }
    }
}
