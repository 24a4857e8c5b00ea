//! Phases: the process does nothing, or has just ended a turn and is about to say that
//! it is idle. Options are changed here, and the next turn begins here.

use std::{iter, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    admission::Availability,
    background::begins_turn,
    command::{CloseReason, Command, HibernateReason, MismatchPolicy, UpdateReport},
    deadline::at,
    phase::{Disposition, Phase},
    process::Process,
    queue::Waiting,
    spending::BUDGET,
    task::SessionTask,
};
use crate::{
    cli::{
        connection::{CallError, Meanwhile},
        frame::{Frame, FrameKind},
        process::StopGrace,
        request::ControlRequest,
    },
    domain::{
        failure::{Cause, Remedy},
        options::{LiveChange, Options},
    },
    turn::event::ProcessOrigin,
};

/// How long after a result the idle state is waited for: 2 to 15 ms were seen, and
/// versions without that event exist.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// Why a process is not what it is wanted to be.
enum Unfit {
    /// It cannot be made that.
    Refused(Cause),
    /// It has ended, or takes nothing in any more: another can be made that.
    Gone(String),
}

impl SessionTask {
    pub(super) async fn settling(&mut self, process: Process) -> Phase {
        self.rest(process, Some(Instant::now() + SETTLE_LIMIT)).await
    }

    pub(super) async fn idle(&mut self, process: Process) -> Phase {
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
                self.part_with(process, StopGrace::FIRM).await;
                return Phase::Closing(None, CloseReason::Moved);
            }
            if settle_until.is_none() {
                if let Err(why) = self.update_idle(&mut process).await {
                    return self.lost(process, &why).await;
                }
                if !process.leftover.is_empty() {
                    frames.append(&mut process.leftover);
                    continue;
                }
                if self.spends_too_much(&process) {
                    return self.stop_spending(process).await;
                }
                self.drop_abandoned();
                if self.may_begin_turn()
                    && let Some(turn) = self.next_turn()
                {
                    match self.start_turn(process, turn).await {
                        Ok(next) => return next,
                        Err(kept) => process = *kept,
                    }
                    continue;
                }
                if self.ephemeral && self.queue.is_empty() {
                    return Phase::Closing(Some(process), CloseReason::Ephemeral);
                }
                self.show_can_hibernate(&process);
            }
            let retention = self.queue.drop_old();
            let hibernates = self.hibernates_at(&process).filter(|_| settle_until.is_none());
            let rests = self.hibernatable_from(&process).filter(|_| !self.status.can_hibernate);
            let waits = self.journal.holds_too_much();
            tokio::select! {
                read = process.lease.connection.read(&mut frames), if !waits => match read {
                    Ok(()) => {
                        let strays = process.lease.connection.take_strays();
                        self.ctx.tenant.counters.stray_lines.add(strays);
                    }
                    Err(error) => return self.lost(process, &error.to_string()).await,
                },
                exit = process.lease.child.wait() => {
                    return self.lost(process, &exit.to_string()).await;
                }
                stir = self.journal.commits.stir() => self.stirred(stir),
                () = at(process.lease.meter.ask_at()) => {
                    process.lease.meter.ask(&mut process.lease.connection);
                }
                command = self.inbox.recv() => {
                    let availability = match settle_until {
                        Some(_) => Availability::Settling,
                        None => self.unless_untold(Availability::Idle),
                    };
                    process = match self.while_idle(command, availability, process).await {
                        Ok(process) => process,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                () = at(settle_until) => return Phase::Idle(process),
                () = at(retention) => {}
                // Shown by the next round.
                () = at(rests), if settle_until.is_none() => {}
                () = at(hibernates) => return self.hibernate(process, HibernateReason::Idle).await,
            }
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
    fn between_turns(&mut self, process: &mut Process, frames: &mut Vec<Frame>) -> bool {
        let mut idle = false;
        let meter = &mut process.lease.meter;
        self.hear_cost(meter);
        for frame in frames.drain(..) {
            process.traits.note(&frame.kind);
            process.prompts.hear(&frame.kind);
            meter.note(&frame.kind);
            self.hear_state(&frame.kind);
            self.hear(&frame);
            match &frame.kind {
                FrameKind::State { idle: true } => idle = true,
                FrameKind::ConversationReset { cli_session_id } => {
                    self.ownership.follow(cli_session_id)
                }
                FrameKind::Result(summary) => {
                    self.spend(meter, summary);
                }
                _ => {}
            }
        }
        self.show_prompts(&process.prompts.shown());
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
                reply.send(self.respond(&mut process, prompt_id, decision).await).ok();
                Ok(process)
            }
            Disposition::Hibernate(why, reply) => {
                let next = self.hibernate(process, why).await;
                reply.send(true).ok();
                Err(Box::new(next))
            }
            Disposition::Leave(reason) => Err(Box::new(Phase::Closing(Some(process), reason))),
        }
    }

