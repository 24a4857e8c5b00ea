//! Waiting without going deaf: while a session waits for its process to exit or to answer, for the
//! store or for the disk, it keeps handling commands, as [`crate::session::admission`] decides, so that no
//! caller waits for something that is not its own. Commands take effect at once where that is
//! possible, and otherwise when the wait is over: a close ends the session after the current
//! wait; an interrupt, or the last listener's departure, cancels the turn that was about to begin.
//! While a process dies in a turn, an interrupt or a close waits for what that printed last, which
//! says whether there was anything left to stop.

use std::{future::Future, pin::pin, time::Duration};

use crate::{
    domain::failure::Cause,
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, CloseReport, Command, InterruptOutcome, InterruptReport},
        commits::Stir,
        state::{Active, Disposition, Phase},
        stop::{AfterInterrupt, Stop, StopFor},
        task::SessionTask,
        undone::Undone,
        work_stops::{StopReply, WorkStop, WorkToStop},
    },
    turn::log::TurnLog,
};

/// What happens while a session is busy.
pub(in crate::session) enum Interruption {
    /// The store has answered.
    Stir(Stir),
    /// Somebody asks something; `None`: nobody can any more.
    Command(Option<Command>),
    /// The last listener of a turn has gone.
    ListenersGone,
}

impl SessionTask {
    /// Runs `work` to its completion while handling commands.
    pub(in crate::session) async fn while_busy<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.meanwhile(work, Self::answer_while_busy).await
    }

    /// Like [`Self::while_busy`] in a turn whose process is dead, before it is known what becomes
    /// of the turn. Whoever wants it stopped waits for that in `stops`.
    pub(super) async fn while_dying<T>(
        &mut self,
        stops: &mut Vec<StopFor>,
        work: impl Future<Output = T>,
    ) -> T {
        self.meanwhile(work, |task, command| task.answer_while_dying(command, stops)).await
    }

    async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut answer: impl FnMut(&mut Self, Command),
    ) -> T {
        let mut work = pin!(work);
        let mut gone = false;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                other = self.interruption() => gone |= self.deal_with(other, &mut answer),
            }
        };
        self.pass_on(gone);
        done
    }

    /// Like [`Self::while_busy`], but drops `work` as soon as the session is closing, or the turn
    /// that it was for has ended.
    pub(in crate::session) async fn while_wanted<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Undone> {
        let turn = self.queue.expected().cloned();
        let mut work = pin!(work);
        let mut gone = false;
        let done = loop {
            if self.leaving.is_some() || turn.as_ref().is_some_and(TurnLog::is_ended) {
                break Err(Undone::Unwanted);
            }
            tokio::select! {
                biased;
                done = &mut work => break Ok(done),
                other = self.interruption() => {
                    gone |= self.deal_with(other, Self::answer_while_busy);
                }
            }
        };
        self.pass_on(gone);
        done
    }

    /// Waits for what may happen while the session is busy. Cancel safe.
    async fn interruption(&mut self) -> Interruption {
        let may_be_asked = !self.inbox.is_closed() || !self.inbox.is_empty();
        tokio::select! {
            stir = self.journal.commits.stir() => Interruption::Stir(stir),
            command = self.inbox.recv(), if may_be_asked => Interruption::Command(command),
            () = self.queue.listeners_gone() => Interruption::ListenersGone,
        }
    }

    /// Handles one interruption. Returns true if a turn has lost its last listener.
    fn deal_with(
        &mut self,
        interruption: Interruption,
        answer: impl FnOnce(&mut Self, Command),
    ) -> bool {
        match interruption {
            Interruption::Stir(stir) => self.stirred(stir),
            Interruption::Command(Some(command)) => answer(self, command),
            Interruption::Command(None) => self.leave(CloseReason::Shutdown),
            Interruption::ListenersGone => {
                self.drop_abandoned();
                if let Some(turn) = self.queue.abandoned().cloned() {
                    self.cancel(&turn, &Cause::TurnInterrupted);
                }
                return true;
            }
        }
        false
    }

    /// Tells the next phase that listeners have gone: `Notify` has used up the signal here, and
    /// only that phase knows whether its turn goes on without them.
    fn pass_on(&self, gone: bool) {
        if gone {
            self.queue.listeners_gone_notifier().notify_one();
        }
    }

    fn answer_while_busy(&mut self, command: Command) {
        let availability = self.availability_while_busy();
        if let Some(purpose) = self.answer_without_process(command, availability) {
            self.give_up_turn(purpose);
        }
    }

    fn answer_while_dying(&mut self, command: Command, stops: &mut Vec<StopFor>) {
        let availability = match self.leaving {
            Some(reason) => Availability::Closing(reason),
            None if stops.is_empty() => Availability::Running,
            None => Availability::Stopping { leaves: stops.iter().any(StopFor::ends_session) },
        };
        stops.extend(self.answer_without_process(command, availability));
    }

    /// Handles a command while no process is at hand. Returns what a turn is to be stopped for.
    fn answer_without_process(
        &mut self,
        command: Command,
        availability: Availability,
    ) -> Option<StopFor> {
        match self.take(command, availability) {
            Disposition::Done => {}
            Disposition::Stop(purpose) => return Some(purpose),
            Disposition::Leave(reason) => self.leave(reason),
            Disposition::Hibernate(_, reply) => {
                reply.send(false).ok();
            }
            Disposition::Steer(steer) => self.steer_later(*steer),
            Disposition::StopWork(stop) => self.stop_work_later(stop),
            Disposition::Respond(prompt_id, decision, reply) => {
                self.respond_later(Answer { prompt_id, decision, reply });
            }
        }
        None
    }

    fn availability_while_busy(&self) -> Availability {
        match self.leaving {
            Some(reason) => Availability::Closing(reason),
            None if self.next_log().is_some() => Availability::Connecting,
            // A turn is over, and its caller has not been told.
            None if self.queue.current().is_some() => Availability::Settling,
            None => self.unless_untold(Availability::Between),
        }
    }

    /// The turn that begins next. To callers who interrupt it counts as the running turn.
    fn next_log(&self) -> Option<&TurnLog> {
        let nothing_runs =
            self.queue.current().is_none() && self.journal.commits.untold().next().is_none();
        let waiting = self.queue.first().filter(|_| nothing_runs);
        self.queue.expected().or(waiting)
    }

    /// Ends the turn that begins next on behalf of a caller, and replies to that caller.
    pub(super) fn give_up_turn(&mut self, purpose: StopFor) {
        let waits = self.queue.expected().is_none();
        if waits && matches!(purpose, StopFor::NextTurn) {
            // The new turn is at the front of the queue: there is nothing to stop.
            return;
        }
        let Some(log) = self.next_log().cloned() else { return };
        if waits {
            drop(self.queue.pop());
        }
        let cause = match &purpose {
            StopFor::Close { reason, .. } => reason.cause(),
            StopFor::NextTurn | StopFor::Interrupt { .. } => Cause::TurnInterrupted,
        };
        self.cancel(&log, &cause);
        self.answer_stop(purpose, InterruptOutcome::Interrupted);
    }

    /// Replies to a caller who wanted a turn stopped that has ended, on its own or because of that.
    pub(super) fn answer_stop(&mut self, purpose: StopFor, outcome: InterruptOutcome) {
        match purpose {
            StopFor::NextTurn => {}
            StopFor::Interrupt { keep_session, all, reply } => {
                let still_running = self.status.work.tasks.clone();
                let works = !still_running.is_empty();
                let report = InterruptReport::of_turn(outcome, true, Duration::ZERO);
                let report = InterruptReport { still_running, ..report };
                if keep_session && works && all {
                    // The turn has not begun, and its process has other things to do.
                    let reply = StopReply::Interrupt(reply, report);
                    return self.stop_work_later(WorkStop { what: WorkToStop::All, reply });
                }
                if !keep_session {
                    self.replies.interrupts.push((reply, report));
                    self.leave(CloseReason::Interrupted);
                } else if outcome == InterruptOutcome::Interrupted {
                    // Its end was told when it was given up.
                    reply.send(report).ok();
                } else {
                    self.journal.commits.answer_soon(reply, report);
                }
            }
            StopFor::Close { reason, reply } => {
                let report =
                    CloseReport { closed: true, had_active_turn: true, not_forgotten: None };
                self.replies.closes.push((reply, report));
                self.leave(reason);
            }
        }
    }

    /// Ends a turn that has not begun, unless it has ended already.
    pub(in crate::session) fn cancel(&mut self, log: &TurnLog, cause: &Cause) {
        if log.is_ended() {
            return;
        }
        self.ctx.tenant.counters.interrupted.add_one();
        let failure = self.failure(cause.clone());
        self.fail(log, failure);
        self.show();
    }

    /// Ends a turn that does not begin because nobody wants it any more.
    pub(super) fn drop_turn(&mut self, log: &TurnLog) {
        let leaves = || self.leaving.map_or(Cause::TurnInterrupted, |reason| reason.cause());
        let cause = self.journal.moved().cloned().unwrap_or_else(leaves);
        self.cancel(log, &cause.in_turn(false));
    }

    /// The session closes once the current wait is over.
    pub(in crate::session) fn leave(&mut self, reason: CloseReason) {
        self.leaving = Some(self.leaving.map_or(reason, |before| before.or(reason)));
    }

    /// The next phase, replaced by closing if the session has to close.
    pub(in crate::session) fn unless_leaving(&mut self, next: Phase) -> Phase {
        let Some(reason) = self.leaving else { return next };
        match next {
            Phase::Detached => Phase::Closing(None, reason),
            Phase::Connecting(turn) => {
                self.cancel(&turn.log, &reason.cause());
                Phase::Closing(None, reason)
            }
            Phase::Idle(process) | Phase::Settling(process) => {
                Phase::Closing(Some(process), reason)
            }
            Phase::Active(active) => self.stop_to_leave(active, reason),
            Phase::Interrupting(active, mut stop) => {
                stop.leave(reason);
                Phase::Interrupting(active, stop)
            }
            Phase::Closing(process, before) => Phase::Closing(process, before.or(reason)),
        }
    }

    fn stop_to_leave(&self, active: Active, reason: CloseReason) -> Phase {
        let limit = self.ctx.settings.interrupt_timeout;
        Phase::Interrupting(active, Stop::new(limit, AfterInterrupt::Leave(reason)))
    }
}
