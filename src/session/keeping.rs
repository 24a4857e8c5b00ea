//! What a session does beside the end of a turn so that nothing is lost that it was told: it takes
//! over what the store has of it, keeps much that a turn says before that ends, and what a process
//! says last, follows its CLI to another conversation, and lets no turn begin that might be lost.
//! How a commit begins, and who is told what became of it, is said where turns end.

use std::{sync::Arc, time::Duration};

use tracing::{debug, warn};

use super::{
    admission::Availability,
    command::{CloseReport, InterruptOutcome, InterruptReport},
    commits::Settled,
    process::Process,
    said::Kept,
    state::DetachReason,
    task::SessionTask,
    undone::Undone,
};
use crate::{
    cli::{answer::refusal_of, background::BackgroundWork, process::StopGrace, traits::CliTraits},
    domain::{
        failure::Cause,
        ids::{CliSessionId, ClientId, TurnId},
    },
    supply::Conversation,
};

impl SessionTask {
    /// Takes over what the store knows of the session, once.
    pub(super) async fn recall(&mut self) -> Result<(), Undone> {
        let Some(asked) = self.journal.ask() else { return Ok(()) };
        let record = self.while_wanted(asked).await??;
        self.journal.recall(record.as_ref().map(|record| record.epoch));
        let Some(record) = record else { return Ok(()) };
        debug!(cli_session_id = %record.cli_session_id, "session_recalled");
        self.ownership.recall(record.cli_session_id);
        self.recall_cost(&record);
        if record.in_pool {
            self.detach_reason = DetachReason::Hibernated;
        }
        self.status.recall(record);
        self.show();
        Ok(())
    }

    /// The conversation from here on, which the service itself has chosen.
    pub(super) fn converse(&mut self, conversation: Conversation) {
        self.ownership.converse(conversation);
        self.status.converse_in(conversation.id());
    }

    /// What was said in a conversation, as far as the store knows.
    pub(super) async fn said(&mut self, id: CliSessionId) -> Result<Kept, Undone> {
        let said = self.nothing_said(id);
        self.while_wanted(said.ask()).await??;
        Ok(said)
    }

    /// The same of one that begins.
    pub(super) fn nothing_said(&self, id: CliSessionId) -> Kept {
        let store = Arc::clone(&self.ctx.store);
        Kept::new(store, self.key.clone(), id, !self.ephemeral, &self.accounts.memory)
    }

    /// Ends a process; what it says last is on its way to the store then. A turn that it
    /// began by itself just then is cut; what that cost counts, and what was spent in its
    /// background.
    pub(super) async fn part_with(&mut self, process: Box<Process>, grace: StopGrace) {
        let Process { mut lease, answers, prompts, steers, traits, work_stops, .. } = *process;
        self.note_ended_work(&traits, lease.client_id);
        // Whoever wants it stopped from here on has nothing to wait for.
        self.status.set_work(BackgroundWork::default());
        // Before they are answered who wait for that: they may look.
        self.show();
        self.refuse_answers(answers);
        self.end_work_stops(work_stops, &traits.background);
        self.take_back_steers(steers);
        let cause = self.leaving.map_or(Cause::TurnInterrupted, |reason| reason.cause());
        let failure = self.failure(cause).on_client(lease.client_id);
        self.followers.fail(|| failure.clone());
        for hook in prompts.guards() {
            // Where its input ends, 2.1.197 lets run what a hook has not refused yet.
            let why = "The process of the session ends: nobody can answer.";
            lease.connection.send(refusal_of(hook, why)).ok();
        }
        // Nobody can answer what it asks any more.
        lease.connection.refuse_requests();
        self.show_prompts(&[]);
        if grace == StopGrace::GENTLE {
            self.ask_last(&mut lease).await;
        }
        let mut meter = std::mem::take(&mut lease.meter);
        let frames = self.while_busy(lease.end(grace)).await;
        self.hear_last(&mut meter, frames);
        // It works nowhere any more.
        self.journal.commits.take_expelled();
        self.keep_on();
    }

