//! Phases: the process does nothing, or has just ended a turn and is about to say that
//! it is idle. Options are changed here, and the next turn begins here.

use std::{iter, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::{
    admission::Availability,
    background::begins_turn,
    command::{CloseReason, Command, HibernateReason, MismatchPolicy, UpdateReport},
    deadline::at,
    phase::{Disposition, Phase},
    queue::Waiting,
    spending::BUDGET,
    task::SessionTask,
};
use crate::{
    cli::{
        cost::Meter,
        frame::{Frame, FrameKind},
        process::StopGrace,
        request::ControlRequest,
    },
    domain::{
        failure::{Cause, Remedy},
        options::{LiveChange, Options},
    },
    supply::Lease,
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
    pub(super) async fn settling(&mut self, lease: Lease) -> Phase {
        self.rest(lease, Some(Instant::now() + SETTLE_LIMIT)).await
    }

    pub(super) async fn idle(&mut self, lease: Lease) -> Phase {
        self.rest(lease, None).await
    }

    /// Between turns. With `settle_until`, until the CLI says that it is idle.
    async fn rest(&mut self, mut lease: Lease, settle_until: Option<Instant>) -> Phase {
        let mut frames = std::mem::take(&mut self.leftover);
        loop {
            if let Some(first) = frames.iter().position(begins_turn) {
                let of_turn = frames.split_off(first);
                self.between_turns(&mut lease.meter, &mut frames);
                return self.background_turn(lease, of_turn);
            }
            if self.between_turns(&mut lease.meter, &mut frames) && settle_until.is_some() {
                return Phase::Idle(lease);
            }
            self.keep_up(&mut lease).await;
            if self.journal.moved().is_some() {
                self.part_with(lease, StopGrace::FIRM).await;
                return Phase::Closing(None, CloseReason::Moved);
            }
            if settle_until.is_none() {
                if let Err(why) = self.update_idle(&mut lease).await {
                    return self.lost(lease, &why).await;
                }
                if !self.leftover.is_empty() {
                    frames.append(&mut self.leftover);
                    continue;
                }
                if self.spends_too_much(&lease) {
                    return self.stop_spending(lease).await;
                }
                self.drop_abandoned();
                if self.may_begin_turn().await
                    && let Some(turn) = self.next_turn()
                {
                    match self.start_turn(lease, turn).await {
                        Ok(next) => return next,
                        Err(kept) => lease = *kept,
                    }
                    continue;
                }
                if self.ephemeral && self.queue.is_empty() {
                    return Phase::Closing(Some(lease), CloseReason::Ephemeral);
                }
                self.show_can_hibernate();
            }
            let retention = self.queue.drop_old();
            let hibernates = self.hibernates_at().filter(|_| settle_until.is_none());
            let rests = self.hibernatable_from().filter(|_| !self.status.can_hibernate);
            let waits = self.journal.holds_too_much();
            tokio::select! {
                read = lease.connection.read(&mut frames), if !waits => match read {
                    Ok(()) => {
                        let strays = lease.connection.take_strays();
                        self.ctx.tenant.counters.stray_lines.add(strays);
                    }
                    Err(error) => return self.lost(lease, &error.to_string()).await,
                },
                exit = lease.child.wait() => return self.lost(lease, &exit.to_string()).await,
                stir = self.journal.commits.stir() => self.stirred(stir).await,
                () = at(lease.meter.ask_at()) => lease.meter.ask(&mut lease.connection),
                command = self.inbox.recv() => {
                    let availability = match settle_until {
                        Some(_) => Availability::Settling,
                        None => self.unless_untold(Availability::Idle),
                    };
                    lease = match self.while_idle(command, availability, lease).await {
                        Ok(lease) => lease,
                        Err(next) => return *next,
                    };
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                () = at(settle_until) => return Phase::Idle(lease),
                () = at(retention) => {}
                // Shown by the next round.
                () = at(rests), if settle_until.is_none() => {}
                () = at(hibernates) => return self.hibernate(lease, HibernateReason::Idle).await,
            }
        }
    }

    /// Keeps what is much, and ends a process that works where it must not: the next turn
    /// gets another.
    async fn keep_up(&mut self, lease: &mut Lease) {
        if self.journal.take_due() {
            self.keep_on().await;
        }
        self.keep_much().await;
        if self.journal.commits.take_expelled() {
            lease.child.kill();
        }
    }

    /// Frames that belong to no turn. Returns whether the CLI said that it is idle.
    fn between_turns(&mut self, meter: &mut Meter, frames: &mut Vec<Frame>) -> bool {
        let mut idle = false;
        self.hear_cost(meter);
        for frame in frames.drain(..) {
            self.traits.note(&frame.kind);
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
        idle
    }

    async fn while_idle(
        &mut self,
        command: Option<Command>,
        availability: Availability,
        lease: Lease,
    ) -> Result<Lease, Box<Phase>> {
        let Some(command) = command else {
            return Err(Box::new(Phase::Closing(Some(lease), CloseReason::Shutdown)));
        };
        match self.take(command, availability) {
            // What is of a turn comes to nothing where none runs.
            Disposition::Done | Disposition::Stop(_) | Disposition::Respond(..) => Ok(lease),
            Disposition::Hibernate(why, reply) => {
                let next = self.hibernate(lease, why).await;
                reply.send(true).ok();
                Err(Box::new(next))
            }
            Disposition::Leave(reason) => Err(Box::new(Phase::Closing(Some(lease), reason))),
        }
    }

    /// Begins a turn, on this process or on another; gives the process back when the
    /// turn failed and the process stays.
    async fn start_turn(&mut self, lease: Lease, turn: Waiting) -> Result<Phase, Box<Lease>> {
        let came = Instant::now();
        let mut lease = lease;
        // Before anything that ends the process: a turn that is refused costs nothing.
        let wanted = self.status.options.updated(&turn.request.options);
        if let Err(cause) = self.check_budget(&wanted) {
            let failure = self.failure(cause).on_client(lease.client_id);
            self.fail(&turn.log, failure);
            self.show();
            return Err(Box::new(lease));
        }
        if self.status.age() >= self.ctx.settings.session_ttl {
            self.expire(Some(lease.client_id));
            return Ok(self.replace(lease, turn).await);
        }
        let outdated = self.is_outdated(&lease) || !self.given.hold();
        if turn.request.new_conversation || outdated {
            return Ok(self.replace(lease, turn).await);
        }
        if let Err(cause) = self.ctx.supply.recheck(&self.with_folders()).await {
            let failure = self.failure(cause).on_client(lease.client_id);
            self.fail(&turn.log, failure);
            self.part_with(lease, StopGrace::FIRM).await;
            return Ok(self.after_loss());
        }
        if let Err(unfit) = self.fit(&mut lease, &turn).await {
            let cause = match unfit {
                Unfit::Refused(cause) => cause,
                Unfit::Gone(why) => {
                    // It has not begun, and begins on the next.
                    self.queue.push_front(turn);
                    return Ok(self.lost(lease, &why).await);
                }
            };
            let restart = turn.request.on_mismatch == MismatchPolicy::Restart;
            if restart && matches!(cause, Cause::OptionsMismatch { .. }) {
                return Ok(self.replace(lease, turn).await);
            }
            let failure = self.failure(cause).on_client(lease.client_id);
            self.fail(&turn.log, failure);
            self.show();
            return Err(Box::new(lease));
        }
        self.ctx.tenant.counters.sessions_reused.add_one();
        debug!(
            session_id = %self.status.session_id,
            client_id = %lease.client_id,
            "session_pool_reusing_healthy_session"
        );
        Ok(self.begin(lease, turn, ProcessOrigin::Reused, came))
    }

    /// Another process for the same session.
    async fn replace(&mut self, lease: Lease, turn: Waiting) -> Phase {
        self.part_with(lease, StopGrace::GENTLE).await;
        Phase::Connecting(turn)
    }

    /// Makes the process what the turn wants, as far as a running process can be.
    async fn fit(&mut self, lease: &mut Lease, turn: &Waiting) -> Result<(), Unfit> {
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
        self.change(lease, &difference.live, &request.options).await
    }

    async fn change(
        &mut self,
        lease: &mut Lease,
        changes: &[LiveChange],
        wanted: &Options,
    ) -> Result<(), Unfit> {
        // Newer versions try a model by calling the API with it. Nothing else is heard
        // meanwhile, so this has the bound of an interrupt.
        let deadline = Instant::now() + self.ctx.settings.interrupt_timeout;
        for change in changes {
            let answer = self.ask(lease, change, deadline).await?;
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
        lease: &mut Lease,
        change: &LiveChange,
        deadline: Instant,
    ) -> Result<String, Unfit> {
        let refused = |remedy: Remedy, detail: String| {
            let options = vec![change.option().to_owned()];
            Unfit::Refused(Cause::OptionsMismatch { options, remedy, detail: Some(detail) })
        };
        let request = ControlRequest::change(change);
        let asked = lease.connection.request(request);
        let mut answer = asked.map_err(|blocked| Unfit::Gone(blocked.to_string()))?;
        let mut frames = Vec::new();
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => return match answered {
                    Ok(answered) => {
                        answered.map_err(|refusal| refused(Remedy::OtherValue, refusal))
                    }
                    Err(_) => Err(Unfit::Gone("the CLI closed its output".to_owned())),
                },
                read = timeout_at(deadline, lease.connection.read(&mut frames)) => match read {
                    Ok(Ok(())) => self.put_aside(&mut lease.meter, &mut frames),
                    Ok(Err(error)) => return Err(Unfit::Gone(error.to_string())),
                    Err(_) => {
                        lease.child.kill();
                        return Err(refused(Remedy::Retry, "the CLI did not answer".to_owned()));
                    }
                },
            }
        }
    }

    /// Frames that come while options change: a turn that the CLI begins by itself is
    /// kept for later, echoes of the change are of no turn.
    fn put_aside(&mut self, meter: &mut Meter, frames: &mut Vec<Frame>) {
        if self.leftover.is_empty() && !frames.iter().any(begins_turn) {
            self.between_turns(meter, frames);
        } else {
            self.hear_states(frames);
            self.leftover.append(frames);
        }
    }

    /// Changes options as was asked. Fails when the process is gone: what is not changed
    /// then can be changed without it.
    async fn update_idle(&mut self, lease: &mut Lease) -> Result<(), String> {
        let mut updates = self.queue.take_updates().into_iter();
        while let Some(update) = updates.next() {
            let mut difference = self.difference(&update.options);
            // A process keeps the budget that it was born with. The next turn gets another.
            let renews = difference.fixed == [BUDGET];
            if renews {
                difference.fixed.clear();
            }
            let result = if difference.fixed.is_empty() {
                self.change(lease, &difference.live, &update.options).await
            } else {
                Err(Unfit::Refused(Cause::mismatch(&difference.fixed, Remedy::Query)))
            };
            lease.outdated |= renews && result.is_ok();
            match result {
                Ok(()) => {
                    let mut changed: Vec<_> =
                        difference.live.iter().map(LiveChange::option).collect();
                    changed.extend(renews.then_some(BUDGET));
                    self.journal.commits.tell_update(update.reply, UpdateReport { changed });
                    self.keep_on().await;
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
    async fn lost(&mut self, lease: Lease, why: &str) -> Phase {
        warn!(
            session_id = %self.status.session_id,
            client_id = %lease.client_id,
            error = why,
            "cli_exited_between_turns"
        );
        if let Some(overrun) = lease.child.overrun() {
            self.warn_of(overrun, lease.client_id);
        }
        self.ctx.tenant.counters.cli_exits.add_one();
        self.part_with(lease, StopGrace::FIRM).await;
        self.after_loss()
    }
}
