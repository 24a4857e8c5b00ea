//! Phase: a turn runs. Its frames become events; watchdogs, commands and listeners
//! that leave may stop it.

use tokio::time::Instant;
use tracing::debug;

use super::{
    admission::Availability,
    command::{CloseReason, Command},
    deadline::at,
    phase::{Active, Disposition, Phase},
    running::{Meaning, Watchdog},
    stop::AfterInterrupt,
    task::SessionTask,
    turn_end::{End, TurnEnd},
};
use crate::{
    cli::{
        frame::{Frame, ResultSummary},
        schema,
    },
    supply::Lease,
    turn::event::Class,
};

impl SessionTask {
    pub(super) async fn active(&mut self, mut active: Active) -> Phase {
        let mut frames = std::mem::take(&mut self.leftover);
        if active.turn.unsent {
            active = match Self::withdraw(active) {
                Ok((lease, turn)) => {
                    return self.send_again(lease, turn, "the CLI did not take the prompt").await;
                }
                Err(active) => *active,
            };
        }
        let mut waits_since = None;
        loop {
            if let Some(over) = self.digest(&mut active, &mut frames, false) {
                return self.turn_over(active, frames, over).await;
            }
            self.keep_much().await;
            if let Some(cause) = self.journal.moved().cloned() {
                return self.moved(active, cause).await;
            }
            let dog = active.turn.watchdog(&self.ctx.settings, !self.queue.is_empty());
            // While older events are on their way to a file, the CLI is not read; nor while
            // too much waits for the store.
            let full = active.turn.log.is_full();
            let waits = self.journal.holds_too_much();
            waits_since = waits.then(|| waits_since.unwrap_or_else(Instant::now));
            let unkept = waits_since.map(|since| since + self.ctx.settings.commit_timeout);
            tokio::select! {
                () = active.turn.log.room(), if full => active.turn.touch(),
                read = active.lease.connection.read(&mut frames), if !full && !waits => {
                    // To answer the pool is no sign of a turn that goes on.
                    if !active.lease.connection.take_answered() || !frames.is_empty() {
                        active.turn.touch();
                    }
                    if let Err(error) = read {
                        return self.broken(active, frames, &error).await;
                    }
                }
                () = at(active.lease.meter.ask_at()) => {
                    active.lease.meter.ask(&mut active.lease.connection);
                }
                stir = self.journal.commits.stir() => {
                    self.stirred(stir).await;
                    if waits {
                        active.turn.touch();
                    }
                }
                exit = active.lease.child.wait() => return self.died(active, frames, exit).await,
                command = self.inbox.recv() => {
                    active = match self.while_active(command, active).await {
                        Ok(active) => active,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => {
                    self.drop_abandoned();
                    if active.turn.is_abandoned() {
                        debug!(turn_id = %active.turn.log.id(), "turn_abandoned");
                        return self.stop(active, AfterInterrupt::Stay);
                    }
                }
                () = at(unkept) => return self.bite(active, Watchdog::Unkept).await,
                () = at(dog.map(|(_, at)| at)) => if let Some((dog, _)) = dog {
                    return self.bite(active, dog).await;
                },
            }
        }
    }

    /// Turns frames into events, up to the turn's end; what comes after it stays. The
    /// end is told once it is kept ([`Self::conclude`]).
    pub(super) fn digest(
        &mut self,
        active: &mut Active,
        frames: &mut Vec<Frame>,
        stopping: bool,
    ) -> Option<TurnEnd> {
        let counters = &self.ctx.tenant.counters;
        counters.frames.add(frames.len() as u64);
        let strays = active.lease.connection.take_strays();
        counters.stray_lines.add(strays);
        if strays > 0 {
            active.turn.begin_for_good();
        }
        let looked = self.hear_cost(&mut active.lease.meter);
        active.turn.spent.add(&looked);
        active.turn.note_spending(self.check_running(active.turn.is_asked_for()));
        let mut events = Vec::with_capacity(frames.len());
        let mut over = None;
        let mut used = 0;
        for frame in frames.iter() {
            used += 1;
            self.traits.note(&frame.kind);
            active.lease.meter.note(&frame.kind);
            self.hear_state(&frame.kind);
            self.hear(frame);
            active.turn.hear_answer(frame);
            match active.turn.interpret(frame) {
                Meaning::Hidden => {}
                Meaning::Echo => active.turn.record(frame, None, &mut events),
                Meaning::Event(class) => active.turn.record(frame, Some(class), &mut events),
                Meaning::Moved(class, cli_session_id) => {
                    self.ownership.follow(&cli_session_id);
                    active.turn.record(frame, Some(class), &mut events);
                }
                Meaning::ForeignResult(summary) => {
                    active.turn.spent.add(&self.spend(&mut active.lease.meter, &summary));
                    self.foreign_turn(active, frame);
                }
                Meaning::Result(summary) => {
                    active.turn.spent.add(&self.spend(&mut active.lease.meter, &summary));
                    let aborted =
                        summary.is_error || summary.terminal_reason.starts_with("aborted");
                    let interrupted = stopping && aborted;
                    let class = if interrupted {
                        Class::InterruptedResult
                    } else if self.lacks_structure(&summary) {
                        Class::UnstructuredResult
                    } else {
                        Class::Result
                    };
                    let mut untold = Vec::new();
                    active.turn.record(frame, Some(class), &mut untold);
                    let is_error = summary.is_error;
                    over = Some(TurnEnd { interrupted, is_error, settled: false, untold });
                }
                Meaning::EndedSilently => {
                    let untold = Vec::new();
                    let interrupted = stopping;
                    over = Some(TurnEnd { interrupted, is_error: false, settled: true, untold });
                }
            }
            if over.is_some() {
                break;
            }
        }
        frames.drain(..used);
        // Before the event, which somebody may answer by what is shown.
        self.show_prompts(active);
        active.turn.write(&mut events);
        over
    }

    /// Shows which prompts wait for an answer.
    pub(super) fn show_prompts(&mut self, active: &Active) {
        let open = active.turn.prompts.shown();
        if open != self.status.open_prompts {
            self.status.set_open_prompts(open);
            self.show();
        }
    }

    /// Whether a turn went well without the object that its session's schema asks for.
    fn lacks_structure(&self, summary: &ResultSummary) -> bool {
        let schema = self.status.options.json_schema.as_deref().unwrap_or_default();
        let answer = summary.structured_output.as_deref().unwrap_or_default();
        !schema.is_empty() && !summary.is_error && !schema::fits(schema, answer)
    }

    /// A turn has ended, which is told when it is kept.
    pub(super) async fn turn_over(
        &mut self,
        mut active: Active,
        mut rest: Vec<Frame>,
        over: TurnEnd,
    ) -> Phase {
        self.hear_choice(&mut active, &mut rest).await;
        let Active { lease, turn } = active;
        let settled = over.settled;
        self.conclude(turn, lease.client_id, End::Result(over)).await;
        self.after_turn(lease, rest, settled)
    }

    /// Where a session goes whose turn has ended.
    pub(super) fn after_turn(&mut self, lease: Lease, rest: Vec<Frame>, settled: bool) -> Phase {
        self.leftover = rest;
        if self.ephemeral && self.queue.is_empty() {
            return Phase::Closing(Some(lease), CloseReason::Ephemeral);
        }
        if settled { Phase::Idle(lease) } else { Phase::Settling(lease) }
    }

    /// Begins to stop the turn.
    pub(super) fn stop(&self, active: Active, then: AfterInterrupt) -> Phase {
        Phase::Interrupting(active, self.new_stop(then))
    }

    async fn while_active(
        &mut self,
        command: Option<Command>,
        active: Active,
    ) -> Result<Active, Box<Phase>> {
        let Some(command) = command else {
            return Err(Box::new(self.stop(active, AfterInterrupt::Leave(CloseReason::Shutdown))));
        };
        match self.take(command, Availability::Running) {
            Disposition::Done => Ok(active),
            Disposition::Stop(purpose) => {
                let mut stop = self.new_stop(AfterInterrupt::Stay);
                stop.join(purpose);
                Err(Box::new(Phase::Interrupting(active, stop)))
            }
            Disposition::Leave(reason) => {
                Err(Box::new(self.stop(active, AfterInterrupt::Leave(reason))))
            }
            Disposition::Hibernate(_, reply) => {
                reply.send(false).ok();
                Ok(active)
            }
            Disposition::Respond(prompt_id, decision, reply) => {
                let mut active = active;
                reply.send(self.respond(&mut active, prompt_id, decision).await).ok();
                Ok(active)
            }
        }
    }
}
