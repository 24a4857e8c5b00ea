//! Answers that are due once a session is gone.

use tokio::sync::oneshot;

use super::{
    command::{CloseReport, InterruptReport},
    publisher::StatusPublisher,
};
use crate::domain::failure::Cause;

/// What is left of a session whose task has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Remains {
    /// It is in the pool, and the store has all of it.
    Stored,
    /// Likewise, but another service has it.
    Elsewhere,
    /// The service ends; the next one finds it where it was.
    Kept,
    /// It is in the pool no more.
    #[default]
    Nothing,
    /// Likewise, but the store may not have taken note.
    Unnoted,
}

/// Answers that are due once the session is gone from the pool.
#[must_use]
#[derive(Debug, Default)]
pub struct PendingReplies {
    /// To those who interrupted it.
    pub interrupts: Vec<(oneshot::Sender<InterruptReport>, InterruptReport)>,
    /// To those who closed it.
    pub closes: Vec<(oneshot::Sender<CloseReport>, CloseReport)>,
    /// What is left of the session.
    pub remains: Remains,
    /// Dropped last: those who wait for the session's end look for another one then, and
    /// must not find this one in the pool.
    pub(super) ended: Option<StatusPublisher>,
}

impl PendingReplies {
    /// Gives the answers. Those who do not wait any more do not need them.
    pub fn send(mut self) {
        self.answer();
        drop(self.ended);
    }

    /// Answers those who interrupted it: its turn has stopped, whatever becomes of the rest.
    pub(super) fn answer_interrupts(&mut self) {
        for (reply, report) in self.interrupts.drain(..) {
            reply.send(report).ok();
        }
    }

    /// Tells those who closed it why the conversation is still there, if it is.
    pub(super) fn note_not_forgotten(&mut self, cause: Option<&Cause>) {
        for (_, report) in &mut self.closes {
            report.not_forgotten = cause.cloned();
        }
    }

    /// Gives the answers that are due by now.
    pub(super) fn answer(&mut self) {
        self.answer_interrupts();
        for (reply, report) in self.closes.drain(..) {
            reply.send(report).ok();
        }
    }
}
