//! Makes an idle process what a turn, or a change of options, wants it to be, as far as a running
//! process can be. Whoever asks the session meanwhile is answered (`busy`).

use std::{collections::BTreeMap, iter};

use tokio::time::Instant;

use crate::{
    cli::{
        connection::{CallError, Meanwhile},
        frame::Frame,
        process::StopGrace,
        request::ControlRequest,
        turn::begins_turn,
    },
    domain::{
        failure::{Cause, Remedy},
        options::{LiveChange, Options},
    },
    session::{
        command::{MismatchPolicy, UpdateReport},
        process::Process,
        queue::Waiting,
        spending::BUDGET,
        state::Phase,
        task::SessionTask,
    },
    traces::VARIABLE,
    turn::log::TurnLog,
};

/// Why a process is not what it is wanted to be.
pub enum Unfit {
    /// It cannot be made that.
    Refused(Cause),
    /// It has ended, or takes nothing in any more: another can be made that.
    Gone(String),
    /// Nobody wants that any more.
    Unwanted,
}

impl SessionTask {
    /// What becomes of a turn whose process is not what the turn wants.
    pub(super) async fn does_not_fit(
        &mut self,
        process: Box<Process>,
        turn: Waiting,
        unfit: Unfit,
    ) -> Result<Phase, Box<Process>> {
        let cause = match unfit {
            Unfit::Unwanted => {
                self.drop_turn(&turn.log);
                return Err(process);
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
        Err(process)
    }

    /// Another process for the same session.
    pub(super) async fn replace(&mut self, process: Box<Process>, turn: Waiting) -> Phase {
        self.part_with(process, StopGrace::GENTLE).await;
        Phase::Connecting(Box::new(turn))
    }

    /// What a process is told of a turn's trace. What a caller has set is the caller's.
    pub(super) fn trace_variables(&self, turn: &TurnLog) -> BTreeMap<String, String> {
        let own = self.status.options.env.0.contains_key(VARIABLE);
        match self.ctx.settings.tells_trace && !own {
            true => turn.trace().turn.variables(),
            false => BTreeMap::new(),
        }
    }

    /// Makes the process what the turn wants, as far as a running process can be.
    pub(super) async fn fit(&mut self, process: &mut Process, turn: &Waiting) -> Result<(), Unfit> {
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
    pub(super) async fn update_idle(&mut self, process: &mut Process) -> Result<(), String> {
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
}
