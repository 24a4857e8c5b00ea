//! What a prompt chooses that is a command of the CLI: another model, another effort. The
//! process is asked before its turn and behind it, and the turn is told to be over once its
//! choice is known: what holds then is kept with the turn, and every later process has it.

use std::time::Duration;

use tokio::time::Instant;

use super::{phase::Active, task::SessionTask};
use crate::cli::{
    applied::{Choice, chosen, question},
    connection::Meanwhile,
    frame::Frame,
};

/// How long an answer may take: milliseconds were seen.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

impl SessionTask {
    /// Takes note of what the turn that has just ended has chosen. What the process prints
    /// meanwhile is added to `rest`.
    pub(super) async fn hear_choice(&mut self, active: &mut Active, rest: &mut Vec<Frame>) {
        let Some(before) = active.turn.applied_before.take().and_then(|mut answer| {
            // It came before the process read the prompt.
            answer.try_recv().ok()?.ok()
        }) else {
            return;
        };
        let deadline = Instant::now() + ANSWER_LIMIT;
        let connection = &mut active.process.lease.connection;
        let asked = connection.call(question(), deadline, Meanwhile::Keep(rest));
        let Ok(Ok(Ok(behind))) = self.while_wanted(asked).await else { return };
        let Some(choice) = chosen(&before, &behind) else { return };
        self.status.acquire(|acquired, options| match &choice {
            Choice::Model(model) => acquired.hear_model(model, options),
            Choice::Effort(effort) => acquired.choose_effort(effort, options),
        });
        self.journal.remember();
    }
}
