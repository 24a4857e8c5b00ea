//! Phases: the process does nothing, or has just ended a turn and is about to say that
//! it is idle. What it is given to do is `starting`'s.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{active::event_line, starting::Next};
use crate::{
    cli::{
        frame::Frame,
        process::StopGrace,
        turn::{Aside, begins_turn, told_aside},
    },
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, Command, HibernateReason},
        process::Process,
        running::class_of,
        state::{Disposition, Phase},
        task::SessionTask,
    },
    tasks::at,
};

/// How long after a result the idle state is waited for: 2 to 15 ms were seen, and
/// versions without that event exist.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

impl SessionTask {
    pub(in crate::session) async fn settling(&mut self, process: Process) -> Phase {
        self.rest(process, Some(Instant::now() + SETTLE_LIMIT)).await
    }

    pub(in crate::session) async fn idle(&mut self, process: Process) -> Phase {
        self.rest(process, None).await
    }

    /// Between turns. With `settle_until`, until the CLI says that it is idle.
    async fn rest(&mut self, mut process: Process, settle_until: Option<Instant>) -> Phase {
        let mut frames = std::mem::take(&mut process.leftover);
        loop {
            if let Some(first) = frames.iter().position(begins_turn) {
                let of_turn = frames.split_off(first);
                self.between_turns(&mut process, &mut frames);
                return self.background_turn(process, of_turn);
            }
            if self.between_turns(&mut process, &mut frames) && settle_until.is_some() {
                return Phase::Idle(process);
            }
            self.keep_up(&mut process);
            if self.journal.moved().is_some() {
                return self.moved_between_turns(process).await;
            }
            self.answer_between_turns(&mut process);
            if self.leaving.is_some() {
                return Phase::Idle(process);
            }
            if settle_until.is_none() {
                match self.what_waits(process).await {
                    Next::Wait(kept) => process = kept,
                    Next::Again(kept) => {
                        process = kept;
                        frames.append(&mut process.leftover);
                        continue;
                    }
                    Next::Phase(next) => return *next,
                }
            }
            let retention = self.queue.drop_old();
            let hibernates = self.hibernates_at(&process).filter(|_| settle_until.is_none());
            let due = self.due_between_turns(&process, settle_until.is_none());
            let waits = self.journal.holds_too_much();
            tokio::select! {
                read = process.lease.connection.read(&mut frames), if !waits => match read {
                    Ok(()) => self.count_strays(&mut process),
                    Err(error) => return self.lost(process, &error.to_string()).await,
                },
                exit = process.lease.child.wait() => {
                    return self.lost(process, &exit.to_string()).await;
                }
                stir = self.journal.commits.stir() => self.stirred(stir),
                () = at(process.lease.meter.ask_at()) => process.lease.ask_cost(),
                command = self.inbox.recv() => {
                    let availability = self.availability_between_turns(settle_until);
                    process = match self.while_idle(command, availability, process).await {
                        Ok(process) => process,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                () = at(settle_until) => return Phase::Idle(process),
                () = at(retention) => {}
                () = at(due) => {}
                () = at(hibernates) => return self.hibernate(process, HibernateReason::Idle).await,
            }
        }
    }

    /// When to look once more between turns, although nothing has happened.
    fn due_between_turns(&self, process: &Process, settled: bool) -> Option<Instant> {
        let rests = self.hibernatable_from(process);
        // Shown by the next round.
        let rests = rests.filter(|_| settled && !self.status.can_hibernate);
        let begins = process.traits.begins_until().filter(|_| !self.queue.is_empty());
        let others = self.followers.due(&process.traits).into_iter().chain(rests).chain(begins);
        let others = others.min();
        self.answers_due(process, others)
    }

    /// Another service has taken the session over: its process serves nobody any more.
    async fn moved_between_turns(&mut self, process: Process) -> Phase {
        self.leave(CloseReason::Moved);
        self.part_with(process, StopGrace::FIRM).await;
        Phase::Closing(None, CloseReason::Moved)
    }

    fn count_strays(&self, process: &mut Process) {
        let strays = process.lease.connection.take_strays();
        self.ctx.tenant.counters.stray_lines.add(strays);
    }

    fn availability_between_turns(&self, settle_until: Option<Instant>) -> Availability {
        match settle_until {
            Some(_) => Availability::Settling,
            None => self.unless_untold(Availability::Idle),
        }
    }

    /// Keeps what is much, and ends a process that works where it must not: the next turn
    /// gets another.
    fn keep_up(&mut self, process: &mut Process) {
        if self.journal.take_due() {
            self.keep_on();
        }
        self.keep_much();
        if self.journal.commits.take_expelled() {
            process.lease.child.kill();
        }
    }

    /// Frames that belong to no turn. Returns whether the CLI said that it is idle.
    pub(super) fn between_turns(&mut self, process: &mut Process, frames: &mut Vec<Frame>) -> bool {
        let mut idle = false;
        self.hear_cost(&mut process.lease.meter);
        for frame in frames.drain(..) {
            self.hear_frame(process, &frame);
            process.announce(&frame);
            if let Some(kind) = told_aside(&frame) {
                self.feed.aside(class_of(kind), event_line(&process.prompts, &frame));
            }
            match Aside::of(&frame) {
                Aside::Nothing => {}
                Aside::Idle => idle = true,
                Aside::Moved(cli_session_id) => self.ownership.follow(cli_session_id),
                Aside::Over(summary) => {
                    self.spend(&mut process.lease.meter, summary);
                }
            }
        }
        self.show_asked_and_work(process);
        idle
    }

    async fn while_idle(
        &mut self,
        command: Option<Command>,
        availability: Availability,
        mut process: Process,
    ) -> Result<Process, Box<Phase>> {
        let Some(command) = command else {
            return Err(Box::new(Phase::Closing(Some(process), CloseReason::Shutdown)));
        };
        match self.take_with(command, availability, Some(&process)) {
            // What is of a turn comes to nothing where none runs.
            Disposition::Done | Disposition::Stop(_) => Ok(process),
            Disposition::Respond(prompt_id, decision, reply) => {
                self.respond(&mut process, Answer { prompt_id, decision, reply });
                Ok(process)
            }
            Disposition::Steer(steer) => {
                self.steer_later(*steer);
                Ok(process)
            }
            Disposition::StopWork(stop) => {
                self.stop_work(&mut process, stop);
                Ok(process)
            }
            // Who waits for what works in a session of its own is told that it has ended.
            Disposition::Hibernate(_, reply) if self.ephemeral => {
                self.part_with(process, StopGrace::GENTLE).await;
                reply.send(true).ok();
                Err(Box::new(Phase::Closing(None, CloseReason::Ephemeral)))
            }
            Disposition::Hibernate(why, reply) => {
                let next = self.hibernate(process, why).await;
                reply.send(true).ok();
                Err(Box::new(next))
            }
            Disposition::Leave(reason) => Err(Box::new(Phase::Closing(Some(process), reason))),
        }
    }

    /// The process ended between turns. The next turn continues on another.
    pub(super) async fn lost(&mut self, process: Process, why: &str) -> Phase {
        warn!(
            session_id = %self.status.session_id,
            client_id = %process.lease.client_id,
            error = why,
            "cli_exited_between_turns"
        );
        if let Some(overrun) = process.lease.child.overrun() {
            self.warn_of(overrun, process.lease.client_id);
        }
        self.ctx.tenant.counters.cli_exits.add_one();
        self.part_with(process, StopGrace::FIRM).await;
        self.after_loss()
    }
}
