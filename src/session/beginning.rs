//! How a turn begins on a process, and how it begins once more.
//!
//! A prompt that its process does not answer with a single frame: the process died before
//! it took the prompt up, so nothing of the turn has run and nothing of it was paid. Such a
//! prompt runs on another process, once.
//!
//! Event 1 of a turn says which process it runs on. It is therefore told when the process
//! shows that it has the prompt, or when the turn ends; a turn that was told is never sent
//! to another process. What a process prints belongs to the turn unless it can only be of
//! an earlier one: a turn that may have begun is not repeated.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{
    phase::{Active, Phase},
    process::Process,
    queue::{Again, Waiting},
    running::{Running, Unanswered},
    stop::StopFor,
    task::SessionTask,
};
use crate::{
    cli::{applied, process::StopGrace, request::user_message},
    tenant::Share,
    turn::event::{ProcessOrigin, Started},
};

impl Running {
    /// Tells on which process the turn runs: it runs on no other from here on.
    pub fn begin_for_good(&mut self) {
        if let Some(unanswered) = self.unanswered.take() {
            self.log.start(unanswered.started);
        }
    }

    /// The turn as it was before it began.
    fn withdrawn(self, unanswered: Unanswered) -> Waiting {
        let Unanswered { request, started } = unanswered;
        let again = Again {
            queued_for: started.queued_for,
            began: self.began,
            silent_for: self.began.elapsed(),
        };
        let Self { log, counted, .. } = self;
        Waiting { request, log, counted, again: Some(again), _queued: Share::default() }
    }
}

impl SessionTask {
    /// Begins a turn on a connected process.
    pub(super) fn begin(
        &mut self,
        mut process: Process,
        waiting: Waiting,
        origin: ProcessOrigin,
        came: Instant,
    ) -> Phase {
        let Waiting { request, log, counted, again, _queued: _ } = waiting;
        let uuid = Uuid::new_v4();
        let lease = &mut process.lease;
        let policy = request.on_disconnect;
        let asked = process.prompts.number();
        let mut turn = Running::new(log, Some(uuid), policy, &process.traits, asked, counted);
        turn.prompt_held = request.held.clone();
        turn.named = request.turn_id.is_some();
        let started = Started {
            session_id: self.status.session_id.clone(),
            turn_id: turn.log.id().clone(),
            client_id: lease.client_id,
            cli_session_id: self.status.cli_session_id,
            origin,
            queued_for: again.map_or_else(
                || came.saturating_duration_since(request.asked_at),
                |again| again.queued_for,
            ),
            connect_time: if origin == ProcessOrigin::Reused {
                Duration::ZERO
            } else {
                lease.connect_time
            },
            start_time: SystemTime::now(),
            background: false,
        };
        turn.log.span().record("client_id", tracing::field::display(lease.client_id));
        self.queue.begin(&turn.log);
        self.status.note_use();
        if request.input.may_be_command() {
            // A process that takes no more input has nobody to ask.
            turn.applied_before = lease.connection.request(applied::question()).ok();
        }
        // The outbox is empty between turns: what does not take the prompt takes nothing.
        if let Err(blocked) = lease.connection.send(user_message(&request.input, uuid)) {
            warn!(client_id = %lease.client_id, error = %blocked, "prompt_not_written");
            turn.unsent = true;
        }
        turn.unanswered = Some(Box::new(Unanswered { request, started }));
        if let Some(again) = again {
            turn.resume_clock(again);
        } else {
            self.status.note_prompt();
            self.ctx.tenant.counters.messages.add_one();
        }
        if again.is_some() || !self.ctx.settings.connection_recovery {
            // No other process follows this one.
            turn.begin_for_good();
        }
        Phase::Active(Active { process, turn })
    }

    /// Takes the prompt back from a process that is of no use any more, if it has not begun
    /// with it and somebody still wants the turn.
    pub(super) fn withdraw(active: Active) -> Result<(Process, Waiting), Box<Active>> {
        let Active { process, mut turn } = active;
        if turn.is_abandoned() || process.lease.connection.was_cut_short() {
            return Err(Box::new(Active { process, turn }));
        }
        match turn.unanswered.take() {
            Some(unanswered) => Ok((process, turn.withdrawn(*unanswered))),
            None => Err(Box::new(Active { process, turn })),
        }
    }

    /// Sends a prompt to another process that this one did not read.
    pub(super) async fn not_taken(&mut self, process: Process, turn: Waiting) -> Phase {
        self.send_again(process, turn, "the CLI did not take the prompt", Vec::new()).await
    }

    /// Sends a prompt that was taken back to another process, unless somebody has wanted the turn
    /// stopped.
    pub(super) async fn send_again(
        &mut self,
        process: Process,
        turn: Waiting,
        why: &str,
        stops: Vec<StopFor>,
    ) -> Phase {
        let (session_id, client_id) = (&self.status.session_id, process.lease.client_id);
        warn!(%session_id, %client_id, error = why, "prompt_sent_again");
        self.queue.expect(&turn);
        for purpose in stops {
            self.give_up_turn(purpose);
        }
        self.part_with(process, StopGrace::FIRM).await;
        Phase::Connecting(turn)
    }
}
