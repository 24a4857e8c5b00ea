//! Phase: the session waits for its process, for a turn that has not begun.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    admission::Availability,
    command::{CloseReason, CloseReport, Command, InterruptOutcome, InterruptReport, ResumeFrom},
    phase::{DetachReason, Disposition, Phase},
    process::Process,
    queue::Waiting,
    said::Kept,
    status::Status,
    stop::StopFor,
    task::SessionTask,
};
use crate::{
    domain::{
        acquired::Acquired,
        failure::{Cause, Failure, Remedy},
        ids::CliSessionId,
        options::Options,
    },
    supply::{Conversation, Lease, Leasing, Miss, Order, SpareUse},
    turn::event::ProcessOrigin,
};

/// A start that is not wanted any more.
struct GiveUp {
    next: Phase,
    /// Who interrupted it, and whether the session stays.
    interrupt: Option<(bool, oneshot::Sender<InterruptReport>)>,
}

impl From<Phase> for GiveUp {
    fn from(next: Phase) -> Self {
        Self { next, interrupt: None }
    }
}

impl SessionTask {
    pub(super) async fn connecting(&mut self, turn: Waiting) -> Phase {
        // It can be joined by its id before it begins.
        self.queue.begin(&turn.log);
        if let Some(GiveUp { next, interrupt }) = self.until_kept(&turn).await {
            let next = if matches!(next, Phase::Detached) { self.after_loss() } else { next };
            self.answer_given_up(interrupt, Instant::now());
            return next;
        }
        let Status { options, acquired, .. } = &*self.status;
        let before = (Arc::clone(options), Arc::clone(acquired), self.ownership.current());
        let (begins, said) = match self.prepare_to_connect(&turn).await {
            Ok(prepared) => prepared,
            Err(cause) => {
                let failure = self.failure(cause);
                self.fail(&turn.log, failure);
                if self.queue.is_empty() && !self.journal.is_known() {
                    // Nothing begins here: it does not keep a place in the pool.
                    return Phase::Closing(None, CloseReason::ConnectFailed);
                }
                return Phase::Detached;
            }
        };
        let came = Instant::now();
        let cancelled = CancellationToken::new();
        let mut leasing = self.ctx.supply.lease(Order {
            session: self.key.clone(),
            conversation: self.ownership.current(),
            begins,
            said: Some(said),
            options: self.options_at_start(),
            grants: self.status.acquired.grants.clone(),
            deadline: turn.request.patience(),
            cancelled: cancelled.clone(),
        });
        let given_up = loop {
            tokio::select! {
                leased = &mut leasing => return match leased {
                    Ok(lease) => self.connected(lease, turn, came),
                    Err(failure) => self.not_connected(&turn, failure),
                },
                command = self.inbox.recv() => {
                    if let Some(given_up) = self.while_connecting(command, &turn) {
                        break given_up;
                    }
                }
                () = self.queue.listeners_gone() => {
                    self.drop_abandoned();
                    if self.caller_left(&turn) {
                        break Phase::Detached.into();
                    }
                }
            }
        };
        cancelled.cancel();
        self.give_up(leasing, given_up, before).await
    }

    /// Waits until the store has what an earlier process said last: it belongs to what the
    /// next one takes up.
    async fn until_kept(&mut self, turn: &Waiting) -> Option<GiveUp> {
        // Of a session of which nothing is known yet there is nothing to keep.
        if self.journal.is_recalled() {
            self.keep_on();
            self.claim();
        }
        while !self.journal.commits.are_settled() {
            tokio::select! {
                stir = self.journal.commits.stir() => self.stirred(stir),
                command = self.inbox.recv() => {
                    if let Some(given_up) = self.while_connecting(command, turn) {
                        return Some(given_up);
                    }
                }
                () = self.queue.listeners_gone() => {
                    self.drop_abandoned();
                    if self.caller_left(turn) {
                        return Some(Phase::Detached.into());
                    }
                }
            }
        }
        None
    }

    /// Waits until nothing of a start is left that was given up: two processes must not
    /// serve one conversation, and who closed a session may count on its end.
    async fn give_up(
        &mut self,
        leasing: Leasing,
        given_up: GiveUp,
        (options, acquired, conversation): (Arc<Options>, Arc<Acquired>, Conversation),
    ) -> Phase {
        let began = Instant::now();
        let next = match (leasing.await, given_up.next) {
            // It was ready just then: the next turn is fitted to it.
            (Ok(lease), Phase::Detached) => Phase::Idle(self.adopt(lease)),
            (Ok(lease), Phase::Closing(None, reason)) => {
                Phase::Closing(Some(self.process(lease)), reason)
            }
            (_, next) => {
                // What the turn wanted goes with it.
                self.status.restore_options(options);
                self.status.replace_acquired(acquired);
                self.converse(conversation);
                if matches!(next, Phase::Detached) { self.after_loss() } else { next }
            }
        };
        self.answer_given_up(given_up.interrupt, began);
        next
    }

