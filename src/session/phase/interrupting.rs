//! Phase: a turn is being stopped. The CLI is asked, asked again because some versions
//! lose what comes right behind a prompt, and in the end its process is ended.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::{
    cli::{background::Task, frame::Frame, process::StopGrace, request::ControlRequest},
    domain::{failure::Cause, ids::ClientId},
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, CloseReport, Command, InterruptOutcome, InterruptReport},
        state::{Active, Disposition, Phase},
        stop::{AfterInterrupt, Stop},
        task::SessionTask,
        turn_end::{End, TurnEnd},
    },
    supply::noticed,
    tasks::at,
};

impl SessionTask {
    /// A stop that begins now.
    pub(super) fn new_stop(&self, then: AfterInterrupt) -> Stop {
        Stop::new(self.ctx.settings.interrupt_timeout, then)
    }

    pub(in crate::session) async fn interrupting(
        &mut self,
        mut active: Active,
        mut stop: Stop,
    ) -> Phase {
        let session_id = self.status.session_id.clone();
        let client_id = active.process.lease.client_id;
        debug!(%session_id, %client_id, "session_pool_interrupting_session");
        let mut frames = Vec::new();
        // What was stopped before was told to others.
        drop(active.process.traits.background.take_stopped());
        // At once: a timer that is due fires with the next millisecond.
        if stop.ask_at <= Instant::now() {
            ask(&mut active, &mut stop);
        }
        loop {
            if let Some(cause) = self.journal.moved().cloned() {
                return self.moved_while_stopping(active, stop, cause).await;
            }
            // As in a turn that runs: a CLI that is being stopped may have much to say yet.
            let full = active.turn.log.is_full();
            self.answer_in_turn(&mut active, true);
            let answers_due = active.process.answers_due();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(stop.deadline) => {
                    let elapsed = stop.began.elapsed().as_secs_f64();
                    warn!(%session_id, %client_id, elapsed, "session_pool_interrupt_timeout");
                    return self.kill_turn(active, stop).await;
                }
                () = tokio::time::sleep_until(stop.ask_at) => ask(&mut active, &mut stop),
                () = active.turn.log.room(), if full => {}
                read = active.process.lease.connection.read(&mut frames), if !full => {
                    active.turn.touch();
                    if let Some(over) = self.digest(&mut active, &mut frames, true) {
                        let elapsed = stop.began.elapsed().as_secs_f64();
                        debug!(%session_id, %client_id, elapsed, "session_pool_interrupt_completed");
                        return self.stopped(active, stop, frames, over);
                    }
                    if read.is_err() {
                        return self.kill_turn(active, stop).await;
                    }
                    if active.turn.reader.hears_interrupts() {
                        stop.turn_begins();
                    }
                    self.keep_much();
                }
                () = at(active.process.lease.meter.ask_at()) => {
                    self.ask_of_turn(&mut active);
                }
                // Told by the next round.
                () = noticed(active.process.lease.pass.as_ref()) => {}
                stir = self.journal.commits.stir() => self.stirred(stir),
                _ = active.process.lease.child.wait() => return self.kill_turn(active, stop).await,
                command = self.inbox.recv() => {
                    self.while_interrupting(command, &mut active, &mut stop);
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                // Given by the next round.
                () = at(answers_due) => {}
            }
        }
    }

    fn while_interrupting(
        &mut self,
        command: Option<Command>,
        active: &mut Active,
        stop: &mut Stop,
    ) {
        let Some(command) = command else {
            stop.leave(CloseReason::Shutdown);
            return;
        };
        let leaves = matches!(stop.then, AfterInterrupt::Leave(_));
        match self.take(command, Availability::Stopping { leaves }) {
            Disposition::Done => {}
            Disposition::Stop(purpose) => stop.join(purpose),
            Disposition::Leave(reason) => stop.leave(reason),
            Disposition::Hibernate(_, reply) => {
                reply.send(false).ok();
            }
            Disposition::Steer(steer) => self.steer_later(*steer),
            Disposition::StopWork(stop) => self.stop_work(&mut active.process, stop),
            Disposition::Respond(prompt_id, decision, reply) => {
                self.respond(&mut active.process, Answer { prompt_id, decision, reply });
                active.turn.touch();
            }
        }
    }

    /// The turn has stopped, and the process lives.
    fn stopped(
        &mut self,
        mut active: Active,
        stop: Stop,
        rest: Vec<Frame>,
        over: TurnEnd,
    ) -> Phase {
        self.leave_behind(&mut active);
        let outcome = if over.interrupted {
            InterruptOutcome::Interrupted
        } else {
            InterruptOutcome::TurnEnded
        };
        let Active { mut process, turn } = active;
        let (client_id, settled) = (process.lease.client_id, over.settled);
        // What came too late for the turn may stop what the CLI does next.
        process.stop_goes_on = !over.interrupted || stop.was_asked_again();
        let background = &mut process.traits.background;
        let (ended, works) = (background.take_stopped(), background.shown().tasks);
        self.note_stopped(&stop, client_id, outcome);
        self.conclude(turn, client_id, End::Result(over));
        match self.answer(stop, outcome, ended, works) {
            AfterInterrupt::Stay | AfterInterrupt::StayUnlessKilled(_) => {
                self.after_turn(process, rest, settled)
            }
            AfterInterrupt::Leave(reason) => Phase::Closing(Some(process), reason),
        }
    }

