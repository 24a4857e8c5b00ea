//! One thing that happened in a turn, and whether a listener sees it. Knows ids and raw frames.

use std::{sync::Arc, time::Duration, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::domain::{
    ids::{CliSessionId, ClientId, SessionId, TurnId},
    notice::{EgressRefused, RateLimited},
};

/// How a turn came by its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessOrigin {
    /// A new session on a process started for it.
    Created,
    /// A new session on a process that was kept ready.
    CreatedFromSpare,
    /// The session's own process, from an earlier turn.
    Reused,
    /// A new process that took up the session's conversation.
    Resumed,
}

impl ProcessOrigin {
    /// As figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::CreatedFromSpare => "created_from_spare",
            Self::Reused => "reused",
            Self::Resumed => "resumed",
        }
    }
}

/// The turn has its process, which has begun with it. Always event 1.
#[derive(Debug, Clone)]
pub struct Started {
    /// The session.
    pub session_id: SessionId,
    /// The turn.
    pub turn_id: TurnId,
    /// The process.
    pub client_id: ClientId,
    /// The conversation.
    pub cli_session_id: CliSessionId,
    /// How it came by its process.
    pub origin: ProcessOrigin,
    /// From the request until its turn came.
    pub queued_for: Duration,
    /// From then until the process was ready.
    pub connect_time: Duration,
    /// When it started, by the wall clock.
    pub start_time: SystemTime,
    /// Whether the CLI began it by itself.
    pub background: bool,
}

/// What kind of frame an event shows. It is kept beside the line, so that a reader
/// need not look into the line to know how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A `system` frame.
    System,
    /// An `assistant` frame.
    Assistant,
    /// A `user` frame.
    User,
    /// A `stream_event` frame.
    StreamEvent,
    /// A `control_request` of the CLI, as [`prompt_event`] makes it.
    Prompt,
    /// A `result` frame of a turn that ran to its end.
    Result,
    /// A `result` frame of a turn that something stopped.
    InterruptedResult,
    /// Any other.
    Other,
    /// A `result` frame of a turn that went well, but for the structured output that its
    /// session's schema asks for.
    UnstructuredResult,
    /// A prompt does not wait any more: no frame, but a [`PromptResolved`].
    PromptResolved,
    /// What became of a message for the turn that ran: no frame, but a [`Steered`].
    Steered,
    /// A limit holds requests back: no frame, but a [`RateLimited`].
    RateLimited,
    /// The session was kept from a host: no frame, but an [`EgressRefused`].
    EgressRefused,
}

impl Class {
    /// Whether only listeners that ask for partial messages see it.
    pub fn is_partial(self) -> bool {
        self == Self::StreamEvent
    }
}

/// Whether a listener sees partial messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partials {
    /// It sees whole messages only.
    #[default]
    Hidden,
    /// It sees them too.
    Shown,
}

impl Partials {
    /// Whether it sees events of a class.
    pub fn shows(self, class: Class) -> bool {
        self == Self::Shown || !class.is_partial()
    }
}

/// A prompt of the CLI does not wait for an answer any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptResolved {
    /// The prompt's id.
    pub prompt_id: String,
    /// By whom.
    pub by: Resolver,
    /// What the CLI was answered; `None` if nothing.
    pub resolution: Option<Resolution>,
    /// What the model was told of a refusal.
    pub message: String,
}

/// By whom a prompt was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolver {
    /// A caller answered it.
    Caller,
    /// Nobody did in time.
    Timeout,
    /// Its turn was stopped.
    TurnEnded,
    /// The CLI took it back.
    Cli,
}

impl Resolver {
    /// In a word, for figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Timeout => "timeout",
            Self::TurnEnded => "turn_ended",
            Self::Cli => "cli",
        }
    }
}

/// What was answered to a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// The tool may run.
    Allowed,
    /// It may not.
    Denied,
    /// The answer to what was asked.
    Answered,
}

/// What became of a message that was handed to the turn that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    /// The message's id.
    pub message_uuid: String,
    /// What became of it.
    pub state: SteerState,
}

/// What became of a message that was handed to the turn that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SteerState {
    /// The turn has taken it up.
    Taken,
    /// The turn ended first, and this one is the message's.
    BecameTurn,
}

/// What the service itself tells in a turn, which is no frame of the CLI.
pub trait Told: Serialize + DeserializeOwned {
    /// What it is as an event.
    const CLASS: Class;

    /// The event.
    fn event(&self) -> (Class, Bytes) {
        // Nothing in it fails to be written.
        (Self::CLASS, serde_json::to_vec(self).unwrap_or_default().into())
    }

    /// Reads the bytes of [`Self::event`].
    fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Told for PromptResolved {
    const CLASS: Class = Class::PromptResolved;
}

impl Told for Steered {
    const CLASS: Class = Class::Steered;
}

impl Told for RateLimited {
    const CLASS: Class = Class::RateLimited;
}

impl Told for EgressRefused {
    const CLASS: Class = Class::EgressRefused;
}

/// Bytes before the line of a prompt.
const EXPIRY: usize = size_of::<u64>();

/// A [`Class::Prompt`]: the CLI's line, behind the time at which the prompt is refused, in
/// milliseconds since 1970; 0 is never.
pub fn prompt_event(expires: Option<SystemTime>, line: &[u8]) -> Bytes {
    let since_1970 = expires.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let millis = since_1970.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    [&millis.to_be_bytes()[..], line].concat().into()
}

/// What [`prompt_event`] was made of.
pub fn prompt_of(event: &[u8]) -> (Option<SystemTime>, &[u8]) {
    let Some((millis, line)) = event.split_first_chunk::<EXPIRY>() else { return (None, event) };
    let millis = Some(u64::from_be_bytes(*millis)).filter(|millis| *millis > 0);
    let time =
        millis.and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
    (time, line)
}

/// One thing that happened in a turn.
#[derive(Debug, Clone)]
pub enum Event {
    /// The turn has its process.
    Started(Arc<Started>),
    /// The CLI printed this line.
    Frame(Class, Bytes),
}

impl Event {
    /// Bytes of the line.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Started(_) => 0,
            Self::Frame(_, line) => line.len(),
        }
    }
}
