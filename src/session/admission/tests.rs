use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::{
    domain::{decision::Decision, ids::TurnId, options::Options},
    session::{TurnRequest, tests::request},
    turn::event::Partials,
};

const CLOSE_REASONS: [CloseReason; 14] = [
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
    CloseReason::HandOver,
    CloseReason::Unloaded,
    CloseReason::Moved,
];

const CLEANUP_REASONS: [CloseReason; 4] =
    [CloseReason::Expired, CloseReason::Idle, CloseReason::Broken, CloseReason::Unused];

fn run(on_busy: BusyPolicy) -> Command {
    let request = Box::new(TurnRequest { on_busy, ..request("hello") });
    Command::Run { request, reply: oneshot::channel().0 }
}

fn interrupt(keep_session: bool) -> Command {
    Command::Interrupt {
        target: InterruptTarget::Running,
        keep_session,
        reply: oneshot::channel().0,
    }
}

fn interrupt_turn(keep_session: bool) -> Command {
    let turn = TurnId::parse("t").expect("a name");
    Command::Interrupt {
        target: InterruptTarget::Named(turn),
        keep_session,
        reply: oneshot::channel().0,
    }
}

fn hibernate(why: HibernateReason) -> Command {
    Command::Hibernate { why, reply: oneshot::channel().0 }
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
    prop::sample::select(vec![
        BusyPolicy::Queue,
        BusyPolicy::Reject,
        BusyPolicy::Interrupt,
        BusyPolicy::Steer,
    ])
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        busy_policy().prop_map(run),
        Just(()).prop_map(|()| attach()),
        Just(()).prop_map(|()| respond()),
        Just(()).prop_map(|()| update()),
        any::<bool>().prop_map(interrupt),
        any::<bool>().prop_map(interrupt_turn),
        prop::sample::select(vec![
            HibernateReason::Idle,
            HibernateReason::Pressure,
            HibernateReason::Fairness
        ])
        .prop_map(hibernate),
        prop::sample::select(&CLOSE_REASONS[..]).prop_map(close),
    ]
}

