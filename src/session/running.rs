//! A turn that runs: its log, its clock and what it has spent. What its frames mean is read by
//! `cli`, and heard by the phase in which it runs; when it has gone on for too long is said by
//! `watchdog`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::{
    command::{BackgroundPolicy, DisconnectPolicy, TurnRequest},
    feed::Feed,
    queue::Again,
};
use crate::{
    budget::Reservation,
    cli::{
        connection::ControlAnswer,
        traits::CliTraits,
        turn::{EventKind, Outcome, TurnReader},
    },
    counters::Spent,
    domain::failure::Cause,
    turn::{
        event::{Class, Partials, Started},
        listener::Following,
        log::TurnLog,
    },
};

/// Bytes of events that are held back: more than the end of a turn that the CLI began by
/// itself has. A bound for an agent that speaks in the CLI's name.
const MOST_HELD: usize = 4 << 20;

/// A turn that runs.
#[derive(Debug)]
pub struct Running {
    /// Its events.
    pub log: TurnLog,
    /// What its frames have said so far.
    pub reader: TurnReader,
    /// When its last listener leaves.
    pub on_disconnect: DisconnectPolicy,
    /// What the process had asked when it began: requests with this number and those behind it
    /// are of the turn.
    pub asked: u64,
    /// The number of the task that its process began next when it began.
    pub tasks_from: u64,
    /// What becomes of what it leaves behind in the background.
    pub on_background: BackgroundPolicy,
    /// Who waits for that, and whether with partial messages.
    pub following: Option<(Following, Partials)>,
    /// The message that became this turn, which nobody has been told yet.
    pub steered: Option<Uuid>,
    /// Whether the CLI may stop it although nobody wants that: it was asked to stop the turn before
    /// it, and had ended that already.
    pub may_be_stopped: bool,
    /// Whether its caller named it: the name is kept with its result.
    pub named: bool,
    /// What it has cost, as far as its process has said so.
    pub spent: Spent,
    /// Since when it may spend nothing more, and why.
    pub(super) overspent: Option<(Instant, Cause)>,
    /// When its prompt was sent.
    pub(super) began: Instant,
    pub(super) last_activity: Instant,
    /// Events that are not known to be of this turn yet; `None` once it is known.
    held: Option<Vec<(Class, Bytes)>>,
    held_bytes: usize,
    /// What its prompt claims of the memory, until the CLI has read it.
    pub prompt_held: Option<Arc<Reservation>>,
    /// What the process said that it applies, before a prompt that may choose otherwise.
    pub(super) applied_before: Option<ControlAnswer>,
    /// What to do over, as long as the process has not answered the prompt.
    pub(super) unanswered: Option<Box<Unanswered>>,
    /// Whether the process did not take the prompt at all.
    pub unsent: bool,
    /// Counted by whoever waits for turns to end.
    pub(super) counted: TaskTrackerToken,
}

/// A prompt that its process has not answered.
#[derive(Debug)]
pub struct Unanswered {
    /// What was asked.
    pub request: TurnRequest,
    /// What its caller is told once it is answered.
    pub started: Started,
    /// Where those who follow the session are told.
    pub feed: Arc<Feed>,
}

/// What a frame is for callers.
pub fn class_of(kind: EventKind) -> Class {
    match kind {
        EventKind::System => Class::System,
        EventKind::Assistant => Class::Assistant,
        EventKind::User => Class::User,
        EventKind::StreamEvent => Class::StreamEvent,
        EventKind::Prompt => Class::Prompt,
        EventKind::Other => Class::Other,
    }
}

/// What a result is for callers.
pub fn class_of_result(outcome: Outcome) -> Class {
    match outcome {
        Outcome::Completed | Outcome::Failed => Class::Result,
        Outcome::Interrupted => Class::InterruptedResult,
        Outcome::Unstructured => Class::UnstructuredResult,
    }
}

impl Running {
    /// A turn that begins now, with this prompt or by the CLI itself, on a process whose next
    /// request has the number `asked`, and which was last read then.
    pub fn new(
        log: TurnLog,
        prompt: Option<Uuid>,
        on_disconnect: DisconnectPolicy,
        (traits, read): (&CliTraits, Instant),
        asked: u64,
        counted: TaskTrackerToken,
    ) -> Self {
        let now = Instant::now();
        let reader = TurnReader::new(prompt, traits, read);
        Self {
            held: (!reader.is_certain()).then(Vec::new),
            held_bytes: 0,
            log,
            reader,
            on_disconnect,
            asked,
            tasks_from: traits.background.number(),
            on_background: BackgroundPolicy::Keep,
            following: None,
            steered: None,
            may_be_stopped: false,
            named: false,
            spent: Spent::default(),
            overspent: None,
            began: now,
            last_activity: now,
            prompt_held: None,
            applied_before: None,
            unanswered: None,
            unsent: false,
            counted,
        }
    }

    /// Whether nobody wants it any more.
    pub fn is_abandoned(&self) -> bool {
        self.on_disconnect.abandons(&self.log)
    }

    /// How long it has been silent.
    pub fn silent_for(&self) -> Duration {
        self.last_activity.elapsed()
    }

    /// Goes on counting where the turn was sent to another process before.
    pub fn resume_clock(&mut self, again: Again) {
        self.began = again.began;
        let heard = self.last_activity.checked_sub(again.silent_for);
        self.last_activity = heard.unwrap_or(self.last_activity);
    }

    /// Notes that the CLI printed something, and when.
    pub fn touch(&mut self) {
        self.last_activity = Instant::now();
    }

    /// Notes whether it may spend more.
    pub fn note_spending(&mut self, allowed: Result<(), Cause>) {
        let before = self.overspent.take();
        self.overspent = allowed.err().map(|cause| before.unwrap_or((Instant::now(), cause)));
    }

    /// Why it may spend nothing more; `None` if it may.
    pub fn overspent(&self) -> Option<&Cause> {
        self.overspent.as_ref().map(|(_, cause)| cause)
    }

    /// Adds an event, or holds it back; what was held back goes first once it is known
    /// to be of this turn.
    pub fn record(&mut self, line: Bytes, class: Option<Class>, events: &mut Vec<(Class, Bytes)>) {
        if self.reader.is_certain() || self.held_bytes > MOST_HELD {
            events.extend(self.held.take().into_iter().flatten());
            self.held_bytes = 0;
        }
        let Some(class) = class else { return };
        if self.held.is_some() {
            self.held_bytes += line.len();
        }
        self.held.as_mut().unwrap_or(events).push((class, line));
    }

    /// What was held back, of a turn that turned out to be another.
    pub fn take_foreign(&mut self) -> Vec<(Class, Bytes)> {
        self.held_bytes = 0;
        self.held.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives up holding back, because the turn ends here.
    pub fn release(&mut self) {
        let mut held = self.held.take().unwrap_or_default();
        self.write(&mut held);
    }

    /// Writes events to the log.
    pub fn write(&self, events: &mut Vec<(Class, Bytes)>) {
        if !events.is_empty() {
            self.log.append(events.drain(..));
        }
    }
}
