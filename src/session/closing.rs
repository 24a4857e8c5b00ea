//! Phase: the session ends. Nothing of it is left afterwards, except what the store
//! keeps of its conversation.

use tracing::debug;

use super::{
    CloseReport, Refusal,
    command::{CloseReason, Command},
    connecting::closing_cause,
    detached::no_active_turn,
    task::{Farewell, SessionTask},
};
use crate::{cli::process::StopGrace, failure::Cause, supply::Lease};

impl SessionTask {
    pub(super) async fn closing(&mut self, lease: Option<Lease>, reason: CloseReason) -> Farewell {
        debug!(session_id = %self.status.session_id, ?reason, "session_closing");
        self.fail_queue(&closing_cause(reason));
        for update in std::mem::take(&mut self.updates) {
            update.reply.send(Err(Refusal::Closed)).ok();
        }
        // From here on commands are refused; who is in the mailbox already is told below.
        self.inbox.close();
        if let Some(lease) = lease {
            self.part_with(lease, StopGrace::GENTLE).await;
        }
        if self.ephemeral {
            self.keep_count().await;
        }
        // Nobody can ask for a session without a name again, however it ended.
        let mut not_forgotten = None;
        if reason.forgets() || self.ephemeral {
            not_forgotten = self.forget().await.err();
        } else if !reason.keeps_place() {
            self.leave_pool().await;
        }
        while let Some(command) = self.inbox.recv().await {
            self.refuse(command, reason);
        }
        for (_, report) in &mut self.farewell.closes {
            report.not_forgotten.clone_from(&not_forgotten);
        }
        self.farewell.stays = (reason == CloseReason::Dozing).then_some(self.status.last_used_at);
        std::mem::take(&mut self.farewell)
    }

    fn refuse(&mut self, command: Command, ending: CloseReason) {
        match command {
            Command::Run { reply, .. } => {
                reply.send(Err(Refusal::Closed)).ok();
            }
            Command::Attach { reply, .. } => {
                reply.send(Err(self.failure(Cause::SessionNotFound).into())).ok();
            }
            Command::Respond { reply, .. } => {
                reply.send(Err(self.failure(Cause::SessionNotFound).into())).ok();
            }
            Command::Update { reply, .. } => {
                reply.send(Err(Refusal::Closed)).ok();
            }
            // Its process is gone.
            Command::LetGo { reply, .. } => {
                reply.send(true).ok();
            }
            // The session is going, which is what they wanted.
            // It only falls asleep: who wants it gone has to ask again.
            Command::Interrupt { keep_session: false, reply } if ending == CloseReason::Dozing => {
                drop(reply);
            }
            Command::Interrupt { reply, .. } => {
                self.farewell.interrupts.push((reply, no_active_turn()));
            }
            // Likewise, and where it goes without forgetting.
            Command::Close { reason, reply }
                if ending == CloseReason::Dozing || (reason.forgets() && !ending.forgets()) =>
            {
                drop(reply);
            }
            Command::Close { reply, .. } => {
                let report =
                    CloseReport { closed: true, had_active_turn: false, not_forgotten: None };
                self.farewell.closes.push((reply, report));
            }
        }
    }
}
