//! Phases: the process does nothing, or has just ended a turn and is about to say that
//! it is idle. What comes meanwhile is taken in, and the next turn begins here: on this process, if
//! that is what the turn wants (`fitting`), with its prompt. What the process does by itself between
//! turns is `between`'s.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{Instrument as _, debug, warn};
use uuid::Uuid;

use crate::{
    cli::{applied, process::StopGrace, request::user_message, turn::begins_turn},
    session::{
        admission::Availability,
        answers::Answer,
        command::{CloseReason, Command, HibernateReason},
        process::Process,
        queue::Waiting,
        running::{Running, Unanswered},
        state::{Active, Disposition, Phase},
        task::SessionTask,
    },
    tasks::at,
    turn::event::{ProcessOrigin, Started},
};

/// How long after a result the idle state is waited for: 2 to 15 ms were seen, and
/// versions without that event exist.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// What an idle session does next.
enum Next {
    /// It waits for something to happen.
    Wait(Box<Process>),
    /// It looks once more at what there is.
    Again(Box<Process>),
    /// Something else.
    Phase(Box<Phase>),
}

impl SessionTask {
    pub(in crate::session) async fn settling(&mut self, process: Box<Process>) -> Phase {
        self.rest(process, Some(Instant::now() + SETTLE_LIMIT)).await
    }

    pub(in crate::session) async fn idle(&mut self, process: Box<Process>) -> Phase {
        self.rest(process, None).await
    }

    /// Between turns. With `settle_until`, until the CLI says that it is idle. What is done once
    /// something has happened is boxed: most sessions are here at most times, and should hold no
    /// more than they need to wait.
    async fn rest(&mut self, mut process: Box<Process>, settle_until: Option<Instant>) -> Phase {
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
                return Box::pin(self.moved_between_turns(process)).await;
            }
            self.answer_between_turns(&mut process);
            self.hand_over_at_rest(Some(&process));
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
                    Err(error) => return self.gone(process, &error.to_string()).await,
                },
                exit = process.lease.child.wait() => {
                    return self.gone(process, &exit.to_string()).await;
                }
                stir = self.journal.commits.stir() => self.stirred(stir),
                () = at(process.lease.meter.ask_at()) => self.ask_cost(&mut process.lease),
                command = self.inbox.recv() => {
                    let availability = self.availability_between_turns(settle_until);
                    process = match Box::pin(self.while_idle(command, availability, process)).await {
                        Ok(process) => process,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                () = at(settle_until) => return Phase::Idle(process),
                () = at(retention) => {}
                () = at(due) => {}
                () = at(hibernates) => return self.unused(process).await,
            }
        }
    }

    /// The process is gone.
    fn gone<'a>(
        &'a mut self,
        process: Box<Process>,
        why: &'a str,
    ) -> Pin<Box<dyn Future<Output = Phase> + Send + 'a>> {
        Box::pin(self.lost(process, why))
    }

    /// Nobody has used the session for so long that its process is let go.
    fn unused(
        &mut self,
        process: Box<Process>,
    ) -> Pin<Box<dyn Future<Output = Phase> + Send + '_>> {
        Box::pin(self.hibernate(process, HibernateReason::Idle))
    }

    /// When to look once more between turns, although nothing has happened.
    fn due_between_turns(&self, process: &Process, settled: bool) -> Option<Instant> {
        let rests = self.hibernatable_from(process);
        // Shown by the next round.
        let rests = rests.filter(|_| settled && !self.status.can_hibernate);
        let begins = process.traits.begins_until(Instant::now()).filter(|_| !self.queue.is_empty());
        let others = self.followers.due(&process.traits).into_iter().chain(rests).chain(begins);
        let others = others.min();
        self.answers_due(process, others)
    }

    fn availability_between_turns(&self, settle_until: Option<Instant>) -> Availability {
        match settle_until {
            Some(_) => Availability::Settling,
            None => self.unless_untold(Availability::Idle),
        }
    }

    async fn while_idle(
        &mut self,
        command: Option<Command>,
        availability: Availability,
        mut process: Box<Process>,
    ) -> Result<Box<Process>, Box<Phase>> {
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

    /// Does what waits for an idle process: changes of options, and the next turn.
    async fn what_waits(&mut self, mut process: Box<Process>) -> Next {
        if self.queue.has_updates()
            && let Err(why) = Box::pin(self.update_idle(&mut process)).await
        {
            return Next::Phase(Box::new(self.gone(process, &why).await));
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
            return Next::Phase(Box::new(Box::pin(self.stop_spending(process)).await));
        }
        self.drop_abandoned();
        if process.traits.begins_until(Instant::now()).is_none()
            && self.may_begin_turn()
            && let Some(turn) = self.next_turn()
        {
            let span = turn.log.span().clone();
            return match Box::pin(self.start_turn(process, turn)).instrument(span).await {
                Ok(next) => Next::Phase(Box::new(next)),
                Err(kept) => Next::Again(kept),
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
        mut process: Box<Process>,
        turn: Waiting,
    ) -> Result<Phase, Box<Process>> {
        // It can be joined by its id before it begins.
        self.queue.expect(&turn);
        let came = Instant::now();
        turn.waits_no_more();
        let client_id = process.lease.client_id;
        // Before anything that ends the process: a turn that is refused costs nothing.
        let wanted = self.status.options.updated(&turn.request.options);
        if let Err(cause) = self.check_budget(&wanted) {
            let failure = self.failure(cause).on_client(client_id);
            self.fail(&turn.log, failure);
            self.show();
            return Err(process);
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
            return Err(process);
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
            return Err(process);
        }
        self.ctx.tenant.counters.sessions_reused.add_one();
        debug!(
            session_id = %self.status.session_id,
            %client_id,
            "session_pool_reusing_healthy_session"
        );
        Ok(self.begin(process, turn, ProcessOrigin::Reused, came))
    }

    /// Begins a turn on a connected process.
    pub(in crate::session) fn begin(
        &mut self,
        mut process: Box<Process>,
        waiting: Waiting,
        origin: ProcessOrigin,
        came: Instant,
    ) -> Phase {
        let (uuid, again) = (Uuid::new_v4(), waiting.again);
        let input = Arc::clone(&waiting.request.input);
        process.tell_trace(self.trace_variables(&waiting.log));
        let mut turn = self.running(&mut process, waiting, uuid, origin, came);
        self.allow_spending(&process.lease);
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
        waiting.waits_no_more();
        let Waiting { request, log, counted, following, again, steered, _queued: _ } = waiting;
        process.announced.clear();
        self.followers.turn_begins();
        let (asked, policy) = (process.prompts.number(), request.on_disconnect);
        // What it has printed while it was made to fit the turn has not been read.
        let traits = (&process.traits, came);
        let mut turn = Running::new(log, Some(uuid), policy, traits, asked, counted);
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
