//! Answers of callers to what a process asks, which have not been given to it yet.

use std::{collections::VecDeque, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use super::command::Refusal;
use crate::domain::{acquired::Acquired, decision::Decision};

/// An answer that a caller gives.
#[derive(Debug)]
pub struct Answer {
    /// To which prompt.
    pub prompt_id: String,
    /// The answer.
    pub decision: Decision,
    /// Told whether the CLI was given it, or why not.
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

/// What an answer grants.
#[derive(Debug)]
pub struct Grant {
    /// What the session had come to before.
    pub before: Arc<Acquired>,
    /// What it has come to by the answer.
    pub after: Arc<Acquired>,
}

/// An answer whose grant is being kept.
#[derive(Debug)]
pub struct Granting {
    /// The answer.
    pub answer: Answer,
    /// What it grants.
    pub grant: Grant,
    /// Until when that is waited for.
    pub deadline: Instant,
}

/// The answers that a process is still to be given, in their order.
#[derive(Debug, Default)]
pub struct Answers {
    /// The one before all others.
    pub granting: Option<Granting>,
    waiting: VecDeque<Answer>,
}

impl Answers {
    /// How many may wait.
    pub const MOST: usize = 64;

    /// Adds an answer behind all others; gives it back if there are too many.
    pub fn push(&mut self, answer: Answer) -> Result<(), Answer> {
        if self.waiting.len() >= Self::MOST {
            return Err(answer);
        }
        self.waiting.push_back(answer);
        Ok(())
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the answer that is next.
    pub fn pop(&mut self) -> Option<Answer> {
        self.waiting.pop_front()
    }

    /// Until when what an answer grants may be kept; `None` if none grants anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.granting.as_ref().map(|granting| granting.deadline)
    }
}
