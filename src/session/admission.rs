//! Whether a command is taken: one pure table of what the session does, what it knows and what
//! it is asked. Every phase asks it, the last one too; how a command that is taken is carried
//! out is the phase's affair. No clock, no lock, nothing to wait for.
//!
//! ```text
//!             Detached  Idle     Connecting  Running    Stopping   Settling  Closing
//!  Run        accept    accept   queue/stop  queue/stop queue      queue     closed
//!  Attach     accept    accept   accept      accept     accept     accept    if untold
//!  Respond    refuse    refuse   refuse      accept     accept     refuse    refuse
//!  Update     queue     queue    queue       queue      queue      queue     closed
//!  Interrupt  already   already  stop        stop       stop       already   leave
//!  LetGo      already   accept   decline     decline    decline    decline   already
//!  Close      leave     leave    stop        stop       stop       leave     leave
//! ```
//!
//! A turn that is known by its id is joined wherever it is. Without `keep_session` an interrupt
//! that finds no turn ends the session all the same. A close that spares a busy session is
//! declined by one.

use super::command::{BusyPolicy, CloseReason, Command, LetGo};
use crate::failure::Cause;

/// What the session does, as far as it matters for what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Nothing, without a process.
    Detached,
    /// Nothing, with a process.
    Idle,
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
        matches!(self, Self::Detached | Self::Idle)
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
    /// Whether a turn has ended without its caller having been told.
    pub has_untold: bool,
    /// Whether the process has nothing to do, and nothing that it may yet begin.
    pub may_rest: bool,
    /// Whether the process has nothing to do, except perhaps in its background.
    pub may_yield: bool,
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
    /// The session ends, and the answer comes when it is gone.
    Leave,
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
    use Availability::{Closing, Connecting, Detached, Idle, Running, Settling, Stopping};
    match (command, availability) {
        (Command::Run { request, .. }, _) => admit_turn(availability, facts, request.on_busy),

        // A turn that is not told yet can be joined until it is.
        (Command::Attach { .. }, Closing(_)) if !facts.has_untold => {
            Verdict::Refuse(Cause::SessionNotFound)
        }
        (Command::Attach { .. }, _) => Verdict::Accept,

        (Command::Respond { .. }, Running | Stopping { .. }) => Verdict::Accept,
        (Command::Respond { .. }, Closing(_)) => Verdict::Refuse(Cause::SessionNotFound),
        (Command::Respond { prompt_id, .. }, Detached | Idle | Connecting | Settling) => {
            Verdict::Refuse(Cause::PromptNotFound { prompt_id: prompt_id.clone() })
        }

        (Command::Update { .. }, Closing(_)) => Verdict::Closed,
        (Command::Update { .. }, _) if facts.updates >= facts.max_waiting => {
            Verdict::Refuse(Cause::QueueFull { limit: facts.max_waiting })
        }
        (Command::Update { .. }, _) => Verdict::Queue(Position::Last),

        (Command::Interrupt { .. }, Connecting | Running | Stopping { .. }) => Verdict::StopFirst,
        // It only falls asleep: who wants it gone has to ask again.
        (Command::Interrupt { keep_session: false, .. }, Closing(CloseReason::Dozing)) => {
            Verdict::Closed
        }
        // It is going, which is what they wanted.
        (Command::Interrupt { .. }, Closing(_)) => Verdict::Leave,
        (Command::Interrupt { keep_session, .. }, Detached | Idle | Settling) => {
            if *keep_session {
                Verdict::AlreadySo
            } else {
                Verdict::Leave
            }
        }

        (Command::LetGo { .. }, Closing(_)) => Verdict::AlreadySo,
        (Command::LetGo { why, .. }, Detached | Idle) => {
            let may = facts.may_rest || (*why == LetGo::Fairness && facts.may_yield);
            match availability {
                Detached if may => Verdict::AlreadySo,
                _ if may => Verdict::Accept,
                _ => Verdict::Decline,
            }
        }
        (Command::LetGo { .. }, _) => Verdict::Decline,

        // It only falls asleep, or goes without being forgotten, and they want more than that.
        (Command::Close { reason, .. }, Closing(ending))
            if ending == CloseReason::Dozing || (reason.forgets() && !ending.forgets()) =>
        {
            Verdict::Closed
        }
        (Command::Close { .. }, Closing(_)) => Verdict::Leave,
        (Command::Close { reason, .. }, _)
            if reason.skips_busy() && (!availability.is_free() || facts.waiting > 0) =>
        {
            Verdict::Decline
        }
        (Command::Close { .. }, Connecting | Running | Stopping { .. }) => Verdict::StopFirst,
        (Command::Close { .. }, Detached | Idle | Settling) => Verdict::Leave,
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
    if availability == (Availability::Stopping { leaves: true }) {
        return Verdict::Closed;
    }
    if availability.is_free() && waiting == 0 {
        return Verdict::Accept;
    }
    match (on_busy, availability) {
        (BusyPolicy::Reject, _) => Verdict::Refuse(Cause::SessionBusy),
        _ if waiting >= max_waiting => Verdict::Refuse(Cause::QueueFull { limit: max_waiting }),
        (BusyPolicy::Interrupt, Availability::Running | Availability::Connecting) => {
            Verdict::StopFirst
        }
        (BusyPolicy::Interrupt, Availability::Stopping { .. } | Availability::Settling) => {
            Verdict::Queue(Position::Next)
        }
        (BusyPolicy::Interrupt | BusyPolicy::Queue, _) => Verdict::Queue(Position::Last),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        cli::options::Options,
        session::{Decision, TurnRequest, tests::request},
        turn::listener::Partials,
    };

    const CLOSE_REASONS: [CloseReason; 12] = [
        CloseReason::Requested { forget: false },
        CloseReason::Requested { forget: true },
        CloseReason::Interrupted,
        CloseReason::Ephemeral,
        CloseReason::ConnectFailed,
        CloseReason::Expired,
        CloseReason::Idle,
        CloseReason::Broken,
        CloseReason::Unused,
        CloseReason::Stuck,
        CloseReason::Shutdown,
        CloseReason::Dozing,
    ];

    const CLEANUP_REASONS: [CloseReason; 4] =
        [CloseReason::Expired, CloseReason::Idle, CloseReason::Broken, CloseReason::Unused];

    fn run(on_busy: BusyPolicy) -> Command {
        let request = Box::new(TurnRequest { on_busy, ..request("hello") });
        Command::Run { request, reply: oneshot::channel().0 }
    }

    fn interrupt(keep_session: bool) -> Command {
        Command::Interrupt { keep_session, reply: oneshot::channel().0 }
    }

    fn let_go(why: LetGo) -> Command {
        Command::LetGo { why, reply: oneshot::channel().0 }
    }

    fn close(reason: CloseReason) -> Command {
        Command::Close { reason, reply: oneshot::channel().0 }
    }

    fn attach() -> Command {
        let partials = Partials::Hidden;
        Command::Attach { turn: None, from: 0, partials, reply: oneshot::channel().0 }
    }

    fn respond() -> Command {
        let decision = Decision::Raw("{}".into());
        let reply = oneshot::channel().0;
        Command::Respond { prompt_id: "p".into(), decision, reply }
    }

    fn update() -> Command {
        Command::Update { options: Box::new(Options::default()), reply: oneshot::channel().0 }
    }

    fn busy_policy() -> impl Strategy<Value = BusyPolicy> {
        prop::sample::select(vec![BusyPolicy::Queue, BusyPolicy::Reject, BusyPolicy::Interrupt])
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            busy_policy().prop_map(run),
            Just(()).prop_map(|()| attach()),
            Just(()).prop_map(|()| respond()),
            Just(()).prop_map(|()| update()),
            any::<bool>().prop_map(interrupt),
            prop::sample::select(vec![LetGo::Idle, LetGo::Pressure, LetGo::Fairness])
                .prop_map(let_go),
            prop::sample::select(&CLOSE_REASONS[..]).prop_map(close),
        ]
    }

    /// What a session does that is not ending.
    fn living() -> impl Strategy<Value = Availability> {
        prop_oneof![
            Just(Availability::Detached),
            Just(Availability::Idle),
            Just(Availability::Connecting),
            Just(Availability::Running),
            any::<bool>().prop_map(|leaves| Availability::Stopping { leaves }),
            Just(Availability::Settling),
        ]
    }

    fn availability() -> impl Strategy<Value = Availability> {
        let ending = prop::sample::select(&CLOSE_REASONS[..]).prop_map(Availability::Closing);
        prop_oneof![6 => living(), 1 => ending]
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (0usize..40, 0usize..40, 0usize..20, flags).prop_map(
            |(waiting, updates, max_waiting, (knows_turn, has_untold, may_rest, may_yield))| {
                Facts { waiting, updates, max_waiting, knows_turn, has_untold, may_rest, may_yield }
            },
        )
    }

    fn roomy() -> Facts {
        Facts { max_waiting: 1, ..Facts::default() }
    }

    #[test]
    fn a_free_session_takes_every_turn() {
        for availability in [Availability::Detached, Availability::Idle] {
            for policy in [BusyPolicy::Queue, BusyPolicy::Reject, BusyPolicy::Interrupt] {
                let verdict = admit(availability, &Facts::default(), &run(policy));
                assert_eq!(verdict, Verdict::Accept);
            }
        }
    }

    #[test]
    fn a_busy_session_queues_rejects_or_stops() {
        let verdict = |policy| admit(Availability::Running, &roomy(), &run(policy));
        assert_eq!(verdict(BusyPolicy::Queue), Verdict::Queue(Position::Last));
        assert_eq!(verdict(BusyPolicy::Reject), Verdict::Refuse(Cause::SessionBusy));
        assert_eq!(verdict(BusyPolicy::Interrupt), Verdict::StopFirst);
    }

    #[test]
    fn a_turn_that_comes_while_another_is_stopped_goes_next_if_it_may_interrupt() {
        let stopping = |leaves| Availability::Stopping { leaves };
        let verdict = |leaves| admit(stopping(leaves), &roomy(), &run(BusyPolicy::Interrupt));
        assert_eq!(verdict(false), Verdict::Queue(Position::Next));
        assert_eq!(verdict(true), Verdict::Closed, "the session leaves");
    }

    #[test]
    fn a_session_that_falls_asleep_is_asked_again_by_who_wants_it_gone() {
        let dozing = Availability::Closing(CloseReason::Dozing);
        let facts = Facts::default();
        assert_eq!(admit(dozing, &facts, &interrupt(false)), Verdict::Closed);
        assert_eq!(admit(dozing, &facts, &interrupt(true)), Verdict::Leave);
        let requested = CloseReason::Requested { forget: false };
        assert_eq!(admit(dozing, &facts, &close(requested)), Verdict::Closed);
    }

    #[test]
    fn who_wants_a_session_forgotten_is_not_content_with_its_end() {
        let forget = close(CloseReason::Requested { forget: true });
        let verdict = |ending| admit(Availability::Closing(ending), &Facts::default(), &forget);
        assert_eq!(verdict(CloseReason::Requested { forget: false }), Verdict::Closed);
        assert_eq!(verdict(CloseReason::Requested { forget: true }), Verdict::Leave);
    }

    #[test]
    fn a_process_with_work_in_its_background_is_let_go_for_fairness_only() {
        let facts = Facts { may_yield: true, ..Facts::default() };
        let verdict = |why| admit(Availability::Idle, &facts, &let_go(why));
        assert_eq!(verdict(LetGo::Idle), Verdict::Decline);
        assert_eq!(verdict(LetGo::Pressure), Verdict::Decline);
        assert_eq!(verdict(LetGo::Fairness), Verdict::Accept);
    }

    proptest! {
        #[test]
        fn nothing_waits_past_its_bound(
            availability in availability(),
            facts in facts(),
            command in command(),
        ) {
            let verdict = admit(availability, &facts, &command);
            let is_turn = matches!(command, Command::Run { .. });
            let full = match is_turn {
                true => facts.waiting >= facts.max_waiting,
                false => facts.updates >= facts.max_waiting,
            };
            if matches!(verdict, Verdict::Queue(_)) || (is_turn && verdict == Verdict::StopFirst) {
                prop_assert!(!full);
            }
            if verdict == (Verdict::Refuse(Cause::QueueFull { limit: facts.max_waiting })) {
                prop_assert!(full);
            }
        }

        #[test]
        fn who_does_not_want_to_wait_does_not(availability in availability(), facts in facts()) {
            let verdict = admit(availability, &facts, &run(BusyPolicy::Reject));
            prop_assert!(!matches!(verdict, Verdict::Queue(_) | Verdict::StopFirst));
        }

        #[test]
        fn only_what_runs_or_is_about_to_is_stopped(
            availability in availability(),
            facts in facts(),
            command in command(),
        ) {
            let runs = matches!(
                availability,
                Availability::Connecting | Availability::Running | Availability::Stopping { .. }
            );
            let verdict = admit(availability, &facts, &command);
            prop_assert!(runs || verdict != Verdict::StopFirst);
            // And nobody leaves the turn behind.
            prop_assert!(!runs || verdict != Verdict::Leave);
        }

        #[test]
        fn a_session_that_ends_takes_nothing_on(
            ending in prop::sample::select(&CLOSE_REASONS[..]),
            facts in facts(),
            command in command(),
        ) {
            let verdict = admit(Availability::Closing(ending), &facts, &command);
            let joins = matches!(command, Command::Attach { .. }) && facts.has_untold;
            prop_assert_eq!(verdict == Verdict::Accept, joins);
            prop_assert!(!matches!(verdict, Verdict::Queue(_) | Verdict::StopFirst));
        }

        #[test]
        fn the_cleanup_ends_no_session_that_has_something_to_do(
            availability in living(),
            facts in facts(),
            reason in prop::sample::select(&CLEANUP_REASONS[..]),
        ) {
            prop_assert!(reason.skips_busy());
            let busy = !availability.is_free() || facts.waiting > 0;
            let verdict = admit(availability, &facts, &close(reason));
            prop_assert_eq!(verdict == Verdict::Decline, busy);
        }

        #[test]
        fn an_interrupt_and_a_close_are_never_refused(
            availability in availability(),
            facts in facts(),
            keep in any::<bool>(),
            reason in prop::sample::select(&CLOSE_REASONS[..]),
        ) {
            for command in [interrupt(keep), close(reason)] {
                let verdict = admit(availability, &facts, &command);
                prop_assert!(!matches!(verdict, Verdict::Refuse(_) | Verdict::Queue(_)));
            }
        }

        #[test]
        fn a_turn_that_is_here_already_is_joined(
            availability in living(),
            facts in facts(),
            policy in busy_policy(),
        ) {
            let facts = Facts { knows_turn: true, ..facts };
            prop_assert_eq!(admit(availability, &facts, &run(policy)), Verdict::Accept);
        }
    }
}
