//! What somebody does to a session, as a strategy.

use proptest::prelude::*;

use super::super::gated_store::Gate;
use crate::session::BackgroundPolicy;

/// One step of somebody.
#[derive(Debug, Clone)]
pub enum Step {
    Query {
        behaviour: &'static str,
        busy: u8,
        stays: bool,
        behind: BackgroundPolicy,
    },
    /// A message for the running turn.
    Steer(&'static str),
    /// Of the task that the Query or message so many ago may have left behind.
    StopTask(usize),
    /// Of all that goes on, keeping the session or not.
    InterruptAll(bool),
    /// From here on CLIs say which prompts they take up, or only echo them.
    NamesPrompts(bool),
    /// A Query with a system prompt of its own, which may need another process.
    Optioned(bool),
    /// The last Query again, under the same turn id.
    Retry,
    /// A change of model that is accepted, refused or not answered.
    Update(&'static str, Option<&'static str>),
    /// From here on a start takes so long.
    StartTime(u64),
    /// As `Query`, by a caller that leaves at once.
    Passing(&'static str, bool),
    /// Of the running turn, keeping the session or not.
    Interrupt(bool),
    /// Of the turn that was asked for so many Queries ago.
    InterruptTurn(usize),
    Attach,
    Cleanup,
    Kill,
    /// The next CLIs that read a prompt die without a word.
    DieAtPrompt(usize),
    /// From here on the store is so.
    Store(Gate),
    /// From here on what is read from the store waits, or does not.
    Reads(bool),
    /// From here on CLIs end only when they are killed, or by themselves.
    Stubborn(bool),
    /// From here on a look at the folders of a process takes so long.
    Recheck(u64),
    /// An answer to what a CLI has asked.
    Respond,
    Pause(u64),
}

pub fn step() -> impl Strategy<Value = Step> {
    let behaviour = || {
        prop::sample::select(vec![
            "ok",
            "ok",
            "slow 40",
            "late 900",
            "hang",
            "silent",
            "die",
            "deaf",
            "lose 2",
            "rubbish",
            "mute-end",
            "tool 5000",
            "retry 700",
            "background",
            "ask",
            "move",
            "task 300",
            "task 20000",
        ])
    };
    let behind = || {
        use BackgroundPolicy::{Keep, Stop, Wait};
        prop::sample::select(vec![Keep, Keep, Wait, Stop])
    };
    prop_oneof![
        6 => (behaviour(), 0u8..3, any::<bool>(), behind())
            .prop_map(|(behaviour, busy, stays, behind)| Step::Query { behaviour, busy, stays, behind }),
        5 => behaviour().prop_map(Step::Steer),
        2 => (0usize..4).prop_map(Step::StopTask),
        2 => prop::sample::select(vec![true, true, false]).prop_map(Step::InterruptAll),
        1 => any::<bool>().prop_map(Step::NamesPrompts),
        2 => (behaviour(), any::<bool>())
            .prop_map(|(behaviour, goes_on)| Step::Passing(behaviour, goes_on)),
        3 => prop::sample::select(vec![true, true, false]).prop_map(Step::Interrupt),
        2 => (0usize..4).prop_map(Step::InterruptTurn),
        1 => Just(Step::Attach),
        2 => any::<bool>().prop_map(Step::Optioned),
        2 => Just(Step::Retry),
        1 => (prop::sample::select(vec!["m1", "m2", "mute"]), prop::option::of(Just("refused")))
            .prop_map(|(model, mode)| Step::Update(model, mode)),
        1 => prop::sample::select(vec![0, 50, 4000]).prop_map(Step::StartTime),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Kill),
        1 => (1usize..4).prop_map(Step::DieAtPrompt),
        2 => prop::sample::select(vec![Gate::Open, Gate::Open, Gate::Locked, Gate::Broken])
            .prop_map(Step::Store),
        1 => prop::sample::select(vec![true, false, false]).prop_map(Step::Reads),
        1 => any::<bool>().prop_map(Step::Stubborn),
        1 => prop::sample::select(vec![0, 0, 2000]).prop_map(Step::Recheck),
        1 => Just(Step::Respond),
        4 => prop::sample::select(vec![0, 1, 30, 200, 3000, 90_000]).prop_map(Step::Pause),
    ]
}
