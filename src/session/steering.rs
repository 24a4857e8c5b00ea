//! Hands messages to the turn that runs, and tells what becomes of them. Nothing is lost: one that
//! the CLI has not taken up when its process ends waits for the next. Nothing runs twice: one that
//! it has taken up is the turn's, whatever becomes of that.

use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    command::{BackgroundPolicy, Refusal, TurnRequest},
    process::Process,
    queue::Waiting,
    state::{Active, Phase},
    steers::{Steer, Steers},
    task::SessionTask,
};
use crate::{
    cli::request::user_message,
    tenant::Share,
    turn::{
        event::{ProcessOrigin, SteerState, Steered, Told as _},
        listener::{Follow, Listener},
    },
};

impl SessionTask {
    /// Whether a message is one for the turn that runs: it brings nothing with it that only a turn
    /// of its own can have.
    pub(super) fn may_steer(&self, request: &TurnRequest) -> bool {
        let difference = self.difference(&request.options);
        difference.live.is_empty()
            && difference.fixed.is_empty()
            && request.resume.is_none()
            && !request.new_conversation
            && request.on_background == BackgroundPolicy::Keep
    }

    /// A message for the turn that runs, whose caller hears that from its next event on.
    pub(super) fn new_steer(
        &mut self,
        request: TurnRequest,
        share: Share,
        reply: oneshot::Sender<Result<Listener, Refusal>>,
    ) -> Steer {
        let partials = request.partials;
        let (stream, follow) = Follow::channel(self.queue.listeners_gone_notifier());
        let waiting = Waiting { steered: true, ..self.admitted(request, share) };
        let heard = match self.queue.current() {
            Some(turn) => turn.listen(turn.count(partials) + 1, partials),
            None => waiting.log.listen(1, partials),
        };
        let heard = heard.map(|listener| listener.followed_by(Some(follow.bringing_own_turn())));
        reply.send(heard.map_err(Refusal::from)).ok();
        Steer { uuid: Uuid::new_v4(), waiting, stream }
    }

    /// Hands a message to the CLI, or lets it wait if that does not take it.
    pub(super) fn steer(&mut self, process: &mut Process, steer: Steer) {
        let line = user_message(&steer.waiting.request.input, steer.uuid);
        if process.steers.has_room() && process.lease.connection.send(line).is_ok() {
            process.steers.push(steer);
        } else {
            self.steer_later(steer);
        }
    }

    /// A message becomes a turn that waits, before all others but earlier messages.
    pub(super) fn steer_later(&mut self, steer: Steer) {
        steer.hear(&steer.waiting.log);
        self.ctx.tenant.counters.turns.add_one();
        self.queue.push_steered(steer.waiting);
        self.show();
    }

    /// Tells those who follow the turn which messages it has taken up, and that it is one itself.
    /// Its own beginning comes first.
    pub(super) fn tell_steered(&mut self, active: &mut Active) {
        if active.turn.unanswered.is_some() {
            return;
        }
        let became = active.turn.steered.take().map(|uuid| (uuid, SteerState::BecameTurn));
        let taken = active.process.steers.take_taken();
        let told = taken.iter().map(|steer| (steer.uuid, SteerState::Taken));
        for (uuid, state) in became.into_iter().chain(told) {
            let steered = Steered { message_uuid: uuid.to_string(), state };
            active.turn.log.append([steered.event()]);
        }
        for Steer { waiting, .. } in taken {
            self.count_prompt();
            // Nobody hears it: its caller hears the turn that has taken it up.
            self.open_turns.remove(&waiting.log);
            waiting.log.end(Ok(()));
        }
    }

    /// The CLI begins a turn with a message that the one that has just ended did not take up.
    pub(super) fn begin_steered(
        &mut self,
        mut process: Box<Process>,
    ) -> Result<Phase, Box<Process>> {
        let may_be_stopped = std::mem::take(&mut process.stop_goes_on);
        let Some(Steer { uuid, waiting, stream }) = process.steers.take_next() else {
            return Err(process);
        };
        let partials = waiting.request.partials;
        stream.send(waiting.log.listen(1, partials));
        for other in process.steers.pending() {
            other.hear(&waiting.log);
        }
        self.ctx.tenant.counters.turns.add_one();
        self.count_prompt();
        let came = Instant::now();
        let mut turn = self.running(&mut process, waiting, uuid, ProcessOrigin::Reused, came);
        turn.may_be_stopped = may_be_stopped;
        // Its caller may have left meanwhile, which nobody has noticed.
        self.queue.listeners_gone_notifier().notify_one();
        Ok(Phase::Active(Active { process, turn }))
    }

    /// A prompt is the CLI's: it is not sent again.
    fn count_prompt(&mut self) {
        self.status.note_prompt();
        self.ctx.tenant.counters.messages.add_one();
    }

    /// The process ends. What it has not taken up waits for the next, unless the session ends.
    pub(super) fn take_back_steers(&mut self, mut steers: Steers) {
        for steer in steers.take_taken() {
            self.open_turns.remove(&steer.waiting.log);
            steer.waiting.log.end(Ok(()));
        }
        let mut pending = steers.take_pending();
        // They came before those that wait already.
        while let Some(steer) = pending.pop() {
            steer.hear(&steer.waiting.log);
            self.ctx.tenant.counters.turns.add_one();
            match self.leaving {
                None => self.queue.push_front(steer.waiting),
                Some(reason) => {
                    let failure = self.failure(reason.cause());
                    self.fail(&steer.waiting.log, failure);
                }
            }
        }
        self.show();
    }
}
