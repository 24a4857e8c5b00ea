//! Messages that were handed to the CLI while a turn runs (`on_busy` STEER), and that it has not
//! taken up yet. The CLI folds one into the turn at its next step, or begins a turn with it when
//! that has ended; several that wait then are one turn, or several, as it likes. Values, and what
//! the CLI's frames say of them; what is done about that is `steering`'s.

use uuid::Uuid;

use super::queue::Waiting;
use crate::{
    cli::{frame::Frame, turn::taken_up},
    turn::{listener::Following, log::TurnLog},
};

/// Messages that wait for the CLI at the same time.
pub const MOST: usize = 32;

/// A message that was handed to the CLI.
#[derive(Debug)]
pub struct Steer {
    /// The message's id.
    pub uuid: Uuid,
    /// The turn that it becomes if the running one ends before the CLI takes it up.
    pub waiting: Waiting,
    /// The stream of its caller, who hears the running turn.
    pub stream: Following,
}

impl Steer {
    /// Its caller hears this turn from its next event on, when the one that they hear has ended.
    pub fn hear(&self, turn: &TurnLog) {
        let partials = self.waiting.request.partials;
        self.stream.send(turn.listen(turn.count(partials) + 1, partials));
    }
}

/// The messages that a process was handed.
#[derive(Debug, Default)]
pub struct Steers {
    pending: Vec<Steer>,
    /// Those that the running turn has taken up, which nobody has been told yet.
    taken: Vec<Steer>,
}

impl Steers {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.pending.len() < MOST
    }

    /// One more was handed to the CLI.
    pub fn push(&mut self, steer: Steer) {
        self.pending.push(steer);
    }

    /// Takes note of what a frame of the running turn says of them. 2.1.197 names only the last
    /// of several that it takes up together.
    pub fn note(&mut self, frame: &Frame) {
        if self.pending.is_empty() {
            return;
        }
        let named = taken_up(frame);
        let is_named = |steer: &Steer| named.iter().any(|uuid| *uuid == steer.uuid.to_string());
        if let Some(last) = self.pending.iter().rposition(is_named) {
            self.taken.extend(self.pending.drain(..=last));
        }
    }

    /// Those that were taken up, once.
    pub fn take_taken(&mut self) -> Vec<Steer> {
        std::mem::take(&mut self.taken)
    }

    /// The one with which the CLI begins a turn when the running one has ended.
    pub fn take_next(&mut self) -> Option<Steer> {
        (!self.pending.is_empty()).then(|| self.pending.remove(0))
    }

    /// Those that the CLI has not taken up.
    pub fn pending(&self) -> &[Steer] {
        &self.pending
    }

    /// The same, which are no concern of the process any more.
    pub fn take_pending(&mut self) -> Vec<Steer> {
        std::mem::take(&mut self.pending)
    }
}
