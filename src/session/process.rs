//! A process that serves a session, and all that holds for that process alone: what it has
//! shown of itself, the rules that it was given, what it asks and what it has printed that no
//! phase has read. The phases hand it on as one value. It goes with its process, so that the
//! next one begins with nothing of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{answers::Answers, given_rules::Given, open_prompts::OpenPrompts};
use crate::{
    budget::Account,
    cli::{frame::Frame, traits::CliTraits},
    domain::grants::Grants,
    supply::Lease,
};

/// A process that serves a session.
#[derive(Debug)]
pub struct Process {
    /// The process itself.
    pub lease: Lease,
    /// What it has shown of itself.
    pub traits: CliTraits,
    /// The rules that it was given.
    pub given: Given,
    /// What it asks and still waits for, whatever has become of the turn in which it asked.
    pub prompts: OpenPrompts,
    /// Answers that it is still to be given.
    pub answers: Answers,
    /// Frames that a phase has left for the next.
    pub leftover: Vec<Frame>,
}

impl Process {
    /// A process that serves the session from here on, and was started with these rules. What
    /// it asks counts for `memory`, and waits for an answer for so long.
    pub fn new(
        mut lease: Lease,
        rules: &Grants,
        memory: &Account,
        prompt_timeout: Option<Duration>,
    ) -> Self {
        lease.connection.pass_requests_on();
        Self {
            lease,
            traits: CliTraits::default(),
            given: Given::at_start(rules),
            prompts: OpenPrompts::new(memory, prompt_timeout),
            answers: Answers::default(),
            leftover: Vec::new(),
        }
    }

    /// When an answer that waits, or a prompt that does, has waited long enough.
    pub fn answers_due(&self) -> Option<Instant> {
        let times = [self.answers.deadline(), self.prompts.expires_at()];
        times.into_iter().flatten().min()
    }
}
