//! Commands that come in: turns are queued or refused, listeners join. What depends on
//! the phase's own resources is handed back to the phase.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{Span, debug, error_span, field::Empty};

use super::{
    Refusal,
    admission::{Occupation, Verdict, admit},
    command::{CloseReport, Command, TurnRequest},
    phase::{PendingUpdate, Taken, Waiting},
    resting::LetGo,
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
    pub(super) fn take(&mut self, command: Command, occupation: Occupation) -> Taken {
        match command {
            Command::Run { request, reply } => return self.take_turn(*request, reply, occupation),
            Command::Attach { turn, from, partials, reply } => {
                reply.send(self.attach(turn.as_ref(), from, partials)).ok();
            }
            Command::Update { options, reply } => {
                let limit = self.around.settings.max_queued_turns;
                // Of those whose callers have left nobody wants to hear.
                self.updates.retain(|update| !update.reply.is_closed());
                if self.updates.len() < limit {
                    self.updates.push(PendingUpdate { options: *options, reply });
                } else {
                    reply.send(Err(self.failure(Cause::QueueFull { limit }).into())).ok();
                }
            }
            Command::Respond { prompt_id, decision, reply } => {
                return Taken::Respond(prompt_id, decision, reply);
            }
            Command::Interrupt { keep_session, reply } => {
                return Taken::Interrupt(keep_session, reply);
            }
            Command::LetGo { why, reply } => {
                let may = self.may_rest() || (why == LetGo::Fairness && self.may_yield());
                if occupation == Occupation::Free && may {
                    return Taken::LetGo(why, reply);
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
                    return Taken::Close(reason, reply);
                }
            }
        }
        Taken::Done
    }

    fn take_turn(
        &mut self,
        request: TurnRequest,
        reply: oneshot::Sender<Result<Listener, Refusal>>,
        occupation: Occupation,
    ) -> Taken {
        if let Some(log) = request.turn_id.as_ref().and_then(|id| self.find(id)) {
            debug!(turn_id = %log.id(), "turn_joined_by_its_id");
            reply.send(log.listen(1, request.partials).map_err(Refusal::from)).ok();
            return Taken::Done;
        }
        if let (Occupation::Running, Some(current)) = (occupation, &self.current) {
            debug!(
                session_id = %self.status.session_id,
                turn_id = %current.id(),
                has_stream = true,
                has_handle = current.listeners() > 0,
                idle_seconds = self.status.last_used_at.elapsed().as_secs_f64(),
                "session_pool_active_stream_detected"
            );
        }
        let verdict = admit(
            occupation,
            request.on_busy,
            self.queue.len(),
            self.around.settings.max_queued_turns,
        );
        // A turn that begins at once waits for nothing.
        let waits = occupation != Occupation::Free || !self.queue.is_empty();
        let tenant = &self.around.tenant;
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
                return Taken::Done;
            }
        };
        let partials = request.partials;
        let waiting = self.admitted(request, queued);
        // The caller may be gone already; then the turn has no listener and is dropped.
        reply.send(waiting.log.listen(1, partials).map_err(Refusal::from)).ok();
        self.around.tenant.counters.turns.add_one();
        if verdict == Verdict::Enqueue {
            self.queue.push_back(waiting);
        } else {
            self.queue.push_front(waiting);
        }
        self.show();
        if verdict == Verdict::StopAndGoNext { Taken::StopForNext } else { Taken::Done }
    }

    /// The next turn that may begin. Those that the tenant's budget does not last for fail:
    /// it may have been spent while they waited.
    pub(super) fn next_turn(&mut self) -> Option<Waiting> {
        loop {
            let turn = self.queue.pop_front()?;
            let Err(cause) = self.around.tenant.admit_cost() else { return Some(turn) };
            let failure = self.failure(cause);
            self.fail(&turn.log, failure);
            self.show();
        }
    }

    fn admitted(&mut self, request: TurnRequest, queued: Share) -> Waiting {
        let id = request.turn_id.clone().unwrap_or_else(TurnId::fresh);
        let log = self.new_log(id, &request.span);
        Waiting { request, log, counted: self.around.turns.token(), again: None, _queued: queued }
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
        self.around.logs.log(id, &self.accounts, Arc::clone(&self.listeners_gone), span)
    }

    /// Whether a request is for a turn that is here already.
    pub(super) fn knows(&self, request: &TurnRequest) -> bool {
        request.turn_id.as_ref().is_some_and(|id| self.find(id).is_some())
    }

    fn find(&self, id: &TurnId) -> Option<&TurnLog> {
        let kept = self.recent.iter().map(|(_, log)| log);
        let waiting = self.queue.iter().map(|waiting| &waiting.log);
        let untold = self.commits.untold();
        self.current.iter().chain(untold).chain(kept).chain(waiting).find(|log| log.id() == id)
    }

    pub(super) fn attach(
        &self,
        turn: Option<&TurnId>,
        from: u64,
        partials: Partials,
    ) -> Result<Listener, Refusal> {
        let log = match turn {
            Some(id) => self.find(id),
            None => self.current.as_ref().or_else(|| self.recent.back().map(|(_, log)| log)),
        };
        let log = log.ok_or_else(|| self.failure(Cause::TurnNotFound).concerning(None, turn))?;
        log.listen(from, partials)
            .map_err(|failure| failure.concerning(Some(&self.status.session_id), None).into())
    }
}
