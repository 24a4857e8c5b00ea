//! A stop under way: who waits for it, when the CLI is asked again, when its process is ended,
//! and what becomes of the session then.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::command::{CloseReason, CloseReport, InterruptReport};

/// The wait before the CLI is asked again; it doubles each time.
const FIRST_REPEAT: Duration = Duration::from_millis(50);
const LONGEST_REPEAT: Duration = Duration::from_secs(2);

/// The first of these waits where a message waits for the turn: an interrupt too many would stop
/// the turn that the CLI begins with it.
const REPEAT_BEFORE_MESSAGES: Duration = Duration::from_secs(1);

/// What becomes of the session once its turn has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterInterrupt {
    /// It stays.
    Stay,
    /// It stays, unless its process had to be ended.
    StayUnlessKilled(CloseReason),
    /// It leaves the pool.
    Leave(CloseReason),
}

/// What a turn is stopped for.
#[derive(Debug)]
pub enum StopFor {
    /// The turn that goes next.
    NextTurn,
    /// Who interrupted it.
    Interrupt {
        /// Whether the session stays.
        keep_session: bool,
        /// Whether all that works behind the turns is stopped with the turn.
        all: bool,
        /// Who is told what became of it.
        reply: oneshot::Sender<InterruptReport>,
    },
    /// Who closed the session.
    Close {
        /// Why.
        reason: CloseReason,
        /// Who is told what became of it.
        reply: oneshot::Sender<CloseReport>,
    },
}

impl StopFor {
    /// Whether the session ends with the turn.
    pub fn ends_session(&self) -> bool {
        match self {
            Self::NextTurn => false,
            Self::Interrupt { keep_session, .. } => !keep_session,
            Self::Close { .. } => true,
        }
    }
}

/// A stop under way.
#[derive(Debug)]
pub struct Stop {
    /// Those who asked for it.
    pub waiters: Vec<oneshot::Sender<InterruptReport>>,
    /// Those who asked for the session's end.
    pub closers: Vec<oneshot::Sender<CloseReport>>,
    /// What becomes of the session.
    pub then: AfterInterrupt,
    /// Whether all that works behind the turns is stopped, too.
    pub all: bool,
    /// Whether it is for another caller, because the turn is silent (row s12).
    pub ongoing_timeout: bool,
    /// When it began.
    pub began: Instant,
    /// When the process is ended.
    pub deadline: Instant,
    /// When the CLI is asked, or asked again.
    pub ask_at: Instant,
    repeat: Duration,
    /// Whether the CLI was asked before it began with the turn.
    asked_early: bool,
}

impl Stop {
    /// A stop that begins now and may take `limit` before the process is ended.
    pub fn new(limit: Duration, then: AfterInterrupt) -> Self {
        let now = Instant::now();
        Self {
            waiters: Vec::new(),
            closers: Vec::new(),
            then,
            all: false,
            ongoing_timeout: false,
            began: now,
            deadline: now + limit,
            ask_at: now,
            repeat: FIRST_REPEAT,
            asked_early: false,
        }
    }

    /// A stop of a silent turn, for another caller.
    pub fn of_silent_turn(self) -> Self {
        Self { ongoing_timeout: true, ..self }
    }

    /// Whether the CLI was asked before, and the turn goes on.
    pub fn is_repeated(&self) -> bool {
        self.repeat > FIRST_REPEAT
    }

    /// Whether the CLI was asked more than once: more of that may reach it than it needed.
    pub fn was_asked_again(&self) -> bool {
        self.repeat > FIRST_REPEAT * 2
    }

    /// The CLI is asked now; it is asked again after a wait that doubles. `hears` says whether it
    /// has begun with the turn.
    pub fn note_asked(&mut self, has_messages: bool, hears: bool) {
        self.asked_early = !hears && !has_messages;
        let shortest = if has_messages { REPEAT_BEFORE_MESSAGES } else { FIRST_REPEAT };
        self.ask_at = Instant::now() + self.repeat.max(shortest);
        self.repeat = (self.repeat * 2).min(LONGEST_REPEAT);
    }

    /// The CLI has begun with the turn: what it was asked before that is lost, and it is asked again
    /// at once. A turn that a message waits for may have ended by then, and is left to the timer.
    pub fn turn_begins(&mut self) {
        if std::mem::take(&mut self.asked_early) {
            self.ask_at = Instant::now();
        }
    }

    /// Somebody wants the turn stopped. All who ask while it is under way get its outcome.
    pub fn join(&mut self, purpose: StopFor) {
        match purpose {
            StopFor::NextTurn => {}
            StopFor::Interrupt { keep_session, all, reply } => {
                self.waiters.push(reply);
                if all && !self.all {
                    self.all = true;
                    // What was asked before was about the turn alone.
                    self.ask_at = Instant::now();
                }
                if !keep_session {
                    self.leave(CloseReason::Interrupted);
                }
            }
            StopFor::Close { reason, reply } => {
                self.closers.push(reply);
                self.leave(reason);
            }
        }
    }

    /// The session leaves for this reason once the turn has stopped.
    pub fn leave(&mut self, reason: CloseReason) {
        self.then = AfterInterrupt::Leave(match self.then {
            AfterInterrupt::Leave(before) => before.or(reason),
            AfterInterrupt::Stay | AfterInterrupt::StayUnlessKilled(_) => reason,
        });
    }
}
