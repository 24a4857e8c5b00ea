//! Whether a turn is taken: a pure table of what the session does, what the caller
//! wants and how many wait. No clock, no lock, nothing to wait for.

use super::command::BusyPolicy;
use crate::failure::Cause;

/// What the session does, as far as it matters for a new turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupation {
    /// Nothing.
    Free,
    /// It waits for a process, for a turn that has not begun.
    Connecting,
    /// A turn runs.
    Running,
    /// A turn is being stopped or has just ended.
    Ending,
}

/// What becomes of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It goes to the end of the queue; in a free session it begins at once.
    Enqueue,
    /// It goes to the head of the queue.
    GoNext,
    /// It goes to the head of the queue and the running turn is stopped.
    StopAndGoNext,
    /// It is refused.
    Refuse(Cause),
}

/// Decides on one turn.
pub fn admit(
    occupation: Occupation,
    policy: BusyPolicy,
    waiting: usize,
    max_waiting: usize,
) -> Verdict {
    let busy = occupation != Occupation::Free || waiting > 0;
    if busy && policy == BusyPolicy::Reject {
        return Verdict::Refuse(Cause::SessionBusy);
    }
    if busy && waiting >= max_waiting {
        return Verdict::Refuse(Cause::QueueFull { limit: max_waiting });
    }
    match (policy, occupation) {
        (BusyPolicy::Interrupt, Occupation::Running | Occupation::Connecting) => {
            Verdict::StopAndGoNext
        }
        (BusyPolicy::Interrupt, Occupation::Ending) => Verdict::GoNext,
        (BusyPolicy::Interrupt, Occupation::Free) | (BusyPolicy::Queue | BusyPolicy::Reject, _) => {
            Verdict::Enqueue
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OCCUPATIONS: [Occupation; 4] =
        [Occupation::Free, Occupation::Connecting, Occupation::Running, Occupation::Ending];

    #[test]
    fn a_free_session_takes_every_turn() {
        for policy in [BusyPolicy::Queue, BusyPolicy::Reject, BusyPolicy::Interrupt] {
            assert_eq!(admit(Occupation::Free, policy, 0, 0), Verdict::Enqueue);
        }
    }

    #[test]
    fn a_busy_session_queues_rejects_or_stops() {
        let verdict = |policy| admit(Occupation::Running, policy, 0, 1);
        assert_eq!(verdict(BusyPolicy::Queue), Verdict::Enqueue);
        assert_eq!(verdict(BusyPolicy::Reject), Verdict::Refuse(Cause::SessionBusy));
        assert_eq!(verdict(BusyPolicy::Interrupt), Verdict::StopAndGoNext);
    }

    proptest! {
        #[test]
        fn the_queue_never_grows_past_its_bound(
            occupation in prop::sample::select(&OCCUPATIONS[1..]),
            interrupt in any::<bool>(),
            waiting in 0usize..40,
            max in 0usize..20,
        ) {
            let policy = if interrupt { BusyPolicy::Interrupt } else { BusyPolicy::Queue };
            let refused = matches!(admit(occupation, policy, waiting, max), Verdict::Refuse(_));
            prop_assert_eq!(refused, waiting >= max);
        }
    }
}
