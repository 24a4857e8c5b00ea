//! Commands that come in: turns are queued or refused, listeners join. What depends on
//! the phase's own resources is handed back to the phase. The way of a turn comes first here.

use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{Span, debug, error_span, field::Empty};

use super::{
    admission::{Availability, Facts, Named, Position, Verdict, admit},
    command::{
        BackgroundPolicy, BusyPolicy, CloseReason, CloseReport, Command, InterruptOutcome,
        InterruptReport, InterruptTarget, Refusal, TurnRequest,
    },
    process::Process,
    queue::{PendingUpdate, Waiting},
    state::Disposition,
    stop::StopFor,
    task::SessionTask,
    work_stops::{StopReply, WorkStop, WorkToStop},
};
use crate::{
    domain::{failure::Cause, ids::TurnId},
    tenant::Share,
    traces::{Trace, TurnTrace},
    turn::{
        event::Partials,
        listener::{Follow, Listener},
        log::TurnLog,
    },
};

/// The report on a turn that is over.
const NOTHING_STOPPED: InterruptReport =
    InterruptReport::of_turn(InterruptOutcome::NoActiveTurn, false, Duration::ZERO);

impl SessionTask {
    /// Deals with a command as far as that does not depend on the phase's resources.
    pub(super) fn take(&mut self, command: Command, availability: Availability) -> Disposition {
        self.take_with(command, availability, None)
    }

    /// The same where this process is at hand.
    pub(super) fn take_with(
        &mut self,
        command: Command,
        availability: Availability,
        process: Option<&Process>,
    ) -> Disposition {
        let verdict = admit(availability, &self.facts(&command, process), &command);
        match (verdict, command) {
            (verdict, Command::Run { request, reply }) => {
                return self.take_turn(*request, reply, verdict, availability);
            }
            (Verdict::Refuse(cause), command) => command.refuse(self.failure(cause).into()),
            (Verdict::Closed, command) => command.refuse(Refusal::Closed),
            (_, Command::Attach { turn, from, partials, reply }) => {
                reply.send(self.attach(turn.as_ref(), from, partials)).ok();
            }
            (_, Command::Update { options, reply }) => {
                self.queue.push_update(PendingUpdate { options: *options, reply });
            }
            (_, Command::Respond { prompt_id, decision, reply }) => {
                return Disposition::Respond(prompt_id, decision, reply);
            }
            (_, Command::StopTask { task_id, reply }) => {
                let what = WorkToStop::Task(task_id);
                return Disposition::StopWork(WorkStop { what, reply: StopReply::Task(reply) });
            }
            (verdict, Command::Interrupt { target, keep_session, reply }) => {
                return self.take_interrupt(verdict, target, keep_session, reply);
            }
            (Verdict::Accept, Command::Hibernate { why, reply }) => {
                return Disposition::Hibernate(why, reply);
            }
            (verdict, Command::Hibernate { reply, .. }) => {
                reply.send(verdict == Verdict::AlreadySo).ok();
            }
            (Verdict::StopFirst, Command::Close { reason, reply }) => {
                return Disposition::Stop(StopFor::Close { reason, reply });
            }
            (Verdict::Decline, Command::Close { reply, .. }) => {
                let report =
                    CloseReport { closed: false, had_active_turn: true, not_forgotten: None };
                reply.send(report).ok();
            }
            (Verdict::LeaveLater, Command::Close { reply, .. }) => {
                self.hand_over_later();
                let report =
                    CloseReport { closed: false, had_active_turn: true, not_forgotten: None };
                reply.send(report).ok();
            }
            (_, Command::Close { reason, reply }) => {
                self.replies.closes.push((reply, self.nothing_to_close()));
                return Disposition::Leave(reason);
            }
        }
        Disposition::Done
    }

    /// What the session knows that matters for a command.
    fn facts(&self, command: &Command, process: Option<&Process>) -> Facts {
        let turn = if let Command::Run { request, .. } = command {
            request.turn_id.as_ref()
        } else {
            None
        };
        Facts {
            waiting: self.queue.len(),
            updates: self.queue.updates(),
            max_waiting: self.ctx.settings.max_queued_turns,
            knows_turn: turn.is_some_and(|id| self.find(Some(id)).is_some()),
            may_steer: process.is_some_and(|process| self.is_steering(command, process)),
            named: self.named(command),
            has_untold: self.journal.commits.untold().next().is_some(),
            works_behind: self.works_behind(process),
            hands_over: self.hands_over,
            may_hibernate: self.may_hibernate(process),
            may_yield: self.may_yield(process),
        }
    }

