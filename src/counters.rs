//! What happened since the service started. Counted where it happens, read by
//! `GetStats`. Knows nothing of either.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::domain::usage::TokenUsage;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds some.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lists all counters, each once; each is explained at its namesake in the contract.
macro_rules! counters {
    ($($name:ident,)*) => {
        /// All that is counted.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub $name: Counter,)*
            spent: Mutex<Spent>,
        }

        impl Counters {
            /// All counters, with their names.
            fn each(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
                [$((stringify!($name), &self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    turns,
    turns_completed,
    turns_failed,
    sessions_created,
    sessions_reused,
    sessions_resumed,
    cold_starts,
    interrupted,
    first_chunk_timeouts,
    stalled,
    credentials_refused,
    expired,
    idle_removed,
    stuck,
    cli_exits,
    capacity_refusals,
    connect_failures,
    interrupt_escalations,
    hibernations,
    hibernations_under_pressure,
    background_work_ended,
    cold_start_micros,
    resume_micros,
    from_spare,
    spare_misses_none_ready,
    spare_misses_options,
    spare_misses_conversation,
    spare_misses_folder,
    spare_misses_failed,
    messages,
    frames,
    stray_lines,
}

/// All counts at one moment, or between two, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// The counters.
    pub counts: BTreeMap<String, u64>,
    /// Cost and tokens.
    pub spent: Spent,
    /// What of the cost was spent on the last day on which anything was.
    #[serde(default)]
    pub today: Today,
}

impl Totals {
    /// What was counted since an earlier snapshot of the same counters, or of a part of them.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name| earlier.counts.get(name).copied().unwrap_or_default();
        let counts =
            self.counts.iter().map(|(name, count)| (name, count.saturating_sub(before(name))));
        let counts = counts.filter(|(_, more)| *more > 0);
        let more = |cost_usd: f64, before: f64| (cost_usd - before).max(0.0);
        let spent_before = match self.today.day == earlier.today.day {
            true => earlier.today.cost_usd,
            false => 0.0,
        };
        let spent_today = match self.today.day < earlier.today.day {
            true => 0.0,
            false => more(self.today.cost_usd, spent_before),
        };
        // A day on which nothing was spent says nothing.
        let day = if spent_today > 0.0 { self.today.day } else { 0 };
        Self {
            counts: counts.map(|(name, more)| (name.clone(), more)).collect(),
            spent: Spent {
                cost_usd: more(self.spent.cost_usd, earlier.spent.cost_usd),
                usage: self.spent.usage.since(&earlier.spent.usage),
            },
            today: Today { day, cost_usd: spent_today },
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            let mine = self.counts.entry(name.clone()).or_default();
            *mine = mine.saturating_add(*count);
        }
        self.spent.add(&other.spent);
        let (mine, theirs) = (&mut self.today, &other.today);
        if theirs.day == mine.day {
            mine.cost_usd += theirs.cost_usd;
        } else if theirs.day > mine.day {
            *mine = *theirs;
        }
    }

    /// Takes over what another snapshot of the same counters has more of. Whoever took the
    /// older one may come later.
    pub fn raise(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            let mine = self.counts.entry(name.clone()).or_default();
            *mine = (*mine).max(*count);
        }
        self.spent.cost_usd = self.spent.cost_usd.max(other.spent.cost_usd);
        self.spent.usage.raise(&other.spent.usage);
        let (mine, theirs) = (&mut self.today, &other.today);
        if (theirs.day, theirs.cost_usd) > (mine.day, mine.cost_usd) {
            *mine = *theirs;
        }
    }
}

/// The cost of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Today {
    /// Days since 1970 (UTC).
    pub day: u64,
    /// US dollars, as the CLI estimates them.
    pub cost_usd: f64,
}

/// Cost and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// US dollars, as the CLI estimates them.
    pub cost_usd: f64,
    /// Tokens.
    pub usage: TokenUsage,
}

impl Spent {
    /// Adds what another turn cost.
    pub fn add(&mut self, other: &Self) {
        self.cost_usd += other.cost_usd;
        self.usage.add(&other.usage);
    }
}

impl Counters {
    /// Adds all that others counted.
    pub fn add(&self, others: &Self) {
        for ((_, mine), (_, theirs)) in self.each().zip(others.each()) {
            mine.add(theirs.get());
        }
        self.spend(&others.spent());
    }

    /// What was counted so far, to be kept.
    pub fn totals(&self) -> Totals {
        let counts = self.each().map(|(name, counter)| (name.to_owned(), counter.get()));
        Totals { counts: counts.collect(), spent: self.spent(), today: Today::default() }
    }

    /// Goes on counting from what was kept. Names that are not known any more are left out.
    pub fn resume(&self, totals: &Totals) {
        for (name, counter) in self.each() {
            counter.add(totals.counts.get(name).copied().unwrap_or_default());
        }
        self.spend(&totals.spent);
    }

    /// Adds what a turn cost.
    pub fn spend(&self, spent: &Spent) {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).add(spent);
    }

    /// What all turns cost.
    pub fn spent(&self) -> Spent {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
