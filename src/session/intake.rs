//! Commands that come in: turns are queued or refused, listeners join. What depends on
//! the phase's own resources is handed back to the phase.

use tokio::sync::oneshot;
use tracing::{Span, debug, error_span, field::Empty};

use super::{
    admission::{Occupation, Verdict, admit},
    command::{CloseReport, Command, LetGo, Refusal, TurnRequest},
    phase::Disposition,
    queue::{PendingUpdate, Waiting},
    task::SessionTask,
};
use crate::{
    failure::Cause,
    ids::TurnId,
    tenant::Share,
    turn::{
        listener::{Listener, Partials},
        log::TurnLog,
    },
};

impl SessionTask {
    /// Deals with a command as far as that does not depend on the phase's resources.
    pub(super) fn take(&mut self, command: Command, occupation: Occupation) -> Disposition {
        match command {
            Command::Run { request, reply } => return self.take_turn(*request, reply, occupation),
            Command::Attach { turn, from, partials, reply } => {
                reply.send(self.attach(turn.as_ref(), from, partials)).ok();
            }
            Command::Update { options, reply } => {
                let update = PendingUpdate { options: *options, reply };
                if let Err((reply, cause)) = self.queue.push_update(update) {
                    reply.send(Err(self.failure(cause).into())).ok();
                }
            }
            Command::Respond { prompt_id, decision, reply } => {
                return Disposition::Respond(prompt_id, decision, reply);
            }
            Command::Interrupt { keep_session, reply } => {
                return Disposition::Interrupt(keep_session, reply);
            }
            Command::LetGo { why, reply } => {
                let may = self.may_rest() || (why == LetGo::Fairness && self.may_yield());
                if occupation == Occupation::Free && may {
                    return Disposition::LetGo(why, reply);
                }
                reply.send(false).ok();
            }
            Command::Close { reason, reply } => {
                let busy = occupation != Occupation::Free || !self.queue.is_empty();
                if busy && reason.skips_busy() {
                    let report =
                        CloseReport { closed: false, had_active_turn: true, not_forgotten: None };
                    reply.send(report).ok();
                } else {
                    return Disposition::Close(reason, reply);
                }
            }
        }
        Disposition::Done
    }

    fn take_turn(
        &mut self,
        request: TurnRequest,
        reply: oneshot::Sender<Result<Listener, Refusal>>,
        occupation: Occupation,
    ) -> Disposition {
        if let Some(log) = request.turn_id.as_ref().and_then(|id| self.find(Some(id))) {
            debug!(turn_id = %log.id(), "turn_joined_by_its_id");
            reply.send(log.listen(1, request.partials).map_err(Refusal::from)).ok();
            return Disposition::Done;
        }
        if let (Occupation::Running, Some(current)) = (occupation, self.queue.current()) {
            debug!(
                session_id = %self.status.session_id,
                turn_id = %current.id(),
                has_stream = true,
                has_handle = current.listeners() > 0,
                idle_seconds = self.status.last_used_at.elapsed().as_secs_f64(),
                "session_pool_active_stream_detected"
            );
        }
        let (waiting, max_waiting) = (self.queue.len(), self.queue.max_waiting());
        let verdict = admit(occupation, request.on_busy, waiting, max_waiting);
        // A turn that begins at once waits for nothing.
        let waits = occupation != Occupation::Free || !self.queue.is_empty();
        let tenant = &self.ctx.tenant;
        let queued = match &verdict {
            Verdict::Refuse(cause) => Err(cause.clone()),
            _ => tenant
                .admit_cost()
                .and_then(|()| if waits { tenant.queue_turn() } else { Ok(Share::default()) }),
        };
        let queued = match queued {
            Ok(queued) => queued,
            Err(cause) => {
                reply.send(Err(self.failure(cause).into())).ok();
                return Disposition::Done;
            }
        };
        let partials = request.partials;
        let waiting = self.admitted(request, queued);
        // The caller may be gone already; then the turn has no listener and is dropped.
        reply.send(waiting.log.listen(1, partials).map_err(Refusal::from)).ok();
        self.ctx.tenant.counters.turns.add_one();
        if verdict == Verdict::Enqueue {
            self.queue.push_back(waiting);
        } else {
            self.queue.push_front(waiting);
        }
        self.show();
        if verdict == Verdict::StopAndGoNext { Disposition::StopForNext } else { Disposition::Done }
    }

    /// The next turn that may begin. Those that the tenant's budget does not last for fail:
    /// it may have been spent while they waited.
    pub(super) fn next_turn(&mut self) -> Option<Waiting> {
        loop {
            let turn = self.queue.pop()?;
            let Err(cause) = self.ctx.tenant.admit_cost() else { return Some(turn) };
            let failure = self.failure(cause);
            self.fail(&turn.log, failure);
            self.show();
        }
    }

    fn admitted(&mut self, request: TurnRequest, queued: Share) -> Waiting {
        let id = request.turn_id.clone().unwrap_or_else(TurnId::fresh);
        let log = self.new_log(id, &request.span);
        Waiting { request, log, counted: self.ctx.turns.token(), again: None, _queued: queued }
    }

    /// A log for a turn of this session, which the call of that span asks for.
    pub(super) fn new_log(&self, id: TurnId, call: &Span) -> TurnLog {
        let span = error_span!(
            parent: call,
            "turn",
            tenant = %self.key.tenant,
            session_id = %self.key.session,
            turn_id = %id,
            client_id = Empty
        );
        self.ctx.logs.log(id, &self.accounts, self.queue.listeners_gone_notifier(), span)
    }

    /// Whether a request is for a turn that is here already.
    pub(super) fn knows(&self, request: &TurnRequest) -> bool {
        request.turn_id.as_ref().is_some_and(|id| self.find(Some(id)).is_some())
    }

    fn find(&self, id: Option<&TurnId>) -> Option<&TurnLog> {
        self.queue.find(id, self.commits.untold())
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