    /// What works behind the turns of a process ends with it, which is not to go unseen.
    fn note_ended_work(&self, traits: &CliTraits, client_id: ClientId) {
        let BackgroundWork { tasks, timers } = traits.background.shown();
        if tasks.is_empty() && timers.is_empty() {
            return;
        }
        self.ctx.tenant.counters.background_work_ended.add_one();
        warn!(
            session_id = %self.status.session_id,
            %client_id,
            tasks = tasks.len(),
            timers = timers.len(),
            "background_work_ended"
        );
    }

    /// Claims the session for this service, unless that was done, before a process serves it.
    pub(super) fn claim(&mut self) {
        let settled = self.journal.commits.are_settled();
        if settled && self.journal.is_unclaimed() && self.journal.commits.claim() {
            self.journal.begin_claim();
        }
    }

    /// Keeps what a running turn says, if that has become much.
    pub(super) fn keep_much(&mut self) {
        if self.journal.holds_much() && self.journal.commits.may_begin() {
            self.keep_on();
        }
    }

    /// It is known whether the session follows its CLI to another conversation.
    pub(super) fn settle_move(&mut self, settled: Settled) {
        let Settled { to, taken, is_trial } = settled;
        match self.ownership.settle_move(to, taken) {
            Ok(Some(conversation)) => {
                self.status.converse_in(conversation);
                self.journal.remember();
                self.show();
                self.commit(is_trial);
            }
            Ok(None) => self.begin_commit(is_trial),
            Err(cause) => {
                let outcome = self.journal.fail(cause, is_trial);
                self.tell(outcome);
            }
        }
    }

    /// Whether the next turn may begin: what was before is kept, and a store that fails has
    /// been tried, so that no answer is paid that could not be told. If that is not known,
    /// it is found out.
    pub(super) fn may_begin_turn(&mut self) -> bool {
        if self.queue.is_empty() || self.ephemeral {
            return true;
        }
        if !self.journal.commits.are_settled() {
            return false;
        }
        let fails = || self.ctx.store.status().borrow().failing.is_some();
        if self.journal.commits.take_trust()
            || (self.journal.commits.failure().is_none() && !fails())
        {
            return true;
        }
        self.begin_commit(true);
        false
    }

    /// The report of an interrupt that comes when no turn runs: one that has its result is
    /// not stopped, whether its caller has been told or not.
    pub(super) fn nothing_to_stop(&self) -> InterruptReport {
        let had_active_turn = self.has_turn_to_tell();
        let outcome = match had_active_turn {
            true => InterruptOutcome::TurnEnded,
            false => InterruptOutcome::NoActiveTurn,
        };
        let report = InterruptReport::of_turn(outcome, had_active_turn, Duration::ZERO);
        InterruptReport { still_running: self.status.work.tasks.clone(), ..report }
    }

    /// The report of a close that comes when no turn runs.
    pub(super) fn nothing_to_close(&self) -> CloseReport {
        CloseReport { closed: true, had_active_turn: self.has_turn_to_tell(), not_forgotten: None }
    }

    /// Whether there is a turn whose caller has not been told its end.
    fn has_turn_to_tell(&self) -> bool {
        self.journal.commits.untold().next().is_some() || self.queue.current().is_some()
    }

    /// What a session without a running turn does, as far as that matters for commands: a turn
    /// whose end nobody was told is not over.
    pub(super) fn unless_untold(&self, availability: Availability) -> Availability {
        match self.journal.commits.untold().next() {
            Some(_) => Availability::Settling,
            None => availability,
        }
    }

    /// The turn that ended last without its caller having been told.
    pub(super) fn untold_turn(&self) -> Option<TurnId> {
        self.journal.commits.untold().last().map(|log| log.id().clone())
    }
}