    /// Whether a command is a message for the turn that runs on a process. Where earlier ones wait
    /// for a turn it must not overtake them.
    fn is_steering(&self, command: &Command, process: &Process) -> bool {
        let Command::Run { request, .. } = command else { return false };
        request.on_busy == BusyPolicy::Steer
            && self.may_steer(request)
            && process.steers.has_room()
            && !self.queue.holds_message()
    }

    /// Puts a turn into the queue, joins one that is known by its id, or refuses it; its caller has
    /// the place to listen before it begins.
    fn take_turn(
        &mut self,
        request: TurnRequest,
        reply: oneshot::Sender<Result<Listener, Refusal>>,
        verdict: Verdict,
        availability: Availability,
    ) -> Disposition {
        if verdict == Verdict::Closed {
            reply.send(Err(Refusal::Closed)).ok();
            return Disposition::Done;
        }
        if let Some(log) = request.turn_id.as_ref().and_then(|id| self.find(Some(id))) {
            debug!(turn_id = %log.id(), "turn_joined_by_its_id");
            let listener = log.listen(1, request.partials).map_err(Refusal::from);
            reply.send(listener).ok();
            return Disposition::Done;
        }
        if let (Availability::Running, Some(current)) = (availability, self.queue.current()) {
            debug!(
                session_id = %self.status.session_id,
                turn_id = %current.id(),
                has_stream = true,
                has_handle = current.listeners() > 0,
                idle_seconds = self.status.last_used_at.elapsed().as_secs_f64(),
                "session_pool_active_stream_detected"
            );
        }
        let queued = match self.claim_share(&verdict) {
            Ok(queued) => queued,
            Err(cause) => {
                reply.send(Err(self.failure(cause).into())).ok();
                return Disposition::Done;
            }
        };
        if verdict == Verdict::Steer {
            return Disposition::Steer(Box::new(self.new_steer(request, queued, reply)));
        }
        let partials = request.partials;
        let waits = request.on_background == BackgroundPolicy::Wait;
        let follow = waits.then(|| Follow::channel(self.queue.listeners_gone_notifier()));
        let (following, follow) = follow.unzip();
        let waiting = Waiting { following, ..self.admitted(request, queued) };
        let listener = waiting.log.listen(1, partials).map_err(Refusal::from);
        // The caller may be gone already; then the turn has no listener and is dropped.
        reply.send(listener.map(|listener| listener.followed_by(follow))).ok();
        self.ctx.tenant.counters.turns.add_one();
        if matches!(verdict, Verdict::StopFirst | Verdict::Queue(Position::Next)) {
            self.queue.push_front(waiting);
        } else {
            self.queue.push_back(waiting);
        }
        self.show();
        if verdict == Verdict::StopFirst {
            Disposition::Stop(StopFor::NextTurn)
        } else {
            Disposition::Done
        }
    }

    /// What a turn takes of its tenant's bounds before it begins.
    fn claim_share(&self, verdict: &Verdict) -> Result<Share, Cause> {
        if let Verdict::Refuse(cause) = verdict {
            return Err(cause.clone());
        }
        let tenant = &self.ctx.tenant;
        tenant.admit_cost()?;
        // A turn that begins at once waits for nothing.
        if *verdict == Verdict::Accept { Ok(Share::default()) } else { tenant.queue_turn() }
    }

    pub(super) fn admitted(&mut self, request: TurnRequest, queued: Share) -> Waiting {
        let id = request.turn_id.clone().unwrap_or_else(TurnId::fresh);
        let log = self.new_log(id, &request.span, request.trace.clone());
        Waiting {
            request,
            log,
            counted: self.ctx.turns.token(),
            following: None,
            again: None,
            steered: false,
            _queued: queued,
        }
    }