/// What a session does that is not ending.
fn living() -> impl Strategy<Value = Availability> {
    prop_oneof![
        Just(Availability::Detached),
        Just(Availability::Idle),
        Just(Availability::Between),
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

fn named() -> impl Strategy<Value = Named> {
    prop::sample::select(vec![Named::Gone, Named::Waiting, Named::Current])
}

fn facts() -> impl Strategy<Value = Facts> {
    let flags = any::<(bool, bool, bool, bool, bool, bool)>();
    (0usize..40, 0usize..40, 0usize..20, flags, any::<bool>(), named()).prop_map(
        |(waiting, updates, max_waiting, flags, hands_over, named)| {
            let (knows_turn, may_steer, has_untold, works_behind, may_hibernate, may_yield) = flags;
            Facts {
                waiting,
                updates,
                max_waiting,
                knows_turn,
                may_steer,
                named,
                has_untold,
                works_behind,
                hands_over,
                may_hibernate,
                may_yield,
            }
        },
    )
}

#[test]
fn a_message_goes_to_the_turn_that_runs_or_waits_as_a_turn() {
    let steer = run(BusyPolicy::Steer);
    let may = Facts { may_steer: true, ..roomy() };
    assert_eq!(admit(Availability::Running, &may, &steer), Verdict::Steer);
    assert_eq!(admit(Availability::Running, &roomy(), &steer), Verdict::Queue(Position::Last));
    for busy in [Availability::Connecting, Availability::Settling] {
        assert_eq!(admit(busy, &may, &steer), Verdict::Queue(Position::Last));
    }
    assert_eq!(admit(Availability::Idle, &may, &steer), Verdict::Accept);
    let full = Facts { waiting: 1, ..may };
    assert_eq!(
        admit(Availability::Running, &full, &steer),
        Verdict::Steer,
        "others wait for turns"
    );
}

fn roomy() -> Facts {
    Facts { max_waiting: 1, ..Facts::default() }
}

#[test]
fn a_free_session_takes_every_turn() {
    for availability in [Availability::Detached, Availability::Idle, Availability::Between] {
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
fn a_session_that_falls_asleep_or_moves_is_asked_again_by_who_wants_it_gone() {
    for goes_on in [CloseReason::Unloaded, CloseReason::Moved, CloseReason::HandOver] {
        let unloading = Availability::Closing(goes_on);
        let facts = Facts::default();
        assert_eq!(admit(unloading, &facts, &interrupt(false)), Verdict::Closed);
        assert_eq!(admit(unloading, &facts, &interrupt(true)), Verdict::Leave);
        let requested = CloseReason::Requested { forget: false };
        assert_eq!(admit(unloading, &facts, &close(requested)), Verdict::Closed);
    }
}

#[test]
fn a_session_that_is_to_go_on_elsewhere_ends_once_nothing_runs_in_it() {
    use Availability::{Between, Connecting, Detached, Idle, Running, Settling};
    let verdict = |availability, works_behind| {
        let facts = Facts { works_behind, ..roomy() };
        admit(availability, &facts, &close(CloseReason::HandOver))
    };
    for rests in [Detached, Idle, Between, Settling] {
        assert_eq!(verdict(rests, false), Verdict::Leave);
        assert_eq!(verdict(rests, true), Verdict::LeaveLater);
    }
    for works in [false, true] {
        assert_eq!(verdict(Running, works), Verdict::LeaveLater);
        assert_eq!(verdict(Connecting, works), Verdict::StopFirst, "the turn has not begun");
    }
    // Meanwhile it takes nothing on, and tells what it knows.
    let facts = Facts { hands_over: true, ..roomy() };
    let verdict = |facts: &Facts| admit(Running, facts, &run(BusyPolicy::Queue));
    assert_eq!(verdict(&facts), Verdict::Refuse(Cause::ShuttingDown));
    assert_eq!(verdict(&Facts { knows_turn: true, ..facts }), Verdict::Accept);
    let leaving = Availability::Closing(CloseReason::HandOver);
    assert_eq!(admit(leaving, &facts, &close(CloseReason::Shutdown)), Verdict::Leave);
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
    let verdict = |why| admit(Availability::Idle, &facts, &hibernate(why));
    assert_eq!(verdict(HibernateReason::Idle), Verdict::Decline);
    assert_eq!(verdict(HibernateReason::Pressure), Verdict::Decline);
    assert_eq!(verdict(HibernateReason::Fairness), Verdict::Accept);
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
        let cancels = matches!(command, Command::Interrupt { target: InterruptTarget::Named(_), .. })
            && facts.named == Named::Waiting;
        prop_assert_eq!(verdict == Verdict::Accept, joins || cancels);
        prop_assert!(!matches!(verdict, Verdict::Queue(_) | Verdict::StopFirst));
    }

    #[test]
    fn the_cleanup_ends_no_session_that_has_something_to_do(
        availability in living(),
        facts in facts(),
        reason in prop::sample::select(&CLEANUP_REASONS[..]),
    ) {
        prop_assert!(reason.skips_busy());
        let busy = !availability.is_free() || facts.waiting > 0 || facts.works_behind;
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
        for command in [interrupt(keep), interrupt_turn(keep), close(reason)] {
            let verdict = admit(availability, &facts, &command);
            prop_assert!(!matches!(verdict, Verdict::Refuse(_) | Verdict::Queue(_)));
        }
    }

    #[test]
    fn an_interrupt_of_one_turn_touches_nothing_else(
        availability in availability(),
        facts in facts(),
        keep in any::<bool>(),
    ) {
        let verdict = admit(availability, &facts, &interrupt_turn(keep));
        let runs = matches!(
            availability,
            Availability::Connecting | Availability::Running | Availability::Stopping { .. }
        );
        let wanted = match facts.named {
            Named::Waiting => Verdict::Accept,
            Named::Current if runs => Verdict::StopFirst,
            Named::Current | Named::Gone => Verdict::AlreadySo,
        };
        // The session stays in any case, and is never asked to go.
        prop_assert_eq!(verdict, wanted);
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
