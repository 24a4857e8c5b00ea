//! How a turn begins once more: a prompt that its process does not answer with a single frame: the process died before
//! it took the prompt up, so nothing of the turn has run and nothing of it was paid. Such a
//! prompt runs on another process, once.
//!
//! Event 1 of a turn says which process it runs on. It is therefore told when the process
//! shows that it has the prompt, or when the turn ends; a turn that was told is never sent
//! to another process. What a process prints belongs to the turn unless it can only be of
//! an earlier one: a turn that may have begun is not repeated.

use tracing::warn;

use crate::{
    cli::process::StopGrace,
    session::{
        process::Process,
        queue::{Again, Waiting},
        running::{Running, Unanswered},
        state::{Active, Phase},
        stop::StopFor,
        task::SessionTask,
    },
    tenant::Share,
};

impl Running {
    /// The turn as it was before it began.
    fn withdrawn(self, unanswered: Unanswered) -> Waiting {
        let Unanswered { request, started, feed: _ } = unanswered;
        let again = Again {
            queued_for: started.queued_for,
            began: self.began,
            silent_for: self.began.elapsed(),
        };
        // Whether it is a message's is told when it has begun for good.
        let Self { log, counted, following, steered, .. } = self;
        let (following, again) = (following.map(|(following, _)| following), Some(again));
        let (steered, _queued) = (steered.is_some(), Share::default());
        Waiting { request, log, counted, following, again, steered, _queued }
    }
}

impl SessionTask {
    /// Takes the prompt back from a process that is of no use any more, if it has not begun
    /// with it and somebody still wants the turn.
    pub(in crate::session) fn withdraw(
        active: Active,
    ) -> Result<(Box<Process>, Waiting), Box<Active>> {
        let Active { process, mut turn } = active;
        if turn.is_abandoned() || process.lease.connection.was_cut_short() {
            return Err(Box::new(Active { process, turn }));
        }
        match turn.unanswered.take() {
            Some(unanswered) => Ok((process, turn.withdrawn(*unanswered))),
            None => Err(Box::new(Active { process, turn })),
        }
    }

    /// Sends a prompt to another process that this one did not read.
    pub(super) async fn not_taken(&mut self, process: Box<Process>, turn: Waiting) -> Phase {
        self.send_again(process, turn, "the CLI did not take the prompt", Vec::new()).await
    }

    /// Sends a prompt that was taken back to another process, unless somebody has wanted the turn
    /// stopped.
    pub(super) async fn send_again(
        &mut self,
        process: Box<Process>,
        turn: Waiting,
        why: &str,
        stops: Vec<StopFor>,
    ) -> Phase {
        let (session_id, client_id) = (&self.status.session_id, process.lease.client_id);
        warn!(%session_id, %client_id, error = why, "prompt_sent_again");
        self.queue.expect(&turn);
        for purpose in stops {
            self.give_up_turn(purpose);
        }
        self.part_with(process, StopGrace::FIRM).await;
        Phase::Connecting(Box::new(turn))
    }
}
