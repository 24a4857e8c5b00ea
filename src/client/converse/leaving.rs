//! The end of a conversation: what is left undone is told, and a session of its own is closed.

use std::time::Duration;

use tokio::time::timeout;

use super::talk::{Conversation, Ends};
use crate::{
    client::{
        exit::{Exit, Failure, Outcome},
        output::remark,
        values::one_line,
    },
    proto::CloseSessionRequest,
};

/// How long the service may take to close a session.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

impl Conversation {
    /// Says what is left.
    pub fn leave(&mut self) {
        // A terminal that has gone needs no end of its line.
        self.shown.leave_turn().ok();
        // The service has it, and keeps it for when its turn comes.
        let queued = self.is_reachable().then(|| self.outbox.under_way().map(str::to_owned));
        let queued = queued.flatten().filter(|_| self.ends == Ends::Stays);
        for outgoing in self.outbox.drain() {
            let what = match &queued {
                Some(turn_id) if *turn_id == outgoing.turn_id => "waits in the session's queue",
                _ => "not sent",
            };
            remark(&format!("{what}: {}\n", outgoing.in_short()));
        }
        if self.ends == Ends::Stays {
            self.shown.prompts.leave();
        }
    }

    /// Closes a session of its own, if there is one.
    pub async fn close(&mut self) -> Outcome {
        let forget = match self.ends {
            Ends::Stays => return Ok(Exit::Fine),
            Ends::IsClosed => false,
            Ends::IsForgotten => true,
        };
        if !self.was_asked {
            return Ok(Exit::Fine);
        }
        let id = one_line(&self.session_id);
        let request = CloseSessionRequest { session_id: self.session_id.clone(), forget };
        match timeout(CLOSE_LIMIT, self.service.close_session(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {}
            Ok(Err(status)) => return Err(status.into()),
            Err(_) => return Err(Failure::TimedOut(CLOSE_LIMIT)),
        }
        remark(&match forget {
            false => format!("closed; to come back: session-pool attach {id}\n"),
            true => format!("closed and forgotten: {id}\n"),
        });
        Ok(Exit::Fine)
    }
}
