//! The end of a turn. What it left is kept first: its share of the transcript, the session's record,
//! and the result of a turn that has a name. When the store has answered, the end is said once to
//! those who listen, and once to the log, in one line that says all that an operator asks of a turn.
//! Every turn ends here, and every commit of a session begins here: one that has no turn to tell
//! as well, so that one is under way at a time.

use std::time::SystemTime;

use bytes::Bytes;
use tracing::warn;

use super::told::Said;
use crate::{
    domain::{
        acquired::Acquired,
        failure::{Cause, Failure},
        ids::ClientId,
        options::Options,
    },
    session::{
        command::CloseReason,
        commits::{Outcome, Stir},
        journal::Snapshot,
        running::Running,
        state::Active,
        task::SessionTask,
        turn_end::{End, Ending, TurnEnd, Untold},
    },
    store::{Epoch, KeptEnding, KeptTurn, Record},
    telemetry::log_limit::NOT_KEPT,
    turn::{event::Class, log::TurnLog},
};

impl SessionTask {
    /// A turn has ended. What it left is kept before its end is told: a caller who has it
    /// can count on the conversation, and who is told of a failure finds the session after a
    /// restart, too. Ends that have a bound of their own, a watchdog's or an interrupt's, are
    /// told at once instead.
    pub(in crate::session) fn conclude(&mut self, turn: Running, client_id: ClientId, end: End) {
        self.status.note_use();
        self.journal.remember();
        if let (End::Result(over), true) = (&end, turn.named) {
            self.keep_turn(&turn.log, &over.untold);
        }
        self.journal.commits.tell_turn(Untold::new(turn, client_id, end));
        self.keep_on();
        self.show();
    }

    /// The turn's name and result are to be kept with what was said in it.
    fn keep_turn(&mut self, log: &TurnLog, last: &[(Class, Bytes)]) {
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
            | Class::RateLimited
            | Class::EgressRefused
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

    /// Begins to keep what is not kept yet; behind the commit that is under way, if there is
    /// one.
    pub(in crate::session) fn keep_on(&mut self) {
        self.begin_commit(false);
    }

    /// Where the CLI works in another conversation by now, that is settled first.
    pub(in crate::session) fn begin_commit(&mut self, is_trial: bool) {
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

    pub(in crate::session) fn commit(&mut self, is_trial: bool) {
        let snapshot = self
            .journal
            .has_unkept()
            .then(|| Snapshot { record: self.record(), held: self.ownership.held() });
        if let Some(outcome) = self.journal.begin(snapshot, is_trial) {
            self.tell(outcome);
        }
    }

    /// The session as it is kept.
    pub(in crate::session) fn record(&self) -> Record {
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
            epoch: Epoch::NONE,
        }
    }

    /// Goes on with what has become of commits.
    pub(in crate::session) fn stirred(&mut self, stir: Stir) {
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
            Stir::Lost => self.lose_tenure(),
        }
        if self.journal.commits.wants_another() {
            self.keep_on();
        }
        if self.journal.commits.are_settled() {
            self.journal.commits.answer_those_who_wait();
        }
    }

    fn lose_tenure(&mut self) {
        let lost = self.journal.lose();
        self.leave(CloseReason::Moved);
        self.tell(lost);
    }

    /// Before the end of a process is judged: a service that was stopped may have had it ended in
    /// its absence, and hears of that before its timers say that the session is another's by now.
    pub(super) fn notice_lost_tenure(&mut self) {
        if self.journal.commits.are_outlived() {
            self.lose_tenure();
        }
    }

