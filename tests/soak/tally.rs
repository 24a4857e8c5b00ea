//! What was done how often, and how it ended.

use std::{collections::BTreeMap, fmt, sync::Mutex};

/// Counts of deeds and their outcomes.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<(&'static str, String), u64>>);

/// What callers do; each has to have happened in a run.
pub const DEEDS: [&str; 12] = [
    "ask",
    "read slowly",
    "leave",
    "deadline",
    "interrupt",
    "interrupt all",
    "kill the CLI",
    "close",
    "attach",
    "stubborn CLI",
    "rubbish",
    "look",
];

/// What goes wrong around the service; each has to have happened in a run under faults.
pub const FAULTS: [&str; 7] = [
    "scribe",
    "full disk",
    "locked database",
    "clock",
    "burst of cancels",
    "silent connections",
    "not read",
];

impl Tally {
    /// Takes note of a deed and its outcome.
    pub fn note(&self, deed: &'static str, outcome: impl Into<String>) {
        *self.0.lock().expect("no panic").entry((deed, outcome.into())).or_default() += 1;
    }

    /// A soak in which something never happened shows nothing of it.
    pub fn assert_tried(&self, deeds: &[&str]) {
        let counts = self.0.lock().expect("no panic");
        for deed in deeds {
            assert!(counts.keys().any(|(done, _)| done == deed), "never done: {deed}");
        }
        let answered =
            counts.iter().filter(|((deed, outcome), _)| *deed == "ask" && outcome == "answered");
        assert!(answered.count() > 0, "nobody was ever answered");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((deed, outcome), count) in self.0.lock().expect("no panic").iter() {
            writeln!(f, "{count:8}  {deed}: {outcome}")?;
        }
        Ok(())
    }
}
