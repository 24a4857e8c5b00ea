//! One thing that happened in a turn, and whether a listener sees it. Knows ids and raw frames.

use std::{sync::Arc, time::Duration, time::SystemTime};

use bytes::Bytes;

use crate::domain::ids::{CliSessionId, ClientId, SessionId, TurnId};

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
    /// A `control_request` of the CLI.
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