    /// Tells those who waited for a commit what became of it.
    pub(in crate::session) fn tell(&mut self, outcome: Outcome) {
        let Outcome { result, turns, updates, kept, is_trial } = outcome;
        if let Some(kept) = kept {
            self.ownership.release_kept(&kept);
            self.status.set_stored(self.journal.is_in_pool());
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

    /// Tells the end of a turn, by what became of what it left.
    fn tell_end(&mut self, untold: Untold, kept: &Result<(), Cause>) {
        let span = untold.log().span().clone();
        let _in_turn = span.entered();
        let Untold { mut turn, client_id, end, mut commit } = untold;
        if let (Some(commit), Err(cause)) = (&mut commit, kept) {
            commit.fail(cause.reason());
        }
        drop(commit);
        match (end, kept) {
            (End::Result(mut over), Ok(())) => {
                turn.write(&mut over.untold);
                self.end_as_told(turn, client_id, &over);
            }
            // Its caller is not told the result, and may ask again.
            (End::Result(_), Err(cause)) => self.fail_turn(&mut turn, client_id, cause.clone()),
            (End::Failed(cause), kept) => {
                if let Err(error) = kept
                    && NOT_KEPT.admits()
                {
                    warn!(session_id = %self.status.session_id, %error, "session_not_kept");
                }
                self.fail_turn(&mut turn, client_id, cause);
            }
        }
    }

    fn end_as_told(&mut self, mut turn: Running, client_id: ClientId, over: &TurnEnd) {
        let counters = &self.ctx.tenant.counters;
        if over.interrupted {
            counters.interrupted.add_one();
        }
        if over.settled {
            let cause = if over.interrupted {
                Cause::TurnInterrupted
            } else {
                Cause::Protocol { detail: "it became idle without a result".into() }
            };
            return self.fail_turn(&mut turn, client_id, cause);
        }
        let TurnEnd { interrupted, is_error, .. } = *over;
        let ending = Ending { interrupted, is_error, spent: turn.spent };
        if self.end_turn(&turn.log, Ok(ending)) {
            self.ctx.tenant.counters.turns_completed.add_one();
        }
        self.keep(turn.log.clone());
    }

    /// The end of a turn was told.
    pub(in crate::session) fn keep(&mut self, log: TurnLog) {
        self.status.note_told(log.id());
        self.queue.end(log);
    }

    /// Ends a turn, unless it has ended before; returns whether this was its end.
    pub(super) fn end_turn(&mut self, log: &TurnLog, end: Result<Ending, Failure>) -> bool {
        let said = Said::of(&end);
        let first = log.end(end.map(drop));
        self.open_turns.remove(log);
        if first {
            self.log_end(log, &said);
        }
        first
    }

    /// Ends the turn that runs, which failed. What has become of messages for it is told first.
    pub(super) fn fail_active(&mut self, active: &mut Active, cause: Cause) {
        active.turn.begin_for_good();
        self.tell_steered(active);
        Self::tell_notices(active);
        self.fail_turn(&mut active.turn, active.process.lease.client_id, cause);
    }

    /// Ends the running turn, which failed.
    pub(super) fn fail_turn(&mut self, turn: &mut Running, client_id: ClientId, cause: Cause) {
        turn.begin_for_good();
        turn.release();
        let cause = cause.in_turn(turn.reader.has_used_tools());
        let failure = self.failure(cause).on_client(client_id);
        self.fail(&turn.log, failure);
    }

    /// Ends a turn that failed, and takes note of it.
    pub(in crate::session) fn fail(&mut self, log: &TurnLog, failure: Failure) {
        let failure = failure.concerning(Some(&self.status.session_id), Some(log.id()));
        let text = failure.to_string();
        if self.end_turn(log, Err(failure)) {
            self.ctx.tenant.counters.turns_failed.add_one();
            self.status.note_failure(text);
        }
        self.keep(log.clone());
    }

    /// Fails every turn that waits.
    pub(in crate::session) fn fail_queue(&mut self, cause: &Cause) {
        while let Some(waiting) = self.queue.pop() {
            let failure = self.failure(cause.clone());
            self.fail(&waiting.log, failure);
        }
    }

    /// Drops the turns from the queue whose callers have left.
    pub(in crate::session) fn drop_abandoned(&mut self) {
        let abandoned = self.queue.drop_abandoned();
        for turn in &abandoned {
            // Nobody listens; the end is for those who might still join by its id.
            self.end_turn(&turn.log, Err(self.failure(Cause::TurnInterrupted)));
        }
        if !abandoned.is_empty() {
            self.show();
        }
    }
}