    fn answer_given_up(
        &mut self,
        interrupt: Option<(bool, oneshot::Sender<InterruptReport>)>,
        began: Instant,
    ) {
        if let Some((keep, reply)) = interrupt {
            let report = InterruptReport {
                outcome: InterruptOutcome::Interrupted,
                had_active_turn: true,
                elapsed: began.elapsed(),
            };
            if keep {
                reply.send(report).ok();
            } else {
                self.replies.interrupts.push((reply, report));
            }
        }
    }

    /// Settles what the process is to be: conversation and options. Returns whether the
    /// conversation begins, and what was said in the one that is taken up.
    async fn prepare_to_connect(&mut self, turn: &Waiting) -> Result<(bool, Arc<Kept>), Cause> {
        let request = &turn.request;
        self.recall().await?;
        if let Some(cause) = self.journal.commits.failure() {
            return Err(cause.clone());
        }
        let known = self.journal.is_known();
        let elsewhere =
            request.resume.is_some_and(|resume| resume.id != self.status.cli_session_id);
        // One that is sent again was granted its conversation before.
        if known && elsewhere && !request.new_conversation && turn.again.is_none() {
            return Err(Cause::mismatch(&["resume"], Remedy::NewConversation));
        }
        let options = self.status.options.updated(&request.options);
        self.check_budget(&options)?;
        let conversation = match request.resume {
            Some(ResumeFrom { id, fork: true }) => {
                Conversation::CopyOf { from: id, to: self.ownership.fresh()? }
            }
            Some(ResumeFrom { id, fork: false }) => {
                self.take_up(id).await?;
                Conversation::Existing(id)
            }
            None if request.new_conversation => Conversation::Own(self.ownership.fresh()?),
            None => self.go_on(known).await?,
        };
        self.begin_with(request.resume, request.new_conversation).await?;
        self.asked_anew(&request.options);
        self.hold_to_policy().await?;
        self.converse(conversation);
        let source = match conversation {
            Conversation::Own(id) if !known || request.new_conversation => {
                debug!(cli_session_id = %id, "conversation_begins");
                self.status.acquire(Acquired::begin_conversation);
                return Ok((true, Arc::new(self.nothing_said(id))));
            }
            Conversation::Own(id) | Conversation::Existing(id) => id,
            Conversation::CopyOf { from, .. } => from,
        };
        Ok((false, Arc::new(self.said(source).await?)))
    }

    /// Makes a conversation the session's own, or says whose it is.
    pub(super) async fn take_up(&mut self, id: CliSessionId) -> Result<(), Cause> {
        let taken = self.ownership.ask_for(id).await?;
        self.ownership.take(taken);
        Ok(())
    }

    /// The conversation that the next process works in when the turn does not say. One that
    /// others have too, from before that was refused, is gone on with in a copy.
    async fn go_on(&mut self, is_known: bool) -> Result<Conversation, Cause> {
        let current = self.ownership.current();
        match current {
            Conversation::Own(id) if is_known => match self.take_up(id).await {
                Err(Cause::SessionConflict { .. }) => {
                    Ok(Conversation::CopyOf { from: id, to: self.ownership.fresh()? })
                }
                taken => taken.map(|()| current),
            },
            Conversation::Own(_) => self.ownership.go_on().map(|()| current),
            // Chosen by a turn that got no process.
            Conversation::Existing(id) => self.take_up(id).await.map(|()| current),
            Conversation::CopyOf { .. } => Ok(current),
        }
    }

    fn connected(&mut self, lease: Lease, turn: Waiting, came: Instant) -> Phase {
        let mut process = self.adopt(lease);
        let lease = &mut process.lease;
        lease.connect_time = came.elapsed();
        let counters = &self.ctx.tenant.counters;
        let waited = u64::try_from(lease.connect_time.as_micros()).unwrap_or(u64::MAX);
        let origin = if lease.resumed {
            counters.resume_micros.add(waited);
            ProcessOrigin::Resumed
        } else if lease.spare == SpareUse::Taken {
            ProcessOrigin::CreatedFromSpare
        } else {
            counters.cold_start_micros.add(waited);
            ProcessOrigin::Created
        };
        self.begin(process, turn, origin, came)
    }

    /// Takes a process that serves the session from here on.
    fn adopt(&mut self, lease: Lease) -> Process {
        let counters = &self.ctx.tenant.counters;
        if lease.resumed {
            counters.sessions_resumed.add_one();
        } else {
            counters.sessions_created.add_one();
        }
        match lease.spare {
            SpareUse::NotKept => counters.cold_starts.add_one(),
            SpareUse::Taken => counters.from_spare.add_one(),
            SpareUse::Missed(miss) => {
                counters.cold_starts.add_one();
                match miss {
                    Miss::NoneReady => counters.spare_misses_none_ready.add_one(),
                    Miss::Options => counters.spare_misses_options.add_one(),
                    Miss::Conversation => counters.spare_misses_conversation.add_one(),
                    Miss::Folder => counters.spare_misses_folder.add_one(),
                    Miss::Failed => counters.spare_misses_failed.add_one(),
                }
            }
        }
        debug!(
            session_id = %self.status.session_id,
            client_id = %lease.client_id,
            resumed = lease.resumed,
            "session_created"
        );
        // Unless it is let go, the process leaves by being lost.
        self.detach_reason = DetachReason::Lost;
        self.status.acquire(|acquired, _| acquired.begin_process());
        self.converse(Conversation::Own(lease.cli_session_id));
        self.journal.remember();
        self.process(lease)
    }

