//! Phase: the session ends. Nothing of it is left afterwards, except what the store
//! keeps of its conversation.
//!
//! Its process ends first, whatever the store does. Then what is not kept yet is waited for,
//! and turns whose end depends on it are told. Who closes or interrupts the session without
//! wanting it forgotten is answered meanwhile, if that takes long: a Query under its name
//! still waits until it is gone. Who wants it forgotten is answered when it is, or when the
//! store has had [`Settings::commit_timeout`] for all that an end asks of it together.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tracing::{debug, warn};

use crate::{
    cli::process::StopGrace,
    domain::failure::Cause,
    session::{
        admission::Availability,
        command::{CloseReason, Command, Refusal},
        commits::{Commits, Stir},
        context::Settings,
        process::Process,
        replies::{PendingReplies, Remains},
        task::SessionTask,
    },
    tasks::{at, spawn_owned},
};

/// How long the answer to who ends a session waits for the store, so that who has it finds
/// the session gone. It is more than a busy disk takes, and far less than a lock may last.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the store may be late by with its own answer, which says best why it failed.
const LATE: Duration = Duration::from_secs(1);

/// How long who wants a session forgotten waits for the store, for all that its end asks of it.
pub fn longest_forgetting(settings: &Settings) -> Duration {
    settings.commit_timeout + LATE
}

/// What they are told whose session was not forgotten by then.
pub fn forgotten_too_late(settings: &Settings) -> Cause {
    let limit = settings.commit_timeout;
    let detail = format!("the conversation was not forgotten in {limit:?} (store.commit_timeout)");
    Cause::StoreUnavailable { detail }
}

/// An end under way.
struct Ending {
    reason: CloseReason,
    /// When those who wait for it are answered although it goes on, unless they wait for it
    /// to be forgotten; `None` is never.
    answer_by: Option<Instant>,
    /// Whether that time has come.
    answers_at_once: bool,
    /// Until when the store is asked to forget it.
    forget_by: Instant,
    /// When those who wait for that are answered although it goes on; `None` once they are.
    answer_all_by: Option<Instant>,
    /// Whether anybody can ask for anything still.
    asked: bool,
}

/// What happens while a session ends.
enum Event {
    Command(Option<Command>),
    Stir(Stir),
    Impatient,
    TooLate,
}

impl Ending {
    fn new(reason: CloseReason, settings: &Settings) -> Self {
        let now = Instant::now();
        // The service ends when all is kept that can be.
        let waits = reason == CloseReason::Shutdown;
        let answer_by = (!waits).then(|| now + PATIENCE);
        let forget_by = now + settings.commit_timeout;
        let answer_all_by = reason.forgets().then(|| now + longest_forgetting(settings));
        Self { reason, answer_by, answers_at_once: false, forget_by, answer_all_by, asked: true }
    }

    /// Cancel safe.
    async fn next(&self, inbox: &mut mpsc::Receiver<Command>, commits: &mut Commits) -> Event {
        let answer_by = self.answer_by.filter(|_| !self.answers_at_once);
        tokio::select! {
            stir = commits.stir() => Event::Stir(stir),
            command = inbox.recv(), if self.asked => Event::Command(command),
            () = at(answer_by) => Event::Impatient,
            () = at(self.answer_all_by) => Event::TooLate,
        }
    }

    /// Whether those who want it forgotten have been told that it is not.
    fn is_given_up(&self) -> bool {
        self.reason.forgets() && self.answer_all_by.is_none()
    }
}

impl SessionTask {
    pub(in crate::session) async fn closing(
        &mut self,
        process: Option<Box<Process>>,
        reason: CloseReason,
    ) -> PendingReplies {
        debug!(session_id = %self.status.session_id, ?reason, "session_closing");
        self.leaving = Some(reason);
        let cause = self.journal.moved().cloned().unwrap_or_else(|| reason.cause());
        self.fail_queue(&cause.in_turn(false));
        for update in self.queue.take_updates() {
            update.reply.send(Err(Refusal::Closed)).ok();
        }
        if let Some(process) = process {
            // Where another service may go on already every moment is one too many.
            let moved = reason == CloseReason::Moved;
            self.part_with(process, if moved { StopGrace::FIRM } else { StopGrace::GENTLE }).await;
        }
        let mut ending = Ending::new(reason, &self.ctx.settings);
        let not_forgotten = self.leave_nothing(&mut ending).await;
        self.give_back(&mut ending).await;
        // Who is in the mailbox by now is told; all others look for another session.
        self.inbox.close();
        while let Some(command) = self.inbox.recv().await {
            self.take(command, Availability::Closing(reason));
        }
        self.replies.note_not_forgotten(not_forgotten.as_ref());
        self.replies.remains = self.remains(reason, not_forgotten.is_some());
        std::mem::take(&mut self.replies)
    }

