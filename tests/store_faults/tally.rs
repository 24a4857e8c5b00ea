//! What happened how often.

use std::{collections::BTreeMap, fmt, sync::Mutex};

#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    pub fn note(&self, what: impl Into<String>) {
        *self.0.lock().expect("no panic").entry(what.into()).or_default() += 1;
    }

    pub fn count(&self, what: &str) -> u64 {
        self.0.lock().expect("no panic").get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in self.0.lock().expect("no panic").iter() {
            writeln!(f, "{count:8}  {what}")?;
        }
        Ok(())
    }
}
