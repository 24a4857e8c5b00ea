//! Phase: the session waits for its process, for a turn that has not begun.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    domain::{
        acquired::Acquired,
        failure::{Cause, Failure},
        options::Options,
    },
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, CloseReport, Command, InterruptOutcome, InterruptReport},
        process::Process,
        queue::Waiting,
        said::Kept,
        state::{DetachReason, Disposition, Phase},
        status::Status,
        stop::StopFor,
        task::SessionTask,
        undone::Undone,
    },
    supply::{Conversation, Lease, Leasing, Miss, Order, SpareUse},
    tools::SessionTools,
    traces::Span,
    turn::event::ProcessOrigin,
};

/// What a session was before it took on what a turn wants.
type Before = (Arc<Options>, Arc<Acquired>, Conversation);

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
    pub(in crate::session) async fn connecting(&mut self, turn: Waiting) -> Phase {
        // It can be joined by its id before it begins.
        self.queue.expect(&turn);
        if self.is_over(&turn) {
            return self.after_loss();
        }
        if let Some(GiveUp { next, interrupt }) = self.until_kept(&turn).await {
            let next = if matches!(next, Phase::Detached) { self.after_loss() } else { next };
            self.answer_given_up(interrupt, Instant::now());
            return next;
        }
        let Status { options, acquired, .. } = &*self.status;
        let before = (Arc::clone(options), Arc::clone(acquired), self.ownership.current());
        let prepared = match self.prepare_to_connect(&turn).await {
            Ok(prepared) => prepared,
            Err(Undone::Unwanted) => {
                self.drop_turn(&turn.log);
                self.restore(before);
                return self.after_loss();
            }
            Err(Undone::Failed(cause)) => return self.not_prepared(&turn, cause),
        };
        if self.is_over(&turn) {
            self.restore(before);
            return self.after_loss();
        }
        let (came, connect) = (Instant::now(), turn.waits_for_process());
        let cancelled = CancellationToken::new();
        let mut leasing = self.ctx.supply.lease(self.order(&turn, prepared, cancelled.clone()));
        let given_up = loop {
            tokio::select! {
                leased = &mut leasing => return match leased {
                    Ok(lease) => self.connected(lease, turn, came, connect),
                    Err(failure) => self.not_connected(&turn, failure, connect),
                },
                command = self.inbox.recv() => {
                    if let Some(given_up) = self.while_connecting(command, &turn) {
                        break given_up;
                    }
                }
                stir = self.journal.commits.stir() => if self.moves(stir, &turn.log) {
                    break Phase::Closing(None, CloseReason::Moved).into();
                },
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

    /// The process that a turn needs.
    fn order(
        &self,
        turn: &Waiting,
        (begins, said): (bool, Arc<Kept>),
        cancelled: CancellationToken,
    ) -> Order {
        Order {
            session: self.key.clone(),
            conversation: self.ownership.current(),
            begins,
            said: Some(said),
            options: self.options_at_start(),
            grants: self.status.acquired.grants.clone(),
            tools: self.tools(),
            variables: self.trace_variables(&turn.log),
            deadline: turn.request.patience(),
            cancelled,
        }
    }

    /// The tool servers that the session uses.
    fn tools(&self) -> Option<SessionTools> {
        let names = self.status.options.tool_servers.clone();
        let status = self.status.watch();
        let running = move || status.borrow().running.clone();
        let servers = self.ctx.tools.clone();
        let memory = self.accounts.memory.clone();
        (!names.is_empty())
            .then(|| SessionTools::new(servers, self.key.clone(), names, memory, running))
    }

    /// Where a session goes whose turn cannot begin.
    fn not_prepared(&mut self, turn: &Waiting, cause: Cause) -> Phase {
        let failure = self.failure(cause);
        self.fail(&turn.log, failure);
        if self.queue.is_empty() && !self.journal.is_known() {
            // Nothing begins here: it does not keep a place in the pool.
            return Phase::Closing(None, CloseReason::ConnectFailed);
        }
        Phase::Detached
    }

    /// Waits until the store has what an earlier process said last: it belongs to what the
    /// next one takes up.
    async fn until_kept(&mut self, turn: &Waiting) -> Option<GiveUp> {
        // Of a session of which nothing is known yet there is nothing to keep.
        if self.journal.is_recalled() {
            self.keep_on();
        }
        self.claim();
        while !self.journal.commits.are_settled() {
            tokio::select! {
                stir = self.journal.commits.stir() => if self.moves(stir, &turn.log) {
                    return Some(Phase::Closing(None, CloseReason::Moved).into());
                },
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
    async fn give_up(&mut self, leasing: Leasing, given_up: GiveUp, before: Before) -> Phase {
        let began = Instant::now();
        if let Phase::Closing(_, reason) = given_up.next {
            self.leave(reason);
        }
        let next = match (self.while_busy(leasing).await, given_up.next) {
            // It was ready just then: the next turn is fitted to it.
            (Ok(lease), Phase::Detached) => Phase::Idle(self.adopt(lease)),
            (Ok(lease), Phase::Closing(None, reason)) => {
                Phase::Closing(Some(self.process(lease)), reason)
            }
            (_, next) => {
                self.restore(before);
                if matches!(next, Phase::Detached) { self.after_loss() } else { next }
            }
        };
        self.answer_given_up(given_up.interrupt, began);
        next
    }

    /// What a turn wanted goes with it.
    fn restore(&mut self, (options, acquired, conversation): Before) {
        self.status.restore_options(options);
        self.status.replace_acquired(acquired);
        self.converse(conversation);
    }

    fn answer_given_up(
        &mut self,
        interrupt: Option<(bool, oneshot::Sender<InterruptReport>)>,
        began: Instant,
    ) {
        if let Some((keep, reply)) = interrupt {
            let outcome = InterruptOutcome::Interrupted;
            let report = InterruptReport::of_turn(outcome, true, began.elapsed());
            if keep {
                reply.send(report).ok();
            } else {
                self.replies.interrupts.push((reply, report));
            }
        }
    }

    fn connected(
        &mut self,
        lease: Lease,
        turn: Waiting,
        came: Instant,
        mut connect: Span,
    ) -> Phase {
        let mut process = self.adopt(lease);
        process.was_told(self.trace_variables(&turn.log));
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
        connect.set("session_pool.process", origin.name());
        connect.set("session_pool.client_id", process.lease.client_id.to_string());
        drop(connect);
        self.begin(process, turn, origin, came)
    }

    /// Takes a process that serves the session from here on.
    fn adopt(&mut self, lease: Lease) -> Box<Process> {
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
            spare = ?lease.spare,
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
    fn process(&self, lease: Lease) -> Box<Process> {
        let timeout = self.ctx.settings.prompt_timeout;
        let rules = &self.status.acquired.grants;
        // Boxed: phases hand it on, and it is larger than what they do with it.
        Box::new(Process::new(lease, rules, &self.accounts.memory, timeout))
    }

    fn not_connected(&mut self, turn: &Waiting, failure: Failure, mut connect: Span) -> Phase {
        connect.fail(failure.cause.reason());
        drop(connect);
        self.notice_lost_tenure();
        if self.has_moved(&turn.log) {
            return Phase::Closing(None, CloseReason::Moved);
        }
        self.ctx.tenant.counters.connect_failures.add_one();
        self.log_not_connected(&failure);
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

    /// Whether a turn that has not begun is not to begin any more.
    pub(super) fn is_over(&mut self, turn: &Waiting) -> bool {
        turn.log.is_ended() || self.caller_left(turn)
    }

    /// The start is given up if the caller of this turn left: the next in the queue may
    /// want another process.
    fn caller_left(&mut self, turn: &Waiting) -> bool {
        let left = turn.request.on_disconnect.abandons(&turn.log);
        if left {
            self.cancel(&turn.log, &Cause::TurnInterrupted);
        }
        left
    }

    fn while_connecting(&mut self, command: Option<Command>, turn: &Waiting) -> Option<GiveUp> {
        let Some(command) = command else {
            self.cancel(&turn.log, &Cause::ShuttingDown);
            return Some(Phase::Closing(None, CloseReason::Shutdown).into());
        };
        match self.take(command, Availability::Connecting) {
            // There is no process that could be let go.
            Disposition::Done | Disposition::Hibernate(..) => None,
            Disposition::Stop(StopFor::NextTurn) => {
                self.cancel(&turn.log, &Cause::TurnInterrupted);
                Some(Phase::Detached.into())
            }
            Disposition::Stop(StopFor::Interrupt { keep_session, all: _, reply }) => {
                self.cancel(&turn.log, &Cause::TurnInterrupted);
                let next = match keep_session {
                    true => Phase::Detached,
                    false => Phase::Closing(None, CloseReason::Interrupted),
                };
                Some(GiveUp { next, interrupt: Some((keep_session, reply)) })
            }
            Disposition::Stop(StopFor::Close { reason, reply }) => {
                self.cancel(&turn.log, &reason.cause());
                let report =
                    CloseReport { closed: true, had_active_turn: true, not_forgotten: None };
                self.replies.closes.push((reply, report));
                Some(Phase::Closing(None, reason).into())
            }
            Disposition::Leave(reason) => {
                self.cancel(&turn.log, &reason.cause());
                Some(Phase::Closing(None, reason).into())
            }
            Disposition::StopWork(stop) => {
                self.stop_work_later(stop);
                None
            }
            Disposition::Steer(steer) => {
                self.steer_later(*steer);
                None
            }
            Disposition::Respond(prompt_id, decision, reply) => {
                self.respond_later(Answer { prompt_id, decision, reply });
                None
            }
        }
    }
}
