//! What an idle process is given to do: it is made what a turn, or a change of options, wants it to
//! be, as far as a running process can be, and the turn begins with its prompt. Whoever asks the
//! session meanwhile is answered (`busy`).

use std::{
    iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    cli::{
        applied,
        connection::{CallError, Meanwhile},
        frame::Frame,
        process::StopGrace,
        request::{ControlRequest, user_message},
        turn::begins_turn,
    },
    domain::{
        failure::{Cause, Remedy},
        options::{LiveChange, Options},
    },
    session::{
        command::{CloseReason, MismatchPolicy, UpdateReport},
        process::Process,
        queue::Waiting,
        running::{Running, Unanswered},
        spending::BUDGET,
        state::{Active, Phase},
        task::SessionTask,
    },
    turn::event::{ProcessOrigin, Started},
};

/// What an idle session does next.
pub enum Next {
    /// It waits for something to happen.
    Wait(Process),
    /// It looks once more at what there is.
    Again(Process),
    /// Something else.
    Phase(Box<Phase>),
}

/// Why a process is not what it is wanted to be.
enum Unfit {
    /// It cannot be made that.
    Refused(Cause),
    /// It has ended, or takes nothing in any more: another can be made that.
    Gone(String),
    /// Nobody wants that any more.
    Unwanted,
}

