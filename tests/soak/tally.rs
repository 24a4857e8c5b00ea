//! What was done how often, and how it ended.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

/// Counts of deeds and their outcomes.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
    longest: Mutex<(Duration, u32)>,
}

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
        let mut counts = self.counts.lock().expect("no panic");
        *counts.entry((deed, outcome.into())).or_default() += 1;
    }

    /// Takes note of how long a deed took: how near the others are to the limit.
    pub fn took(&self, deed: u32, time: Duration) {
        let mut longest = self.longest.lock().expect("no panic");
        *longest = (time, deed).max(*longest);
    }

    /// A soak in which something never happened shows nothing of it.
    pub fn assert_tried(&self, deeds: &[&str]) {
        let counts = self.counts.lock().expect("no panic");
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
        for ((deed, outcome), count) in self.counts.lock().expect("no panic").iter() {
            writeln!(f, "{count:8}  {deed}: {outcome}")?;
        }
        let (time, deed) = *self.longest.lock().expect("no panic");
        writeln!(f, "longest: deed {deed}, {time:?}")
    }
}
