//! A turn that runs, and what its frames mean for it. When it has gone on for too long is said
//! by `watchdog`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::{
    cli_traits::CliTraits,
    command::{DisconnectPolicy, TurnRequest},
    queue::Again,
};
use crate::{
    budget::Reservation,
    cli::{
        connection::ControlAnswer,
        frame::{Frame, FrameKind, ResultSummary},
    },
    counters::Spent,
    domain::failure::Cause,
    turn::{
        event::{Class, Started},
        log::TurnLog,
    },
};

/// How many repeats of an idle state without a result are taken for the end: a turn's
/// beginning may still see the idle state of the turn before.
const IDLE_GRACE: u32 = 2;

/// Bytes of events that are held back: more than the end of a turn that the CLI began by
/// itself has. A bound for an agent that speaks in the CLI's name.
const MOST_HELD: usize = 4 << 20;

/// Tools at the same time, likewise.
const MOST_TOOLS: usize = 10_000;

/// What the API answers where it does not take the credentials.
const REFUSED: [u32; 2] = [401, 403];

/// A turn that runs.
#[derive(Debug)]
pub struct Running {
    /// Its events.
    pub log: TurnLog,
    /// The id of its prompt; none for a turn that the CLI began by itself.
    pub message_uuid: Option<Uuid>,
    /// When its last listener leaves.
    pub on_disconnect: DisconnectPolicy,
    /// What the process had asked when it began: requests with this number and those behind it
    /// are of the turn.
    pub asked: u64,
    /// Whether a tool may have run.
    pub tool_use_seen: bool,
    /// Whether its caller named it: the name is kept with its result.
    pub named: bool,
    /// What it has cost, as far as its process has said so.
    pub spent: Spent,
    /// Since when it may spend nothing more, and why.
    pub(super) overspent: Option<(Instant, Cause)>,
    /// When its prompt was sent.
    pub(super) began: Instant,
    pub(super) last_activity: Instant,
    pub(super) first_seen: bool,
    worked: bool,
    idle_seen: u32,
    /// How often the API has refused the credentials since it last answered otherwise.
    pub(super) refusals: u32,
    pub(super) tools: HashSet<String>,
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
}

/// What a frame means for its turn.
#[derive(Debug)]
pub enum Meaning {
    /// An event of it.
    Event(Class),
    /// Nothing that a caller sees.
    Hidden,
    /// Its conversation has another id from here on.
    Moved(Class, String),
    /// The echo of its prompt, which no caller needs.
    Echo,
    /// Its end.
    Result(Box<ResultSummary>),
    /// The end of a turn that the CLI had begun by itself.
    ForeignResult(Box<ResultSummary>),
    /// The CLI stopped working without a result.
    EndedSilently,
}

impl Running {
    /// A turn that begins now, on a process whose next request has the number `asked`.
    pub fn new(
        log: TurnLog,
        message_uuid: Option<Uuid>,
        on_disconnect: DisconnectPolicy,
        habits: &CliTraits,
        asked: u64,
        counted: TaskTrackerToken,
    ) -> Self {
        let now = Instant::now();
        let held = (message_uuid.is_some() && habits.may_begin_turns()).then(Vec::new);
        Self {
            held,
            held_bytes: 0,
            log,
            message_uuid,
            on_disconnect,
            asked,
            tool_use_seen: false,
            named: false,
            spent: Spent::default(),
            overspent: None,
            began: now,
            last_activity: now,
            first_seen: false,
            worked: false,
            idle_seen: 0,
            refusals: 0,
            tools: HashSet::new(),
            prompt_held: None,
            applied_before: None,
            unanswered: None,
            unsent: false,
            counted,
        }
    }

    /// Whether a caller asked for it, and not the CLI itself.
    pub fn is_asked_for(&self) -> bool {
        self.message_uuid.is_some()
    }

    /// Whether nobody wants it any more.
    pub fn is_abandoned(&self) -> bool {
        self.on_disconnect.abandons(&self.log)
    }