    fn note_stopped(&self, stop: &Stop, client_id: ClientId, outcome: InterruptOutcome) {
        let session_id = &self.status.session_id;
        debug!(%session_id, %client_id, ?outcome, "session_interrupted");
        if stop.ongoing_timeout && outcome == InterruptOutcome::Interrupted {
            info!(%session_id, %client_id, "session_pool_interrupted_ongoing_timeout");
        } else if stop.ongoing_timeout {
            debug!(%session_id, %client_id, "session_pool_interrupt_ongoing_not_needed");
        }
        self.note_cleared(stop, client_id);
    }

    /// The turn did not stop, or the process ended: nothing of it is left after this.
    async fn kill_turn(&mut self, mut active: Active, stop: Stop) -> Phase {
        let session_id = self.status.session_id.clone();
        let client_id = active.process.lease.client_id;
        error!(
            %session_id,
            %client_id,
            error = "the CLI did not stop its turn",
            "session_interrupt_failed"
        );
        if stop.ongoing_timeout {
            let error = "the CLI did not stop its turn";
            warn!(%session_id, %client_id, error, "session_pool_interrupt_ongoing_failed");
        }
        self.note_cleared(&stop, client_id);
        self.ctx.tenant.counters.interrupt_escalations.add_one();
        self.ctx.tenant.counters.interrupted.add_one();
        let cause = if let AfterInterrupt::Leave(CloseReason::Shutdown) = stop.then {
            Cause::EndedByShutdown { tool_use_seen: active.turn.reader.has_used_tools() }
        } else {
            Cause::TurnInterrupted
        };
        self.fail_active(&mut active, cause);
        if let AfterInterrupt::StayUnlessKilled(reason) | AfterInterrupt::Leave(reason) = stop.then
        {
            self.leave(reason);
        }
        let background = &mut active.process.traits.background;
        let mut ended = background.take_stopped();
        ended.extend(background.shown().tasks);
        self.part_with(active.process, StopGrace::FIRM).await;
        match self.answer(stop, InterruptOutcome::Terminated, ended, Vec::new()) {
            AfterInterrupt::Stay if self.ephemeral && self.queue.is_empty() => {
                Phase::Closing(None, CloseReason::Ephemeral)
            }
            AfterInterrupt::Stay => Phase::Detached,
            AfterInterrupt::StayUnlessKilled(reason) | AfterInterrupt::Leave(reason) => {
                Phase::Closing(None, reason)
            }
        }
    }

    /// Another service has the session by now. Who stops it here is told when the process is gone.
    async fn moved_while_stopping(
        &mut self,
        active: Active,
        mut stop: Stop,
        cause: Cause,
    ) -> Phase {
        let next = self.moved(active, cause).await;
        stop.then = AfterInterrupt::Leave(CloseReason::Moved);
        self.answer(stop, InterruptOutcome::Terminated, Vec::new(), Vec::new());
        next
    }

    fn note_cleared(&self, stop: &Stop, client_id: ClientId) {
        debug!(
            session_id = %self.status.session_id,
            %client_id,
            was_interrupted = true,
            was_first_chunk_timeout = false,
            was_ongoing_timeout = stop.ongoing_timeout,
            "session_pool_stream_cleared"
        );
    }

    /// Answers those who wait: soon if the session stays, else when it is gone.
    fn answer(
        &mut self,
        stop: Stop,
        outcome: InterruptOutcome,
        stopped: Vec<Arc<Task>>,
        still_running: Vec<Arc<Task>>,
    ) -> AfterInterrupt {
        let report = InterruptReport::of_turn(outcome, true, stop.began.elapsed());
        let report = InterruptReport { stopped, still_running, ..report };
        for reply in stop.waiters {
            if matches!(stop.then, AfterInterrupt::Leave(_)) {
                self.replies.interrupts.push((reply, report.clone().with_all_stopped()));
            } else {
                self.journal.commits.answer_soon(reply, report.clone());
            }
        }
        let report = CloseReport { closed: true, had_active_turn: true, not_forgotten: None };
        let answers = stop.closers.into_iter().map(|reply| (reply, report.clone()));
        self.replies.closes.extend(answers);
        stop.then
    }
}

fn ask(active: &mut Active, stop: &mut Stop) {
    let repeated = stop.is_repeated();
    let has_messages = !active.process.steers.pending().is_empty();
    stop.note_asked(has_messages, active.turn.reader.hears_interrupts());
    let connection = &mut active.process.lease.connection;
    // Before the interrupt, so that what the CLI says of it comes before the end of the turn. An
    // interrupt ends subagents, too; 2.1.110 does not, and ends no turn before them.
    let stopped = active.process.traits.background.behind();
    let stopped = stopped.iter().filter(|task| stop.all || (repeated && task.is_subagent()));
    let stops = stopped.map(|task| ControlRequest::stop_task(&task.id));
    // Its answer says nothing that the end of the turn does not say better. A CLI that
    // does not read its input is ended at the deadline.
    if let Err(blocked) = connection.request_all(stops.chain([ControlRequest::interrupt()])) {
        debug!(error = %blocked, "interrupt_not_written");
    }
}
