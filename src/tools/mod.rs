//! Tools that callers serve: who offers which, and which call is open where. Knows tenants,
//! sessions and turns by their ids; nothing of gRPC, of MCP or of CLIs.
//!
//! ```text
//! rpc ──register──▶ ToolServers ◀──call── SessionTools ◀── cli (what the model calls)
//!      ◀─Message──  Backend     ──Answer─▶
//! ```
//!
//! - A [`Backend`] is one stream of one caller. It offers the tools of one server to sessions of
//!   its tenant, and is gone when it is dropped: its open calls fail at once.
//! - Several backends under one name share the calls: each goes to one that has the tool, the
//!   one with the fewest open calls.
//! - A call is open until it is answered, its time is over, or nobody waits for it: then its
//!   backend is told so, or never hears of it if it was not told of the call yet. So what waits
//!   for a backend that does not read is never more than its open calls and their ends.
//! - Nothing here waits for a backend but the call itself.

mod backend;
mod registry;
mod session;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::SystemTime};

use bytes::Bytes;
use serde_json::value::RawValue;

pub use registry::{Backend, Refused, ToolServers};
pub use session::SessionTools;

use crate::domain::ids::{SessionId, TurnId};

/// Streams of one tenant that offer tools.
pub const MAX_BACKENDS: usize = 256;
/// Different tools of one server.
pub const MAX_TOOLS: usize = 128;
/// Open calls of one backend.
pub const MAX_OPEN: usize = 64;
/// Bytes of the arguments of a call.
pub const MAX_ARGUMENTS: usize = 1 << 20;
/// Bytes of an answer. The CLI prints it twice in one frame, images as base64, and a frame may
/// have 16 MiB by default.
pub const MAX_ANSWER: usize = 4 << 20;

/// A tool, as it is shown to the model.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON schema of its arguments.
    pub input_schema: Box<RawValue>,
    /// MCP annotations.
    pub annotations: Option<Box<RawValue>>,
}

impl PartialEq for Tool {
    fn eq(&self, other: &Self) -> bool {
        let texts = |tool: &Self| {
            let annotations = tool.annotations.as_ref().map(|it| it.get().to_owned());
            (tool.input_schema.get().to_owned(), annotations)
        };
        self.name == other.name
            && self.description == other.description
            && texts(self) == texts(other)
    }
}

/// The sessions whose calls a backend takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// Those of every session of the tenant.
    All,
    /// Those of these sessions.
    Only(BTreeSet<SessionId>),
}

impl Served {
    fn has(&self, session: &SessionId) -> bool {
        match self {
            Self::All => true,
            Self::Only(sessions) => sessions.contains(session),
        }
    }
}

/// What a backend offers.
#[derive(Debug)]
pub struct Offer {
    /// The name of the server.
    pub server: String,
    /// Its tools, with different names.
    pub tools: Vec<Tool>,
    /// To whom.
    pub sessions: Served,
}

/// What a backend is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A tool is to be called.
    Call(Call),
    /// Nobody waits for the answer any more.
    Cancel {
        /// The call.
        id: u64,
        /// Why, in words.
        reason: String,
    },
}

/// A call, as its backend is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its id.
    pub id: u64,
    /// The session that calls.
    pub session: SessionId,
    /// The turn that runs.
    pub turn: Option<TurnId>,
    /// The tool.
    pub tool: String,
    /// A JSON object.
    pub arguments: String,
    /// When it fails.
    pub deadline: SystemTime,
}

/// The answer of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the model is told.
    pub content: Vec<Content>,
    /// Whether the tool failed.
    pub is_error: bool,
}

impl Answer {
    fn bytes(&self) -> usize {
        self.content.iter().map(Content::bytes).sum()
    }
}

/// A block of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Text(String),
    /// An image.
    Image {
        /// Its type.
        media_type: String,
        /// Its bytes.
        data: Bytes,
    },
}

impl Content {
    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image { data, .. } => data.len(),
        }
    }
}

/// How far a call has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// A figure that grows.
    pub progress: f64,
    /// What it grows to.
    pub total: Option<f64>,
    /// In words.
    pub message: String,
}

/// Why a call has no answer, in words that the model reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No backend offers the server to the session.
    #[error(
        "nobody serves the tool server {0:?} at the moment; go on without it, or try again later"
    )]
    NoServer(String),
    /// No backend of the server has the tool.
    #[error("nobody serves the tool {tool:?} of the tool server {server:?} at the moment")]
    NoTool {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// All backends that have the tool have as many open calls as they may.
    #[error(
        "the tool {0:?} has too many open calls ({MAX_OPEN} for each of its backends); try again \
         later"
    )]
    Busy(String),
    /// The backend is gone.
    #[error(
        "the backend of the tool {0:?} went away during the call; whether the call took effect is \
         not known"
    )]
    Gone(String),
    /// There was no answer in time.
    #[error("the tool {tool:?} did not answer within {limit:?} (policy.tool_call_timeout)")]
    TimedOut {
        /// The tool.
        tool: String,
        /// How long it had.
        limit: std::time::Duration,
    },
    /// The answer is out of its bounds.
    #[error("the answer of the tool was refused: {0}")]
    Malformed(String),
    /// The arguments are.
    #[error("the arguments of a tool must have at most {MAX_ARGUMENTS} bytes, these have {0}")]
    Arguments(usize),
    /// The tenant holds as much memory as it may.
    #[error("the service has no memory left for the call ({0}); try again later")]
    Memory(&'static str),
}
