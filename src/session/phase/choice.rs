//! What a turn has chosen whose prompt was a command of the CLI: a model, an effort.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    cli::{
        applied::{Choice, chosen, question},
        connection::Meanwhile,
        frame::Frame,
    },
    session::{state::Active, task::SessionTask},
};

/// How long the answer to what a turn has chosen may take: milliseconds were seen.
const CHOICE_LIMIT: Duration = Duration::from_secs(1);

impl SessionTask {
    /// Takes note of what the turn that has just ended has chosen, whose prompt was a command of
    /// the CLI: another model, another effort. Its process was asked before the prompt and is asked
    /// now, before the turn is told to be over: what holds then is kept with the turn, and every
    /// later process has it. What the process prints meanwhile is added to `rest`.
    pub(super) async fn hear_choice(&mut self, active: &mut Active, rest: &mut Vec<Frame>) {
        let Some(before) = active.turn.applied_before.take().and_then(|mut answer| {
            // It came before the process read the prompt.
            answer.try_recv().ok()?.ok()
        }) else {
            return;
        };
        let deadline = Instant::now() + CHOICE_LIMIT;
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