    /// Whether its first frame has come.
    pub fn first_seen(&self) -> bool {
        self.first_seen
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

    /// What a frame means.
    pub fn interpret(&mut self, frame: &Frame) -> Meaning {
        let meaning = self.meaning(&frame.kind);
        self.count_refusals(&frame.kind);
        self.first_seen |= !matches!(
            frame.kind,
            FrameKind::System
                | FrameKind::PermissionMode { .. }
                | FrameKind::State { .. }
                | FrameKind::Mirror
                | FrameKind::PromptStarted { .. }
                | FrameKind::TaskStarted { .. }
                | FrameKind::TaskEnded { .. }
                | FrameKind::User { echo_of: Some(_), .. }
                | FrameKind::Other
        );
        if self.first_seen {
            self.prompt_held = None;
        }
        meaning
    }

    fn meaning(&mut self, kind: &FrameKind) -> Meaning {
        match kind {
            FrameKind::Mirror | FrameKind::ControlReply(_) => Meaning::Hidden,
            FrameKind::State { idle: true } => self.idle(),
            FrameKind::State { idle: false } => {
                self.worked = true;
                Meaning::Event(Class::System)
            }
            FrameKind::ApiRetry { .. }
            | FrameKind::System
            | FrameKind::PermissionMode { .. }
            | FrameKind::TaskStarted { .. }
            | FrameKind::TaskEnded { .. } => Meaning::Event(Class::System),
            FrameKind::Init { cli_session_id, .. } => {
                self.worked = true;
                Meaning::Moved(Class::System, cli_session_id.clone())
            }
            FrameKind::ConversationReset { cli_session_id } => {
                Meaning::Moved(Class::Other, cli_session_id.clone())
            }
            FrameKind::Prompt(_) => Meaning::Event(Class::Prompt),
            FrameKind::Assistant { tool_calls } => {
                self.tool_use_seen |= !tool_calls.is_empty();
                let room = MOST_TOOLS.saturating_sub(self.tools.len());
                self.tools.extend(tool_calls.iter().take(room).cloned());
                Meaning::Event(Class::Assistant)
            }
            FrameKind::User { echo_of: Some(uuid), .. } if self.is_prompt(uuid) => Meaning::Echo,
            FrameKind::User { tool_results, .. } => {
                for id in tool_results {
                    self.tools.remove(id);
                }
                Meaning::Event(Class::User)
            }
            FrameKind::StreamEvent => Meaning::Event(Class::StreamEvent),
            FrameKind::Other
            | FrameKind::PromptCancelled { .. }
            | FrameKind::PromptStarted { .. } => Meaning::Event(Class::Other),
            FrameKind::Result(summary) if self.is_mine(summary) => Meaning::Result(summary.clone()),
            FrameKind::Result(summary) => self.foreign(summary),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of frames say nothing of this")]
    fn count_refusals(&mut self, kind: &FrameKind) {
        match kind {
            FrameKind::ApiRetry { status } if REFUSED.contains(status) => {
                self.refusals += 1;
            }
            FrameKind::ApiRetry { .. } | FrameKind::Assistant { .. } | FrameKind::StreamEvent => {
                self.refusals = 0;
            }
            _ => {}
        }
    }

    /// Newer versions say which prompts a result answers, and that a background task
    /// asked for it.
    fn is_mine(&self, summary: &ResultSummary) -> bool {
        let Some(uuid) = self.message_uuid else { return true };
        if summary.prompt_uuids.is_empty() {
            return !summary.background;
        }
        summary.prompt_uuids.iter().any(|answered| *answered == uuid.to_string())
    }

    fn is_prompt(&self, uuid: &str) -> bool {
        self.message_uuid.is_some_and(|prompt| prompt.to_string() == uuid)
    }

    /// What was seen so far was of another turn: this one begins only now.
    fn foreign(&mut self, summary: &ResultSummary) -> Meaning {
        self.worked = false;
        self.idle_seen = 0;
        self.first_seen = false;
        self.tools.clear();
        Meaning::ForeignResult(Box::new(summary.clone()))
    }

    /// Whether a frame shows that what was held back is of this turn. A prompt of the
    /// CLI has to be seen by somebody who can answer it, whosever it is.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most kinds of frames say nothing of this")]
    fn releases(&self, kind: &FrameKind) -> bool {
        match kind {
            FrameKind::PromptStarted { uuid } => self.is_prompt(uuid),
            FrameKind::User { echo_of: Some(uuid), .. } => self.is_prompt(uuid),
            FrameKind::Result(summary) => self.is_mine(summary),
            FrameKind::Prompt(_) => true,
            _ => false,
        }
    }

    /// Adds an event, or holds it back; what was held back goes first once it is known
    /// to be of this turn.
    pub fn record(
        &mut self,
        frame: &Frame,
        class: Option<Class>,
        events: &mut Vec<(Class, Bytes)>,
    ) {
        if self.releases(&frame.kind) || self.held_bytes > MOST_HELD {
            events.extend(self.held.take().into_iter().flatten());
            self.held_bytes = 0;
        }
        let Some(class) = class else { return };
        if self.held.is_some() {
            self.held_bytes += frame.raw.len();
        }
        self.held.as_mut().unwrap_or(events).push((class, frame.raw.clone()));
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

    fn idle(&mut self) -> Meaning {
        self.idle_seen += 1;
        if self.worked || self.idle_seen >= IDLE_GRACE {
            return Meaning::EndedSilently;
        }
        Meaning::Hidden
    }

    /// Writes events to the log.
    pub fn write(&self, events: &mut Vec<(Class, Bytes)>) {
        if !events.is_empty() {
            self.log.append(events.drain(..));
        }
    }
}