    /// Begins a turn, on this process or on another; gives the process back when the
    /// turn failed and the process stays.
    async fn start_turn(
        &mut self,
        mut process: Process,
        turn: Waiting,
    ) -> Result<Phase, Box<Process>> {
        let came = Instant::now();
        let client_id = process.lease.client_id;
        // Before anything that ends the process: a turn that is refused costs nothing.
        let wanted = self.status.options.updated(&turn.request.options);
        if let Err(cause) = self.check_budget(&wanted) {
            let failure = self.failure(cause).on_client(client_id);
            self.fail(&turn.log, failure);
            self.show();
            return Err(Box::new(process));
        }
        if self.status.age() >= self.ctx.settings.session_ttl {
            self.expire(Some(client_id));
            return Ok(self.replace(process, turn).await);
        }
        let outdated = self.is_outdated(&process.lease) || !process.given.hold();
        if turn.request.new_conversation || outdated {
            return Ok(self.replace(process, turn).await);
        }
        if let Err(cause) = self.ctx.supply.recheck(&self.with_folders()).await {
            let failure = self.failure(cause).on_client(client_id);
            self.fail(&turn.log, failure);
            self.part_with(process, StopGrace::FIRM).await;
            return Ok(self.after_loss());
        }
        if let Err(unfit) = self.fit(&mut process, &turn).await {
            let cause = match unfit {
                Unfit::Refused(cause) => cause,
                Unfit::Gone(why) => {
                    // It has not begun, and begins on the next.
                    self.queue.push_front(turn);
                    return Ok(self.lost(process, &why).await);
                }
            };
            let restart = turn.request.on_mismatch == MismatchPolicy::Restart;
            if restart && matches!(cause, Cause::OptionsMismatch { .. }) {
                return Ok(self.replace(process, turn).await);
            }
            let failure = self.failure(cause).on_client(client_id);
            self.fail(&turn.log, failure);
            self.show();
            return Err(Box::new(process));
        }
        self.ctx.tenant.counters.sessions_reused.add_one();
        debug!(
            session_id = %self.status.session_id,
            %client_id,
            "session_pool_reusing_healthy_session"
        );
        Ok(self.begin(process, turn, ProcessOrigin::Reused, came))
    }

    /// Another process for the same session.
    async fn replace(&mut self, process: Process, turn: Waiting) -> Phase {
        self.part_with(process, StopGrace::GENTLE).await;
        Phase::Connecting(turn)
    }

    /// Makes the process what the turn wants, as far as a running process can be.
    async fn fit(&mut self, process: &mut Process, turn: &Waiting) -> Result<(), Unfit> {
        let request = &turn.request;
        let elsewhere = request
            .resume
            .is_some_and(|resume| resume.fork || resume.id != self.status.cli_session_id);
        let mut difference = self.difference(&request.options);
        if elsewhere {
            difference.fixed.push("resume");
        }
        // A copy of its own conversation is one that a process begins with.
        let leaves = request.resume.is_some_and(|it| it.id != self.status.cli_session_id);
        let remedy = if leaves { Remedy::NewConversation } else { Remedy::Restart };
        if !difference.fixed.is_empty() {
            return Err(Unfit::Refused(Cause::mismatch(&difference.fixed, remedy)));
        }
        self.change(process, &difference.live, &request.options).await
    }

