//! A process that serves a session, and all that holds for that process alone: what it has
//! shown of itself, the rules that it was given, what it asks and what it has printed that no
//! phase has read. The phases hand it on as one value. It goes with its process, so that the
//! next one begins with nothing of it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    answers::Answers, given_rules::Given, open_prompts::OpenPrompts, steers::Steers,
    work_stops::WorkStops,
};
use crate::{
    budget::Account,
    cli::{frame::Frame, request::ControlRequest, traits::CliTraits, turn::announcement},
    domain::grants::Grants,
    supply::Lease,
};

/// Frames before a turn that the CLI begins by itself: three for each task that has ended. A
/// bound for an agent that speaks in the CLI's name.
const MOST_ANNOUNCED: usize = 100;

/// Bytes of them, likewise: each has some hundred.
const ANNOUNCED_BYTES: usize = 1 << 20;

/// A process that serves a session.
#[derive(Debug)]
pub struct Process {
    /// The process itself.
    pub lease: Lease,
    /// What it has shown of itself.
    pub traits: CliTraits,
    /// The rules that it was given.
    pub given: Given,
    /// What it asks and still waits for, whatever has become of the turn in which it asked.
    pub prompts: OpenPrompts,
    /// Answers that it is still to be given.
    pub answers: Answers,
    /// Messages that it was handed in a turn and has not taken up.
    pub steers: Steers,
    /// Whether it was asked to stop the turn that has just ended, and may yet stop the next.
    pub stop_goes_on: bool,
    /// Work behind its turns that is being stopped.
    pub work_stops: WorkStops,
    /// Frames that a phase has left for the next.
    pub leftover: Vec<Frame>,
    /// What came between turns and tells what the next turn of the CLI's own is about.
    pub announced: Vec<Frame>,
    /// The version of what works behind its turns that is shown.
    pub shown_work: (u64, usize),
    /// The variables that say to it of which trace its turn is.
    trace: BTreeMap<String, String>,
}

impl Process {
    /// A process that serves the session from here on, and was started with these rules. What
    /// it asks counts for `memory`, and waits for an answer for so long.
    pub fn new(
        mut lease: Lease,
        rules: &Grants,
        memory: &Account,
        prompt_timeout: Option<Duration>,
    ) -> Self {
        lease.connection.pass_requests_on();
        Self {
            lease,
            traits: CliTraits::default(),
            given: Given::at_start(rules),
            prompts: OpenPrompts::new(memory, prompt_timeout),
            answers: Answers::default(),
            steers: Steers::default(),
            stop_goes_on: false,
            work_stops: WorkStops::default(),
            leftover: Vec::new(),
            announced: Vec::new(),
            shown_work: (0, 0),
            trace: BTreeMap::new(),
        }
    }

    /// It was started with these variables, which say of which trace its first turn is.
    pub fn was_told(&mut self, trace: BTreeMap<String, String>) {
        self.trace = trace;
    }

    /// Tells the CLI of which trace the turn is that begins, if it was not told that already. It takes
    /// up what it is told in order, so that the prompt finds it told. What becomes of that is
    /// nothing that a turn would wait for.
    pub fn tell_trace(&mut self, trace: BTreeMap<String, String>) {
        if trace == self.trace {
            return;
        }
        // No variable can be taken back; an empty one names no trace.
        let gone = self.trace.keys().map(|name| (name.clone(), String::new()));
        let told = gone.chain(trace.clone()).collect();
        if self.lease.connection.request(ControlRequest::variables(&told)).is_ok() {
            self.trace = trace;
        }
    }

    /// Takes note of a frame between turns that may be one of the next turn's.
    pub fn announce(&mut self, frame: &Frame) {
        let bytes: usize = self.announced.iter().map(|frame| frame.raw.len()).sum();
        let has_room = bytes + frame.raw.len() <= ANNOUNCED_BYTES;
        if has_room && self.announced.len() < MOST_ANNOUNCED {
            self.announced.extend(announcement(frame));
        }
    }

    /// When an answer that waits, a prompt that does, or a stop of work has waited long enough.
    pub fn answers_due(&self) -> Option<Instant> {
        let (answers, prompts) = (self.answers.deadline(), self.prompts.expires_at());
        let times = [answers, prompts, self.work_stops.deadline()];
        times.into_iter().flatten().min()
    }
}