    /// What is left of the session in the pool.
    fn remains(&self, reason: CloseReason, not_forgotten: bool) -> Remains {
        let unnoted = match reason {
            CloseReason::Moved => return Remains::Elsewhere,
            _ if self.journal.moved().is_some() => return Remains::Elsewhere,
            CloseReason::Unloaded => return Remains::Stored,
            CloseReason::Shutdown => return Remains::Kept,
            CloseReason::HandOver if self.journal.is_known() => return Remains::Elsewhere,
            CloseReason::HandOver => false,
            _ if self.ephemeral => false,
            _ if reason.forgets() => not_forgotten,
            CloseReason::Requested { .. }
            | CloseReason::Interrupted
            | CloseReason::Ephemeral
            | CloseReason::ConnectFailed
            | CloseReason::Expired
            | CloseReason::Idle
            | CloseReason::Broken
            | CloseReason::Unused
            | CloseReason::Stuck => self.journal.may_differ(),
        };
        if unnoted { Remains::Unnoted } else { Remains::Nothing }
    }

    /// Settles with the store. Returns why the conversation is still there, where it was to
    /// be forgotten.
    async fn leave_nothing(&mut self, ending: &mut Ending) -> Option<Cause> {
        if ending.reason.forgets() {
            self.journal.commits.end_with_a_failure();
        }
        self.until_settled(ending).await;
        if let Some(moved) = self.journal.moved() {
            // What is kept of it is another's to forget.
            return ending.reason.forgets().then(|| moved.clone());
        }
        if self.ephemeral {
            let counted = spawn_owned(self.journal.count_kept());
            if let Err(error) = self.until_done(ending, counted).await {
                warn!(session_id = %self.status.session_id, %error, "counters_not_kept");
            }
        }
        // Nobody can ask for a session without a name again, however it ended.
        if ending.reason.forgets() || self.ephemeral {
            let never_kept = self.ownership.forget().into_iter().collect();
            let forgotten = spawn_owned(self.journal.forget(never_kept, ending.forget_by));
            return self.until_done(ending, forgotten).await.err();
        }
        if !ending.reason.keeps_place() {
            self.journal.leave_pool();
            if self.journal.is_known() {
                self.journal.remember();
                self.keep_on();
                self.until_settled(ending).await;
            }
        }
        None
    }

    /// Others may have the session from here on. Whoever stops waits for that; whoever is told of
    /// another end finds it done by the time the session is begun again.
    async fn give_back(&mut self, ending: &mut Ending) {
        if !self.journal.claim.is_shared() {
            return;
        }
        let Some(given) = self.journal.give_back(false) else { return };
        let given = spawn_owned(async move {
            given.await;
            Ok(())
        });
        if matches!(ending.reason, CloseReason::HandOver | CloseReason::Shutdown) {
            self.until_done(ending, given).await.ok();
        }
    }

    async fn until_settled(&mut self, ending: &mut Ending) {
        while !self.journal.commits.are_settled() {
            let event = ending.next(&mut self.inbox, &mut self.journal.commits).await;
            self.while_closing(event, ending);
        }
    }

    async fn until_done(
        &mut self,
        ending: &mut Ending,
        mut work: JoinHandle<Result<(), Cause>>,
    ) -> Result<(), Cause> {
        loop {
            tokio::select! {
                done = &mut work => {
                    return done.unwrap_or_else(|error| {
                        Err(Cause::Internal { detail: error.to_string() })
                    });
                }
                event = ending.next(&mut self.inbox, &mut self.journal.commits) => {
                    self.while_closing(event, ending);
                }
            }
        }
    }

    fn while_closing(&mut self, event: Event, ending: &mut Ending) {
        match event {
            Event::Command(Some(command)) => {
                self.take(command, Availability::Closing(ending.reason));
            }
            Event::Command(None) => ending.asked = false,
            Event::Stir(stir) => self.stirred(stir),
            Event::Impatient => ending.answers_at_once = true,
            Event::TooLate => ending.answer_all_by = None,
        }
        if ending.is_given_up() {
            let cause = forgotten_too_late(&self.ctx.settings);
            self.replies.note_not_forgotten(Some(&cause));
            self.replies.answer();
        } else if ending.answers_at_once {
            // Who wants it forgotten is answered when it is.
            match ending.reason.forgets() {
                true => self.replies.answer_interrupts(),
                false => self.replies.answer(),
            }
        }
    }
}