    async fn change(
        &mut self,
        process: &mut Process,
        changes: &[LiveChange],
        wanted: &Options,
    ) -> Result<(), Unfit> {
        // Newer versions try a model by calling the API with it. Nothing else is heard
        // meanwhile, so this has the bound of an interrupt.
        let deadline = Instant::now() + self.ctx.settings.interrupt_timeout;
        for change in changes {
            let answer = self.ask(process, change, deadline).await?;
            // What was accepted holds, whatever becomes of the rest.
            self.hear_answer(change, &answer);
        }
        self.asked_anew(wanted);
        Ok(())
    }

    /// Asks a process for one change of options and waits for its answer. One that does
    /// not answer is ended: the next turn runs on another.
    async fn ask(
        &mut self,
        process: &mut Process,
        change: &LiveChange,
        deadline: Instant,
    ) -> Result<String, Unfit> {
        let refused = |remedy: Remedy, detail: String| {
            let options = vec![change.option().to_owned()];
            Unfit::Refused(Cause::OptionsMismatch { options, remedy, detail: Some(detail) })
        };
        let mut frames = Vec::new();
        let (request, meanwhile) = (ControlRequest::change(change), Meanwhile::Keep(&mut frames));
        let answered = process.lease.connection.call(request, deadline, meanwhile).await;
        self.put_aside(process, &mut frames);
        match answered {
            Ok(answered) => answered.map_err(|refusal| refused(Remedy::OtherValue, refusal)),
            Err(error @ (CallError::Late | CallError::Flooded)) => {
                process.lease.child.kill();
                Err(refused(Remedy::Retry, error.to_string()))
            }
            Err(error @ (CallError::Blocked(_) | CallError::Broken(_))) => {
                Err(Unfit::Gone(error.to_string()))
            }
        }
    }

    /// Frames that come while options change: a turn that the CLI begins by itself is
    /// kept for later, echoes of the change are of no turn.
    fn put_aside(&mut self, process: &mut Process, frames: &mut Vec<Frame>) {
        if process.leftover.is_empty() && !frames.iter().any(begins_turn) {
            self.between_turns(process, frames);
        } else {
            self.hear_states(frames);
            process.leftover.append(frames);
        }
    }

    /// Changes options as was asked. Fails when the process is gone: what is not changed
    /// then can be changed without it.
    async fn update_idle(&mut self, process: &mut Process) -> Result<(), String> {
        let mut updates = self.queue.take_updates().into_iter();
        while let Some(update) = updates.next() {
            let mut difference = self.difference(&update.options);
            // A process keeps the budget that it was born with. The next turn gets another.
            let renews = difference.fixed == [BUDGET];
            if renews {
                difference.fixed.clear();
            }
            let result = if difference.fixed.is_empty() {
                self.change(process, &difference.live, &update.options).await
            } else {
                Err(Unfit::Refused(Cause::mismatch(&difference.fixed, Remedy::Query)))
            };
            process.lease.outdated |= renews && result.is_ok();
            match result {
                Ok(()) => {
                    let mut changed: Vec<_> =
                        difference.live.iter().map(LiveChange::option).collect();
                    changed.extend(renews.then_some(BUDGET));
                    self.journal.commits.tell_update(update.reply, UpdateReport { changed });
                    self.keep_on();
                }
                Err(Unfit::Refused(cause)) => {
                    update.reply.send(Err(self.failure(cause).into())).ok();
                }
                Err(Unfit::Gone(why)) => {
                    self.queue.return_updates(iter::once(update).chain(updates));
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// The process ended between turns. The next turn continues on another.
    async fn lost(&mut self, process: Process, why: &str) -> Phase {
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
