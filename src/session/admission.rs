//! Whether a command is taken: one pure table of what the session does, what it knows and what
//! it is asked. Every phase asks it, the last one too; how a command that is taken is carried
//! out is the phase's affair. No clock, no lock, nothing to wait for.
//!
//! ```text
//!             Detached  Idle     Between  Connecting  Running    Stopping   Settling  Closing
//!  Run        accept    accept   accept   queue/stop  queue/stop queue      queue     closed
//!  Attach     accept    accept   accept   accept      accept     accept     accept    if untold
//!  Respond    refuse    accept   accept   accept      accept     accept     accept    refuse
//!  Update     queue     queue    queue    queue       queue      queue      queue     closed
//!  Interrupt  already   already  already  stop        stop       stop       already   leave
//!   of a turn already   already  already  stop        stop       stop       already   already
//!   of all     already   accept   accept   stop        stop       stop       accept    leave
//!  StopTask   refuse    accept   accept   accept      accept     accept     accept    refuse
//!  Hibernate  already   accept   decline  decline     decline    decline    decline   already
//!  Close      leave     leave    leave    stop        stop       stop       leave     leave
//!   to go on   leave     leave    leave    stop        later      later      leave     leave
//!   elsewhere
//! ```
//!
//! What works behind the turns is stopped only where something does. A turn that may be a message for the one that runs (`on_busy` STEER) is handed to that, if
//! there is room and none before it waits, and waits in every other column. A turn that is known by its id is joined wherever it is. Without `keep_session` an interrupt
//! that finds no turn ends the session all the same. One that names a turn is about that turn
//! alone: if it waits it is cancelled in every column, and if another one is there instead, or
//! none, there is nothing to do. A close that leaves busy sessions alone is
//! declined by one. A session that is to go on at another service ends when no turn runs and nothing
//! works behind its turns; until then it takes no turn that it does not know.

use super::command::{BusyPolicy, CloseReason, Command, HibernateReason, InterruptTarget};
use crate::domain::failure::Cause;

/// What the session does, as far as it matters for what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Nothing, without a process.
    Detached,
    /// Nothing, with a process.
    Idle,
    /// Nothing, and its process is not at hand: it ends, or is told something.
    Between,
    /// It waits for a process, for a turn that has not begun.
    Connecting,
    /// A turn runs.
    Running,
    /// A turn is being stopped.
    Stopping {
        /// Whether the session ends then.
        leaves: bool,
    },
    /// A turn has just ended. Its caller may not have been told.
    Settling,
    /// The session ends, for this reason.
    Closing(CloseReason),
}

impl Availability {
    /// Whether a turn could begin at once.
    fn is_free(self) -> bool {
        matches!(self, Self::Detached | Self::Idle | Self::Between)
    }
}

/// What the session knows that matters for a command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Turns that wait.
    pub waiting: usize,
    /// Changes of options that wait.
    pub updates: usize,
    /// Turns that may wait, and changes of options.
    pub max_waiting: usize,
    /// Whether the turn that is asked for is here already.
    pub knows_turn: bool,
    /// Whether the turn that is asked for may be a message for the one that runs.
    pub may_steer: bool,
    /// Where the turn is that is to be stopped.
    pub named: Named,
    /// Whether a turn has ended without its caller having been told.
    pub has_untold: bool,
    /// Whether something works behind the turns.
    pub works_behind: bool,
    /// Whether it is to go on at another service.
    pub hands_over: bool,
    /// Whether the process has nothing to do, and nothing that it may yet begin.
    pub may_hibernate: bool,
    /// Whether the process has nothing to do, except perhaps in its background.
    pub may_yield: bool,
}

/// Where a turn is that an interrupt names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Named {
    /// Nowhere: it has ended, or was never there.
    #[default]
    Gone,
    /// It waits for others.
    Waiting,
    /// It runs, or is about to.
    Current,
}

/// What becomes of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is done at once.
    Accept,
    /// It waits, behind the others or before them.
    Queue(Position),
    /// The turn is stopped first: one that is asked for goes next, all else goes with the stop.
    StopFirst,
    /// It is handed to the turn that runs.
    Steer,
    /// The session ends, and the answer comes when it is gone.
    Leave,
    /// The session goes on for now, and ends once nothing runs in it.
    LeaveLater,
    /// There is nothing left to do for it.
    AlreadySo,
    /// The session goes on as if it had not been asked.
    Decline,
    /// It is refused.
    Refuse(Cause),
    /// The session that comes after this one has to be asked.
    Closed,
}

/// Where a command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Behind all others.
    Last,
    /// Before all others.
    Next,
}

