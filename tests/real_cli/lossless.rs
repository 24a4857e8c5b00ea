//! Checks that an event says all that the CLI's frame says: puts a frame together from
//! the typed fields and compares it with the frame itself.

use session_pool::proto::turn_event::Kind;

use crate::{
    compare::differences,
    rebuild::{frame_of, parse},
    support::turn::Turn,
};

/// Checks every frame of a turn that ran with payload BOTH.
#[track_caller]
pub fn check(turn: &Turn) {
    for event in turn.events.iter().skip(1) {
        let kind = event.kind.as_ref().expect("a kind");
        let is_own = matches!(
            kind,
            Kind::PromptResolved(_)
                | Kind::Steered(_)
                | Kind::RateLimited(_)
                | Kind::EgressRefused(_)
        );
        if is_own {
            assert_eq!(event.json, "", "the service's own words");
            continue;
        }
        assert!(!event.json.is_empty(), "an event without its frame: {kind:?}");
        let frame = parse(&event.json);
        let lost = differences(&frame, &frame_of(kind));
        assert!(lost.is_empty(), "{lost:#?}\nframe: {frame:#}\nevent: {kind:#?}");
    }
}