    /// A log for a turn of this session, which the call of that span asks for, at that place in a
    /// trace.
    pub(super) fn new_log(&mut self, id: TurnId, call: &Span, trace: Trace) -> TurnLog {
        let trace = TurnTrace::below(trace);
        let span = error_span!(
            parent: call,
            "turn",
            tenant = %self.key.tenant,
            session_id = %self.key.session,
            turn_id = %id,
            client_id = Empty,
            trace_id = trace.turn.trace_id().map(tracing::field::display),
            span_id = trace.turn.span_id().map(tracing::field::display)
        );
        let listeners_gone = self.queue.listeners_gone_notifier();
        let log = self.ctx.logs.log(id, &self.accounts, listeners_gone, span, trace);
        self.open_turns.add(&log);
        log
    }

    fn take_interrupt(
        &mut self,
        verdict: Verdict,
        target: InterruptTarget,
        keep_session: bool,
        reply: oneshot::Sender<InterruptReport>,
    ) -> Disposition {
        match (verdict, target) {
            (Verdict::StopFirst, target) => {
                // Who names a turn does not mean the session.
                let named = matches!(target, InterruptTarget::Named(_));
                let (keep_session, all) = (keep_session || named, target == InterruptTarget::All);
                return Disposition::Stop(StopFor::Interrupt { keep_session, all, reply });
            }
            (Verdict::Accept, InterruptTarget::Named(turn)) => {
                reply.send(self.cancel_waiting(&turn)).ok();
            }
            (_, InterruptTarget::Named(turn)) => self.answer_named(&turn, reply),
            (Verdict::Accept, InterruptTarget::Running | InterruptTarget::All) => {
                let reply = StopReply::Interrupt(reply, self.nothing_to_stop());
                return Disposition::StopWork(WorkStop { what: WorkToStop::All, reply });
            }
            (Verdict::AlreadySo, InterruptTarget::Running | InterruptTarget::All) => {
                self.journal.commits.answer_soon(reply, self.nothing_to_stop());
            }
            (_, InterruptTarget::Running | InterruptTarget::All) => {
                self.replies.interrupts.push((reply, self.nothing_to_stop().with_all_stopped()));
                return Disposition::Leave(CloseReason::Interrupted);
            }
        }
        Disposition::Done
    }

    /// Where the turn is that is to be stopped.
    fn named(&self, command: &Command) -> Named {
        let Command::Interrupt { target: InterruptTarget::Named(turn), .. } = command else {
            return Named::Gone;
        };
        let is_it = |log: &TurnLog| log.id() == turn && !log.is_ended();
        if self.queue.holds(turn) {
            Named::Waiting
        } else if self.queue.current().is_some_and(is_it) {
            Named::Current
        } else {
            Named::Gone
        }
    }

    /// Ends a turn that waits.
    fn cancel_waiting(&mut self, turn: &TurnId) -> InterruptReport {
        let Some(waiting) = self.queue.take(turn) else { return NOTHING_STOPPED };
        self.cancel(&waiting.log, &Cause::TurnInterrupted);
        let outcome = InterruptOutcome::Interrupted;
        InterruptReport { outcome, had_active_turn: true, ..NOTHING_STOPPED }
    }

    /// Tells who wants a turn stopped that there is nothing to stop: when its end is told, if
    /// that is still to come.
    fn answer_named(&mut self, turn: &TurnId, reply: oneshot::Sender<InterruptReport>) {
        let is_it = |log: &TurnLog| log.id() == turn && !log.is_ended();
        if !self.journal.commits.untold().chain(self.queue.current()).any(is_it) {
            reply.send(NOTHING_STOPPED).ok();
            return;
        }
        let outcome = InterruptOutcome::TurnEnded;
        let report = InterruptReport { outcome, had_active_turn: true, ..NOTHING_STOPPED };
        self.journal.commits.answer_soon(reply, report);
    }

    fn find(&self, id: Option<&TurnId>) -> Option<&TurnLog> {
        self.queue.find(id, self.journal.commits.untold())
    }

    pub(super) fn attach(
        &self,
        turn: Option<&TurnId>,
        from: u64,
        partials: Partials,
    ) -> Result<Listener, Refusal> {
        let log = self
            .find(turn)
            .ok_or_else(|| self.failure(Cause::TurnNotFound).concerning(None, turn))?;
        log.listen(from, partials)
            .map_err(|failure| failure.concerning(Some(&self.status.session_id), None).into())
    }
}