/// Decides on one command.
pub fn admit(availability: Availability, facts: &Facts, command: &Command) -> Verdict {
    use Availability::{Closing, Detached, Idle};
    match (command, availability) {
        (Command::Run { request, .. }, _) => admit_turn(availability, facts, request.on_busy),

        // A turn that is not told yet can be joined until it is.
        (Command::Attach { .. }, Closing(_)) if !facts.has_untold => {
            Verdict::Refuse(Cause::SessionNotFound)
        }
        (Command::Attach { .. }, _) => Verdict::Accept,

        (Command::Respond { .. }, Closing(_)) => Verdict::Refuse(Cause::SessionNotFound),
        (Command::Respond { prompt_id, .. }, Detached) => {
            Verdict::Refuse(Cause::PromptNotFound { prompt_id: prompt_id.clone() })
        }
        // A process may ask between turns, too: whether it does is known where it is.
        (Command::Respond { .. }, _) => Verdict::Accept,

        (Command::Update { .. }, Closing(_)) => Verdict::Closed,
        (Command::Update { .. }, _) if facts.updates >= facts.max_waiting => {
            Verdict::Refuse(Cause::QueueFull { limit: facts.max_waiting })
        }
        (Command::Update { .. }, _) => Verdict::Queue(Position::Last),

        (Command::StopTask { .. }, Closing(_)) => Verdict::Refuse(Cause::SessionNotFound),
        (Command::StopTask { task_id, .. }, _) if !facts.works_behind => {
            Verdict::Refuse(Cause::TaskNotFound { task_id: task_id.clone() })
        }
        (Command::StopTask { .. }, _) => Verdict::Accept,

        (Command::Interrupt { target, keep_session, .. }, _) => match target {
            InterruptTarget::Named(_) => admit_named(availability, facts.named),
            InterruptTarget::Running => admit_interrupt(availability, *keep_session, false),
            InterruptTarget::All => {
                admit_interrupt(availability, *keep_session, facts.works_behind)
            }
        },

        (Command::Hibernate { .. }, Closing(_)) => Verdict::AlreadySo,
        (Command::Hibernate { why, .. }, Detached | Idle) => {
            let may = facts.may_hibernate || (*why == HibernateReason::Fairness && facts.may_yield);
            match (may, matches!(availability, Detached)) {
                (true, true) => Verdict::AlreadySo,
                (true, false) => Verdict::Accept,
                (false, _) => Verdict::Decline,
            }
        }
        (Command::Hibernate { .. }, _) => Verdict::Decline,

        (Command::Close { reason, .. }, _) => admit_close(availability, facts, *reason),
    }
}

/// Decides on the end of the session.
fn admit_close(availability: Availability, facts: &Facts, reason: CloseReason) -> Verdict {
    use Availability::{Between, Closing, Connecting, Detached, Idle, Running, Settling, Stopping};
    match availability {
        Closing(CloseReason::HandOver) if reason.keeps_place() => Verdict::Leave,
        // It only falls asleep, or goes without being forgotten, and they want more than that.
        Closing(CloseReason::Unloaded | CloseReason::Moved | CloseReason::HandOver) => {
            Verdict::Closed
        }
        Closing(ending) if reason.forgets() && !ending.forgets() => Verdict::Closed,
        Closing(_) => Verdict::Leave,
        _ if reason.skips_busy()
            && (!availability.is_free() || facts.waiting > 0 || facts.works_behind) =>
        {
            Verdict::Decline
        }
        Running | Stopping { .. } if reason == CloseReason::HandOver => Verdict::LeaveLater,
        Connecting | Running | Stopping { .. } => Verdict::StopFirst,
        Detached | Idle | Between | Settling
            if reason == CloseReason::HandOver && facts.works_behind =>
        {
            Verdict::LeaveLater
        }
        Detached | Idle | Between | Settling => Verdict::Leave,
    }
}

/// Decides on an interrupt of whichever turn runs, and perhaps of what works behind the turns.
fn admit_interrupt(availability: Availability, keep_session: bool, works: bool) -> Verdict {
    use Availability::{Between, Closing, Connecting, Detached, Idle, Running, Settling, Stopping};
    match availability {
        Connecting | Running | Stopping { .. } => Verdict::StopFirst,
        // It only falls asleep, or goes on elsewhere: who wants it gone has to ask again.
        Closing(CloseReason::Unloaded | CloseReason::Moved | CloseReason::HandOver)
            if !keep_session =>
        {
            Verdict::Closed
        }
        // It is going, which is what they wanted.
        Closing(_) => Verdict::Leave,
        Detached | Idle | Between | Settling if !keep_session => Verdict::Leave,
        Idle | Between | Settling if works => Verdict::Accept,
        Detached | Idle | Between | Settling => Verdict::AlreadySo,
    }
}

/// Decides on an interrupt of one turn, which must not touch another.
fn admit_named(availability: Availability, named: Named) -> Verdict {
    use Availability::{Between, Closing, Connecting, Detached, Idle, Running, Settling, Stopping};
    match (named, availability) {
        (Named::Waiting, _) => Verdict::Accept,
        (Named::Current, Connecting | Running | Stopping { .. }) => Verdict::StopFirst,
        // It has ended and is about to be told, or ends with the session.
        (Named::Current, Detached | Idle | Between | Settling | Closing(_)) | (Named::Gone, _) => {
            Verdict::AlreadySo
        }
    }
}

/// Decides on one turn.
fn admit_turn(availability: Availability, facts: &Facts, on_busy: BusyPolicy) -> Verdict {
    let Facts { waiting, max_waiting, .. } = *facts;
    if matches!(availability, Availability::Closing(_)) {
        return Verdict::Closed;
    }
    if facts.knows_turn {
        return Verdict::Accept;
    }
    if facts.hands_over {
        return Verdict::Refuse(Cause::ShuttingDown);
    }
    if availability == (Availability::Stopping { leaves: true }) {
        return Verdict::Closed;
    }
    if availability.is_free() && waiting == 0 {
        return Verdict::Accept;
    }
    match (on_busy, availability) {
        (BusyPolicy::Reject, _) => Verdict::Refuse(Cause::SessionBusy),
        (BusyPolicy::Steer, Availability::Running) if facts.may_steer => Verdict::Steer,
        _ if waiting >= max_waiting => Verdict::Refuse(Cause::QueueFull { limit: max_waiting }),
        (BusyPolicy::Interrupt, Availability::Running | Availability::Connecting) => {
            Verdict::StopFirst
        }
        (BusyPolicy::Interrupt, Availability::Stopping { .. } | Availability::Settling) => {
            Verdict::Queue(Position::Next)
        }
        (BusyPolicy::Interrupt | BusyPolicy::Queue | BusyPolicy::Steer, _) => {
            Verdict::Queue(Position::Last)
        }
    }
}

#[cfg(test)]
mod tests;
