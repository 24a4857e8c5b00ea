//! What was seen of a round: what callers were told, how long sessions had nobody, what was
//! excused, and what must never be.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The time since the machine was started: one that processes agree on, whatever the wall clock
/// says.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.try_into().expect("positive"),
        time.tv_nsec.try_into().expect("small"),
    )
}

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A result was told, and what was said is not in the transcript.
    Lost,
    /// It is there twice.
    Twice,
    /// A claim that was not the newest has added to a transcript.
    Fenced,
    /// A transcript that was read is not the beginning of one that was read later.
    Rewritten,
    /// An entry does not follow the one before it: two have written from different states.
    Interleaved,
    /// Two processes of one conversation lived at once.
    TwoProcesses,
    /// A prompt was run again under the name of a turn that had been told.
    RunAgain,
    /// Two results were told of one turn.
    ToldTwoThings,
    /// An error that does not say that it is worth asking again.
    NotRetryable,
    /// Nobody answers, or not in time.
    Hangs,
    /// A node that was stopped had processes for too long after it woke.
    Lingers,
}

/// A result that a caller was told.
#[derive(Debug, Clone)]
pub struct Told {
    pub session: String,
    pub turn: String,
    /// What was said, as the result names it: of which attempt it is.
    pub text: String,
    pub at: Duration,
    /// Whether the turn was interrupted: then it may have been so before it began.
    pub is_interrupted: bool,
}

/// A node whose processes may live beside others: nobody could end them.
#[derive(Debug, Clone)]
struct Excuse {
    state: String,
    from: Duration,
    until: Option<Duration>,
}

#[derive(Debug, Default)]
struct Notes {
    told: Vec<Told>,
    wrong: Vec<(Wrong, String)>,
    excuses: Vec<Excuse>,
    take_overs: Vec<Duration>,
    counts: BTreeMap<String, u64>,
    lines: Vec<String>,
}

/// The notes of a round.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Notes>);

impl Recorder {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().expect("no panic")
    }

    pub fn told(&self, told: Told) {
        self.count("told");
        self.notes().told.push(told);
    }

    pub fn all_told(&self) -> Vec<Told> {
        self.notes().told.clone()
    }

    pub fn wrong(&self, wrong: Wrong, what: impl Into<String>) {
        self.notes().wrong.push((wrong, what.into()));
    }

    pub fn all_wrong(&self) -> Vec<(Wrong, String)> {
        self.notes().wrong.clone()
    }

    pub fn count(&self, what: impl Into<String>) {
        *self.notes().counts.entry(what.into()).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.notes().counts.clone()
    }

    /// A line of the round's story, which is printed when something was wrong.
    pub fn line(&self, line: impl fmt::Display) {
        let line = format!("{:9.3} {line}", now().as_secs_f64());
        self.notes().lines.push(line);
    }

    pub fn story(&self) -> Vec<String> {
        self.notes().lines.clone()
    }

    pub fn took_over(&self, after: Duration) {
        self.notes().take_overs.push(after);
    }

    pub fn take_overs(&self) -> Vec<Duration> {
        self.notes().take_overs.clone()
    }

    /// The node with this state folder cannot end its processes from now on.
    pub fn excuse(&self, state: &str) {
        let (state, from) = (state.to_owned(), now());
        self.notes().excuses.push(Excuse { state, from, until: None });
    }

    /// It can again, and has so long for it.
    pub fn excuse_ends(&self, state: &str, patience: Duration) {
        let until = Some(now() + patience);
        for excuse in &mut self.notes().excuses {
            if excuse.state == state && excuse.until.is_none() {
                excuse.until = until;
            }
        }
    }

    pub fn is_excused(&self, state: &str, at: Duration) -> bool {
        let covers = |it: &Excuse| {
            it.state == state && it.from <= at && it.until.is_none_or(|until| at <= until)
        };
        self.notes().excuses.iter().any(covers)
    }
}
