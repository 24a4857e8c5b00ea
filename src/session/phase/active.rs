//! Phase: a turn runs. Its frames become events, and what they say of the session is heard;
//! watchdogs, commands and listeners that leave may stop it.

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::watchdog::Watchdog;
use crate::{
    cli::{
        frame::{Ask, Frame},
        mirror,
        turn::{Facts, Meaning, Outcome, is_of_turn, was_aborted},
    },
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, Command},
        open_prompts::{OpenPrompts, ShownPrompt},
        process::Process,
        running::{Running, Unanswered, class_of, class_of_result},
        state::{Active, Disposition, Phase},
        stop::AfterInterrupt,
        task::SessionTask,
        turn_end::{End, TurnEnd},
    },
    supply::noticed,
    tasks::at,
    turn::{event::prompt_event, log::TurnLog},
};

impl SessionTask {
    pub(in crate::session) async fn active(&mut self, mut active: Active) -> Phase {
        let mut frames = std::mem::take(&mut active.process.leftover);
        if active.turn.unsent {
            active = match Self::withdraw(active) {
                Ok((process, turn)) => return self.not_taken(process, turn).await,
                Err(active) => *active,
            };
        }
        let mut waits_since = None;
        loop {
            if let Some(over) = self.digest(&mut active, &mut frames, false) {
                return self.turn_over(active, frames, over).await;
            }
            self.keep_much();
            if let Some(cause) = self.journal.moved().cloned() {
                return self.moved(active, cause).await;
            }
            self.answer_in_turn(&mut active, false);
            let asked = active.process.prompts.any_since(active.turn.asked);
            let dog = active.turn.watchdog(&self.ctx.settings, !self.queue.is_empty(), asked);
            // While older events are on their way to a file, the CLI is not read; nor while
            // too much waits for the store.
            let (full, waits) = (active.turn.log.is_full(), self.journal.holds_too_much());
            waits_since = waits.then(|| waits_since.unwrap_or_else(Instant::now));
            let unkept = waits_since.map(|since| since + self.ctx.settings.commit_timeout);
            let due = self.answers_due(&active.process, self.followers.until());
            tokio::select! {
                () = active.turn.log.room(), if full => active.turn.touch(),
                read = active.process.lease.connection.read(&mut frames), if !full && !waits => {
                    note_output(&mut active, &frames);
                    if let Err(error) = read {
                        return self.broken(active, frames, &error).await;
                    }
                }
                () = at(active.process.lease.meter.ask_at()) => self.ask_of_turn(&mut active),
                stir = self.journal.commits.stir() => {
                    self.stirred(stir);
                    if waits {
                        active.turn.touch();
                    }
                }
                exit = active.process.lease.child.wait() => {
                    return self.died(active, frames, exit, Vec::new()).await;
                }
                command = self.inbox.recv() => {
                    active = match self.while_active(command, active) {
                        Ok(active) => active,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => if self.is_abandoned(&active) {
                    return self.stop(active, AfterInterrupt::Stay);
                },
                // Told and given by the next round.
                () = noticed(active.process.lease.pass.as_ref()) => {}
                () = at(due) => {}
                () = at(unkept) => return self.bite(active, Watchdog::Unkept).await,
                () = at(dog.map(|(_, at)| at)) => if let Some((dog, _)) = dog {
                    return self.bite(active, dog).await;
                },
            }
        }
    }

    /// Listeners have gone: whether the running turn is to end because of that.
    fn is_abandoned(&mut self, active: &Active) -> bool {
        self.drop_abandoned();
        let is_abandoned = active.turn.is_abandoned() || self.runs_for_nobody(active);
        if is_abandoned {
            debug!(turn_id = %active.turn.log.id(), "turn_abandoned");
        }
        is_abandoned
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
        let strays = active.process.lease.connection.take_strays();
        counters.stray_lines.add(strays);
        if strays > 0 {
            active.turn.begin_for_good();
        }
        let looked = self.hear_cost(&mut active.process.lease.meter);
        active.turn.spent.add(&looked);
        active.turn.note_spending(self.check_running(active.turn.reader.is_asked_for()));
        let mut events = Vec::with_capacity(frames.len());
        let has_begun = active.turn.reader.has_first_frame();
        let mut over = None;
        let mut used = 0;
        for frame in frames.iter() {
            used += 1;
            self.hear_frame(&mut active.process, frame);
            let schema = self.status.options.json_schema.as_deref().unwrap_or_default();
            match active.turn.hear(frame, &Facts { stopping, schema }) {
                Meaning::Hidden => {}
                Meaning::Echo => active.turn.record(Bytes::new(), None, &mut events),
                Meaning::Event(kind) => {
                    let line = event_line(&active.process.prompts, frame);
                    active.turn.record(line, Some(class_of(kind)), &mut events);
                }
                Meaning::Moved(kind, cli_session_id) => {
                    self.ownership.follow(cli_session_id);
                    active.turn.record(frame.raw.clone(), Some(class_of(kind)), &mut events);
                }
                Meaning::OtherOver(summary) => {
                    active.turn.spent.add(&self.spend(&mut active.process.lease.meter, summary));
                    self.foreign_turn(active, frame);
                    active.turn.asked = active.process.prompts.number();
                }
                Meaning::Over(outcome, summary) => {
                    active.turn.spent.add(&self.spend(&mut active.process.lease.meter, summary));
                    over = Some(ended_with(&mut active.turn, frame, outcome));
                }
                Meaning::OverSilently => {
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
        self.show_asked_and_work(&mut active.process);
        active.turn.write(&mut events);
        self.tell_resolved(active, stopping);
        if !has_begun && active.turn.reader.has_first_frame() {
            self.measure_first_event(&active.turn.log);
        }
        over
    }

    fn measure_first_event(&self, log: &TurnLog) {
        let Some(started) = log.started() else { return };
        let waited = log.age().saturating_sub(started.queued_for);
        self.ctx.tenant.measures.first_event(started.origin.name(), waited);
    }

    /// Takes note of what a frame says of the process and of the session, of whatever turn it is.
    pub(in crate::session) fn hear_frame(&mut self, process: &mut Process, frame: &Frame) {
        process.traits.note(frame);
        process.steers.note(frame);
        process.prompts.hear(frame);
        process.lease.meter.note(&frame.kind);
        self.hear_state(frame);
        self.hear(frame);
    }

    /// Takes note of what the CLI added to its transcript.
    pub(in crate::session) fn hear(&mut self, frame: &Frame) {
        if self.ephemeral || !mirror::is_mirror(frame) {
            return;
        }
        let Some(mirrored) = mirror::read(&frame.raw) else {
            warn!(session_id = %self.status.session_id, "transcript_mirror_not_understood");
            return;
        };
        if !self.ownership.may_add_to(mirrored.conversation) {
            let (session_id, conversation) = (&self.status.session_id, mirrored.conversation);
            warn!(%session_id, %conversation, "lines_of_another_session_left_out");
            return;
        }
        self.journal.hear(mirrored);
    }

    /// Shows which prompts wait for an answer.
    pub(in crate::session) fn show_prompts(&mut self, open: &[ShownPrompt]) {
        if open != self.status.open_prompts {
            self.status.set_open_prompts(open.to_vec());
            self.show();
        }
    }

    /// A turn has ended, which is told when it is kept.
    pub(super) async fn turn_over(
        &mut self,
        mut active: Active,
        mut rest: Vec<Frame>,
        over: TurnEnd,
    ) -> Phase {
        self.hear_choice(&mut active, &mut rest).await;
        self.leave_behind(&mut active);
        let Active { process, turn } = active;
        let settled = over.settled;
        self.conclude(turn, process.lease.client_id, End::Result(over));
        self.after_turn(process, rest, settled)
    }

    /// Where a session goes whose turn has ended.
    pub(super) fn after_turn(
        &mut self,
        mut process: Box<Process>,
        rest: Vec<Frame>,
        settled: bool,
    ) -> Phase {
        process.leftover = rest;
        let process = match self.begin_steered(process) {
            Ok(next) => return next,
            Err(kept) => kept,
        };
        if self.is_useless() {
            return Phase::Closing(Some(process), CloseReason::Ephemeral);
        }
        // With subagents behind its turns the CLI does not say that it is idle before the last of
        // them has ended (2.1.332): nobody is to wait for that.
        let settled = settled || process.traits.background.has_tasks();
        if settled { Phase::Idle(process) } else { Phase::Settling(process) }
    }

    /// Begins to stop the turn.
    pub(in crate::session) fn stop(&self, active: Active, then: AfterInterrupt) -> Phase {
        Phase::Interrupting(active, self.new_stop(then))
    }

    fn while_active(
        &mut self,
        command: Option<Command>,
        active: Active,
    ) -> Result<Active, Box<Phase>> {
        let Some(command) = command else {
            return Err(Box::new(self.stop(active, AfterInterrupt::Leave(CloseReason::Shutdown))));
        };
        match self.take_with(command, Availability::Running, Some(&active.process)) {
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
            Disposition::Steer(steer) => {
                let mut active = active;
                self.steer(&mut active.process, *steer);
                Ok(active)
            }
            Disposition::StopWork(stop) => {
                let mut active = active;
                self.stop_work(&mut active.process, stop);
                Ok(active)
            }
            Disposition::Respond(prompt_id, decision, reply) => {
                let mut active = active;
                self.respond(&mut active.process, Answer { prompt_id, decision, reply });
                active.turn.touch();
                Ok(active)
            }
        }
    }
}

impl Running {
    /// What a frame means. The first that may be of the turn is its process's answer to the prompt.
    fn hear<'f>(&mut self, frame: &'f Frame, facts: &Facts<'_>) -> Meaning<'f> {
        let stopping = facts.stopping || (self.may_be_stopped && was_aborted(frame));
        let meaning = self.reader.read(frame, &Facts { stopping, ..*facts });
        if self.reader.has_answer() {
            self.begin_for_good();
        }
        if self.reader.has_first_frame() {
            self.prompt_held = None;
        }
        meaning
    }

    /// Tells on which process the turn runs: it runs on no other from here on.
    pub(in crate::session) fn begin_for_good(&mut self) {
        if let Some(unanswered) = self.unanswered.take() {
            let Unanswered { request: _, started, feed } = *unanswered;
            self.log.start(started);
            feed.begin(&self.log);
        }
    }
}

/// The end of a turn that this frame is. It is told when it is kept.
fn ended_with(turn: &mut Running, frame: &Frame, outcome: Outcome) -> TurnEnd {
    let mut untold = Vec::new();
    turn.record(frame.raw.clone(), Some(class_of_result(outcome)), &mut untold);
    let interrupted = outcome == Outcome::Interrupted;
    let is_error = outcome == Outcome::Failed;
    TurnEnd { interrupted, is_error, settled: false, untold }
}

/// What a frame is as an event. What the CLI asks says until when.
pub(super) fn event_line(prompts: &OpenPrompts, frame: &Frame) -> Bytes {
    match frame.ask() {
        Some(Ask::Made(prompt)) => prompt_event(prompts.expire_time(&prompt.id), &frame.raw),
        Some(Ask::Withdrawn(_)) | None => frame.raw.clone(),
    }
}

/// The process has printed something, which may be of the turn.
fn note_output(active: &mut Active, frames: &[Frame]) {
    // To answer the pool is no sign of a turn that goes on, nor is work behind the turns.
    let answered = active.process.lease.connection.take_answered();
    if (frames.is_empty() && !answered) || frames.iter().any(is_of_turn) {
        active.turn.touch();
    }
}
