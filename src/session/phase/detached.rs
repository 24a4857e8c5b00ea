//! Phase: the session has no process. It was just made, or its process is gone.

use tokio::time::Instant;
use tracing::debug;

use crate::{
    domain::{failure::Cause, options::LiveChange},
    session::{
        admission::Availability,
        command::{CloseReason, UpdateReport},
        state::{DetachReason, Disposition, Phase},
        task::SessionTask,
    },
    tasks::at,
};

impl SessionTask {
    pub(in crate::session) async fn detached(&mut self) -> Phase {
        let mut asked = Instant::now();
        loop {
            if self.journal.moved().is_some() {
                return Phase::Closing(None, CloseReason::Moved);
            }
            self.hand_over_at_rest(None);
            if let Some(reason) = self.leaving {
                return Phase::Closing(None, reason);
            }
            self.update_detached();
            if let Some(next) = self.leave_detached() {
                return next;
            }
            if self.queue.is_empty() {
                self.journal.release();
            }
            let retention = self.queue.drop_old();
            let unloads = self.unloads_at(asked);
            tokio::select! {
                stir = self.journal.commits.stir() => self.stirred(stir),
                command = self.inbox.recv() => {
                    asked = Instant::now();
                    let Some(command) = command else {
                        return Phase::Closing(None, CloseReason::Shutdown);
                    };
                    let availability = self.unless_untold(Availability::Detached);
                    match self.take(command, availability) {
                        Disposition::Leave(reason) => return Phase::Closing(None, reason),
                        Disposition::Respond(prompt_id, _, reply) => {
                            let cause = Cause::PromptNotFound { prompt_id };
                            reply.send(Err(self.failure(cause).into())).ok();
                        }
                        Disposition::Steer(steer) => self.steer_later(*steer),
                        Disposition::StopWork(stop) => self.stop_work_later(stop),
                        Disposition::Done | Disposition::Stop(_) | Disposition::Hibernate(..) => {}
                    }
                }
                () = self.queue.listeners_gone() => self.drop_abandoned(),
                () = at(retention) => {}
                () = at(unloads) => {
                    return Phase::Closing(None, CloseReason::Unloaded);
                }
            }
        }
    }

    /// Where the next turn in the queue leads, if there is one.
    fn leave_detached(&mut self) -> Option<Phase> {
        let asked = !self.queue.is_empty();
        self.drop_abandoned();
        if !self.may_begin_turn() {
            return None;
        }
        let Some(turn) = self.next_turn() else {
            // The only turn that it was made for is not wanted any more.
            let useless = asked && self.ephemeral;
            return useless.then_some(Phase::Closing(None, CloseReason::Ephemeral));
        };
        let lost = self.detach_reason == DetachReason::Lost;
        if lost && !self.ctx.settings.connection_recovery {
            let cause = Cause::ConnectFailed {
                detail: "the session's process is gone and pool.connection_recovery is off".into(),
                exit: None,
                stderr_tail: String::new(),
            };
            let failure = self.failure(cause);
            self.fail(&turn.log, failure);
            self.show();
            return None;
        }
        if lost {
            debug!(session_id = %self.status.session_id, "session_unhealthy_recovering");
        }
        if self.status.age() >= self.ctx.settings.session_ttl {
            self.expire(None);
        }
        Some(Phase::Connecting(Box::new(turn)))
    }

    /// Without a process every option can change: the next process is born with it.
    fn update_detached(&mut self) {
        for update in self.queue.take_updates() {
            let difference = self.difference(&update.options);
            let mut changed: Vec<_> = difference.live.iter().map(LiveChange::option).collect();
            changed.extend(difference.fixed);
            self.asked_anew(&update.options);
            self.journal.remember();
            self.show();
            self.journal.commits.tell_update(update.reply, UpdateReport { changed });
            self.keep_on();
        }
    }
}