    /// A process that was given the rules of the session.
    fn process(&self, lease: Lease) -> Process {
        Process::new(lease, &self.status.acquired.grants, &self.accounts.memory)
    }

    fn not_connected(&mut self, turn: &Waiting, failure: Failure) -> Phase {
        self.ctx.tenant.counters.connect_failures.add_one();
        let session_id = self.status.session_id.clone();
        let client_id = failure.client_id.map(tracing::field::display);
        match failure.cause {
            // More processes would help, and only the operator can give them.
            Cause::NoProcess { .. } => {
                warn!(%session_id, error = %failure, "session_pool_no_process");
            }
            // Somebody asked for it.
            Cause::TenantQuota { .. }
            | Cause::ShuttingDown
            | Cause::TurnInterrupted
            | Cause::NotAllowed { .. }
            | Cause::ConversationNotFound { .. } => {
                debug!(%session_id, client_id, error = %failure, "session_pool_not_connected");
            }
            Cause::HoldsTooMuch { overrun, .. } if let Some(client_id) = failure.client_id => {
                self.warn_of(overrun, client_id);
            }
            _ => error!(%session_id, client_id, error = %failure, "session_pool_connection_failed"),
        }
        let cause = failure.cause.clone();
        self.fail(&turn.log, failure);
        // How long a turn waits for a place is its own caller's affair: the next one may
        // have more patience.
        if !matches!(cause, Cause::NoProcess { .. } | Cause::TenantQuota { .. }) {
            self.fail_queue(&cause);
        }
        if self.detach_reason == DetachReason::Hibernated || !self.queue.is_empty() {
            // It can still be connected, when there is a place or the CLI is well again.
            return Phase::Detached;
        }
        // A session that cannot be connected does not keep a place in the pool; its
        // conversation does not depend on that.
        Phase::Closing(None, CloseReason::ConnectFailed)
    }

    fn cancel(&mut self, turn: &Waiting, cause: &Cause) {
        self.ctx.tenant.counters.interrupted.add_one();
        let failure = self.failure(cause.clone());
        self.fail(&turn.log, failure);
    }

    /// The start is given up if the caller of this turn left: the next in the queue may
    /// want another process.
    fn caller_left(&mut self, turn: &Waiting) -> bool {
        let left = turn.request.on_disconnect.abandons(&turn.log);
        if left {
            self.cancel(turn, &Cause::TurnInterrupted);
        }
        left
    }

    fn while_connecting(&mut self, command: Option<Command>, turn: &Waiting) -> Option<GiveUp> {
        let Some(command) = command else {
            self.cancel(turn, &Cause::ShuttingDown);
            return Some(Phase::Closing(None, CloseReason::Shutdown).into());
        };
        match self.take(command, Availability::Connecting) {
            Disposition::Done => None,
            Disposition::Stop(StopFor::NextTurn) => {
                self.cancel(turn, &Cause::TurnInterrupted);
                Some(Phase::Detached.into())
            }
            Disposition::Stop(StopFor::Interrupt { keep_session, reply }) => {
                self.cancel(turn, &Cause::TurnInterrupted);
                let next = if keep_session {
                    Phase::Detached
                } else {
                    Phase::Closing(None, CloseReason::Interrupted)
                };
                Some(GiveUp { next, interrupt: Some((keep_session, reply)) })
            }
            Disposition::Stop(StopFor::Close { reason, reply }) => {
                self.cancel(turn, &closing_cause(reason));
                let report =
                    CloseReport { closed: true, had_active_turn: true, not_forgotten: None };
                self.replies.closes.push((reply, report));
                Some(Phase::Closing(None, reason).into())
            }
            Disposition::Leave(reason) => {
                self.cancel(turn, &closing_cause(reason));
                Some(Phase::Closing(None, reason).into())
            }
            // There is no process, and no turn on it.
            Disposition::Hibernate(..) | Disposition::Respond(..) => None,
        }
    }
}

/// What the turns of a session that ends for this reason are told.
pub fn closing_cause(reason: CloseReason) -> Cause {
    match reason {
        CloseReason::Shutdown => Cause::ShuttingDown,
        CloseReason::Moved => Cause::SessionMoved { owner: String::new() },
        CloseReason::Requested { .. }
        | CloseReason::Unloaded
        | CloseReason::Interrupted
        | CloseReason::Ephemeral
        | CloseReason::ConnectFailed
        | CloseReason::Expired
        | CloseReason::Idle
        | CloseReason::Unused
        | CloseReason::Broken
        | CloseReason::Stuck => Cause::TurnInterrupted,
    }
}
