//! What callers can choose about their turns, beside the session's options.

use crate::{domain::ids::TurnId, turn::log::TurnLog};

/// What happens to a turn while another runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusyPolicy {
    /// It waits its turn.
    #[default]
    Queue,
    /// It is refused.
    Reject,
    /// The other is stopped.
    Interrupt,
    /// It is handed to the other as a message, and is a turn only if that ends first.
    Steer,
}

/// What happens to a turn when its last listener goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DisconnectPolicy {
    /// It is interrupted.
    #[default]
    Interrupt,
    /// It goes on.
    Continue,
}

impl DisconnectPolicy {
    /// Whether nobody wants a turn any more that is asked for so.
    pub fn abandons(self, turn: &TurnLog) -> bool {
        self == Self::Interrupt && turn.listeners() == 0
    }
}

/// What becomes of what a turn leaves behind in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackgroundPolicy {
    /// It goes on.
    #[default]
    Keep,
    /// It goes on, and the turn's caller waits for it.
    Wait,
    /// It is stopped at the turn's result.
    Stop,
}

/// What an interrupt stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterruptTarget {
    /// The turn that runs, and what the CLI stops with it.
    Running,
    /// The turn that runs, and all that works behind the turns.
    All,
    /// This turn alone, wherever it is: it leaves the queue if it waits. The session stays.
    Named(TurnId),
}

/// What happens when options cannot be changed on the running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MismatchPolicy {
    /// The turn fails.
    #[default]
    Fail,
    /// The process is replaced.
    Restart,
}
