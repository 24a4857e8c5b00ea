//! How a session keeps what outlives it: it begins commits when they are due, tells those who
//! waited for one what became of it, and lets no turn begin that might be lost.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tracing::{debug, warn};

use super::{
    admission::Availability,
    command::{CloseReport, InterruptOutcome, InterruptReport},
    commits::{Outcome, Settled, Stir},
    journal::Snapshot,
    process::Process,
    said::Kept,
    state::DetachReason,
    task::SessionTask,
    undone::Undone,
};
use crate::{
    cli::{
        answer::refusal_of, background::BackgroundWork, frame::Frame, mirror, process::StopGrace,
        traits::CliTraits,
    },
    domain::{
        acquired::Acquired,
        failure::Cause,
        ids::{CliSessionId, ClientId, TurnId},
        options::Options,
    },
    store::{KeptEnding, KeptTurn, Record},
    supply::Conversation,
    telemetry::log_limit::NOT_KEPT,
    turn::{event::Class, log::TurnLog},
};

impl SessionTask {
    /// Takes over what the store knows of the session, once.
    pub(super) async fn recall(&mut self) -> Result<(), Undone> {
        let Some(asked) = self.journal.ask() else { return Ok(()) };
        let record = self.while_wanted(asked).await??;
        self.journal.recall(record.is_some());
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

    /// Takes note of what a frame says of the process and of the session, of whatever turn it is.
    pub(super) fn hear_frame(&mut self, process: &mut Process, frame: &Frame) {
        process.traits.note(frame);
        process.steers.note(frame);
        process.prompts.hear(frame);
        process.lease.meter.note(&frame.kind);
        self.hear_state(frame);
        self.hear(frame);
    }

    /// Takes note of what the CLI added to its transcript.
    pub(super) fn hear(&mut self, frame: &Frame) {
        if self.ephemeral || !mirror::is_mirror(frame) {
            return;
        }
        let Some(mirrored) = mirror::read(&frame.raw) else {
            warn!(session_id = %self.status.session_id, "transcript_mirror_not_understood");
            return;
        };
        if !self.ownership.may_add_to(mirrored.conversation) {
            let (session_id, conversation) = (&self.status.session_id, mirrored.conversation);
            warn!(%session_id, %conversation, "lines_of_another_session_left_out");
            return;
        }
        self.journal.hear(mirrored);
    }

    /// The turn's name and result are to be kept with what was said in it.
    pub(super) fn keep_turn(&mut self, log: &TurnLog, last: &[(Class, Bytes)]) {
        let result = last.iter().find_map(|(class, line)| match class {
            Class::Result => Some((KeptEnding::Complete, line)),
            Class::InterruptedResult => Some((KeptEnding::Interrupted, line)),
            Class::UnstructuredResult => Some((KeptEnding::Unstructured, line)),
            Class::System
            | Class::Assistant
            | Class::User
            | Class::StreamEvent
            | Class::Prompt
            | Class::PromptResolved
            | Class::Steered
            | Class::Other => None,
        });
        let (Some((ending, line)), Some(started)) = (result, log.started()) else { return };
        let end_time = SystemTime::now();
        self.journal.keep_turn(KeptTurn {
            turn_id: log.id().clone(),
            client_id: started.client_id,
            cli_session_id: self.status.cli_session_id,
            start_time: started.start_time,
            end_time,
            expire_time: end_time + self.ctx.settings.named_turn_retention,
            ending,
            result: String::from_utf8_lossy(line).into(),
        });
    }

    pub(super) fn record(&self) -> Record {
        let status = &self.status;
        Record {
            cli_session_id: status.cli_session_id,
            options: Options::clone(&status.options),
            acquired: Acquired::clone(&status.acquired),
            create_time: status.create_time,
            last_used_time: SystemTime::now() - status.last_used_at.elapsed(),
            age: status.age(),
            unused_for: status.last_used_at.elapsed(),
            message_count: status.message_count,
            error_count: status.error_count,
            spent: status.spent,
            reported_cost_usd: self.reported_cost().unwrap_or_default(),
            in_pool: self.journal.is_in_pool(),
        }
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
    pub(super) async fn part_with(&mut self, process: Process, grace: StopGrace) {
        let Process { mut lease, answers, prompts, steers, traits, work_stops, .. } = process;
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

    /// Begins to keep what is not kept yet; behind the commit that is under way, if there is
    /// one.
    pub(super) fn keep_on(&mut self) {
        self.begin_commit(false);
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

    /// Where the CLI works in another conversation by now, that is settled first.
    fn begin_commit(&mut self, is_trial: bool) {
        if !self.journal.commits.claim() {
            return;
        }
        match self.ownership.moved_to() {
            Some(to) => {
                let asked = self.ownership.ask_for(to);
                self.journal.commits.begin_move(to, asked, is_trial);
            }
            None => self.commit(is_trial),
        }
    }

    fn commit(&mut self, is_trial: bool) {
        let snapshot = self
            .journal
            .has_unkept()
            .then(|| Snapshot { record: self.record(), held: self.ownership.held() });
        if let Some(outcome) = self.journal.begin(snapshot, is_trial) {
            self.tell(outcome);
        }
    }

    fn settle_move(&mut self, settled: Settled) {
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

    /// Goes on with what has become of commits.
    pub(super) fn stirred(&mut self, stir: Stir) {
        match stir {
            Stir::Settled(settled) => self.settle_move(settled),
            Stir::Answered(answer) => {
                let Some(outcome) = self.journal.answered(answer) else { return };
                self.tell(outcome);
                if let Some(outcome) = self.journal.end_with_failure() {
                    self.tell(outcome);
                }
            }
            Stir::Impatient => return self.journal.commits.answer_those_who_wait(),
            Stir::Again => return self.keep_on(),
        }
        if self.journal.commits.wants_another() {
            self.keep_on();
        }
        if self.journal.commits.are_settled() {
            self.journal.commits.answer_those_who_wait();
        }
    }

    /// Tells those who waited for a commit what became of it.
    fn tell(&mut self, outcome: Outcome) {
        let Outcome { result, turns, updates, kept, is_trial } = outcome;
        if let Some(kept) = kept {
            self.ownership.release_kept(&kept);
        }
        if let Err(error) = &result
            && turns.is_empty()
            && updates.is_empty()
            && NOT_KEPT.admits()
        {
            warn!(session_id = %self.status.session_id, %error, "session_not_kept");
        }
        for turn in turns {
            self.tell_end(turn, &result);
        }
        for (reply, report) in updates {
            let answer = result.clone().map(|()| report);
            reply.send(answer.map_err(|cause| self.failure(cause).into())).ok();
        }
        if let (Err(cause), true) = (&result, is_trial) {
            // Those that wait would each wait as long, and end the same.
            self.fail_queue(cause);
        }
        self.show();
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