impl SessionTask {
    /// Does what waits for an idle process: changes of options, and the next turn.
    pub(super) async fn what_waits(&mut self, mut process: Process) -> Next {
        if let Err(why) = self.update_idle(&mut process).await {
            return Next::Phase(Box::new(self.lost(process, &why).await));
        }
        if self.leaving.is_some() {
            return Next::Phase(Box::new(Phase::Idle(process)));
        }
        // Answers that came while options changed have waited for the process.
        let deferred = !self.deferred.is_empty() || !self.deferred_stops.is_empty();
        if !process.leftover.is_empty() || deferred {
            return Next::Again(process);
        }
        if self.spends_too_much(&process) {
            return Next::Phase(Box::new(self.stop_spending(process).await));
        }
        self.drop_abandoned();
        if process.traits.begins_until().is_none()
            && self.may_begin_turn()
            && let Some(turn) = self.next_turn()
        {
            return match self.start_turn(process, turn).await {
                Ok(next) => Next::Phase(Box::new(next)),
                Err(kept) => Next::Again(*kept),
            };
        }
        if self.is_useless() {
            return Next::Phase(Box::new(Phase::Closing(Some(process), CloseReason::Ephemeral)));
        }
        self.show_can_hibernate(&process);
        Next::Wait(process)
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

    /// Begins a turn, on this process or on another; gives the process back when the
    /// turn failed and the process stays.
    async fn start_turn(
        &mut self,
        mut process: Process,
        turn: Waiting,
    ) -> Result<Phase, Box<Process>> {
        // It can be joined by its id before it begins.
        self.queue.expect(&turn);
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
        // What works behind its turns would end with the process.
        let works = self.works_behind(Some(&process));
        if self.status.age() >= self.ctx.settings.session_ttl && !works {
            self.expire(Some(client_id));
            return Ok(self.replace(process, turn).await);
        }
        let outdated = self.is_outdated(&process.lease) || !process.given.hold();
        if turn.request.new_conversation || outdated {
            return Ok(self.replace(process, turn).await);
        }
        let recheck = self.ctx.supply.recheck(&self.with_folders());
        let checked = self.while_wanted(recheck).await;
        if checked.is_err() || self.is_over(&turn) {
            self.drop_turn(&turn.log);
            return Err(Box::new(process));
        }
        if let Ok(Err(cause)) = checked {
            let failure = self.failure(cause).on_client(client_id);
            self.fail(&turn.log, failure);
            self.part_with(process, StopGrace::FIRM).await;
            return Ok(self.after_loss());
        }
        if let Err(unfit) = self.fit(&mut process, &turn).await {
            return self.does_not_fit(process, turn, unfit).await;
        }
        if self.is_over(&turn) {
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

    /// What becomes of a turn whose process is not what the turn wants.
    async fn does_not_fit(
        &mut self,
        process: Process,
        turn: Waiting,
        unfit: Unfit,
    ) -> Result<Phase, Box<Process>> {
        let cause = match unfit {
            Unfit::Unwanted => {
                self.drop_turn(&turn.log);
                return Err(Box::new(process));
            }
            Unfit::Refused(cause) => cause,
            Unfit::Gone(why) => {
                // It has not begun, and begins on the next.
                self.queue.put_back(turn);
                return Ok(self.lost(process, &why).await);
            }
        };
        let restart = turn.request.on_mismatch == MismatchPolicy::Restart;
        if restart && matches!(cause, Cause::OptionsMismatch { .. }) {
            return Ok(self.replace(process, turn).await);
        }
        let failure = self.failure(cause).on_client(process.lease.client_id);
        self.fail(&turn.log, failure);
        self.show();
        Err(Box::new(process))
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
        // Newer versions try a model by calling the API with it. No turn can begin meanwhile, so
        // this has the bound of an interrupt.
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
        let asked = process.lease.connection.call(request, deadline, meanwhile);
        let answered = self.while_wanted(asked).await;
        self.put_aside(process, &mut frames);
        let Ok(answered) = answered else {
            // Nobody knows whether it takes that on: the next turn gets another.
            process.lease.outdated = true;
            return Err(Unfit::Unwanted);
        };
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
                // The session leaves.
                Err(Unfit::Unwanted) => {
                    self.queue.return_updates(iter::once(update).chain(updates));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins a turn on a connected process.
    pub(in crate::session) fn begin(
        &mut self,
        mut process: Process,
        waiting: Waiting,
        origin: ProcessOrigin,
        came: Instant,
    ) -> Phase {
        let (uuid, again) = (Uuid::new_v4(), waiting.again);
        let input = Arc::clone(&waiting.request.input);
        let mut turn = self.running(&mut process, waiting, uuid, origin, came);
        let lease = &mut process.lease;
        if input.may_be_command() {
            // A process that takes no more input has nobody to ask.
            turn.applied_before = lease.connection.request(applied::question()).ok();
        }
        // The outbox is empty between turns: what does not take the prompt takes nothing.
        if let Err(blocked) = lease.connection.send(user_message(&input, uuid)) {
            warn!(client_id = %lease.client_id, error = %blocked, "prompt_not_written");
            turn.unsent = true;
        }
        if let Some(again) = again {
            turn.resume_clock(again);
        } else {
            self.status.note_prompt();
            self.ctx.tenant.counters.messages.add_one();
        }
        Phase::Active(Active { process, turn })
    }

    /// A turn that runs on a process, which has the prompt of this id or is about to get it.
    pub(in crate::session) fn running(
        &mut self,
        process: &mut Process,
        waiting: Waiting,
        uuid: Uuid,
        origin: ProcessOrigin,
        came: Instant,
    ) -> Running {
        let Waiting { request, log, counted, following, again, steered, _queued: _ } = waiting;
        process.announced.clear();
        self.followers.turn_begins();
        let (asked, policy) = (process.prompts.number(), request.on_disconnect);
        let mut turn = Running::new(log, Some(uuid), policy, &process.traits, asked, counted);
        turn.prompt_held = request.held.clone();
        turn.named = request.turn_id.is_some();
        turn.on_background = request.on_background;
        turn.steered = steered.then_some(uuid);
        turn.following = following.map(|it| (it, request.partials));
        let lease = &process.lease;
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
            connect_time: match origin == ProcessOrigin::Reused {
                true => Duration::ZERO,
                false => lease.connect_time,
            },
            start_time: SystemTime::now(),
            background: false,
        };
        turn.log.span().record("client_id", tracing::field::display(lease.client_id));
        self.queue.begin(&turn.log);
        self.status.note_use();
        let feed = Arc::clone(&self.feed);
        turn.unanswered = Some(Box::new(Unanswered { request, started, feed }));
        if again.is_some() || !self.ctx.settings.connection_recovery {
            // No other process follows this one.
            turn.begin_for_good();
        }
        turn
    }
}
