//! What the pool itself has to know of a frame: whose answer it is, whether a
//! tool runs, whether the turn ended. Everything else stays in the raw line,
//! which [`super::message`] can read in full. Knows nothing of turns.
//!
//! The order of keys is not fixed (in 2.1.330 a result's `type` is not its first),
//! so a line is parsed, never matched by its beginning. Its `type` and `subtype` alone say
//! what it is; every other value is read leniently, and one that is not as it should be
//! takes nothing from the rest. Lines of the two frequent types are scanned once and
//! nothing in them is allocated.

mod parts;
mod wire;

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::{self, Finder};

use super::{hooks::Called, message::name_of, questions};
pub use parts::{ControlReply, ModelUse, ModelsTold, ResultSummary, TaskInfo, ToolTexts};
use wire::Names;

/// How often a frame is looked for in a line that is none as a whole.
const MOST_LOOKS: usize = 16;

/// One line of the CLI, and what it is.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The line, which is valid UTF-8 and a JSON object.
    pub raw: Bytes,
    /// What it is.
    pub kind: FrameKind,
    /// Whether it is of a subagent (`parent_tool_use_id`), and not of the conversation itself.
    pub of_subagent: bool,
}

/// What a line is, as far as the pool acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameKind {
    /// The answer to a control request of ours.
    ControlReply(ControlReply),
    /// The CLI asks something and waits.
    Prompt(Prompt),
    /// The CLI waits for that answer no longer.
    PromptCancelled {
        /// The request's id.
        id: String,
    },
    /// `system` / `init`, printed at the start of every turn.
    Init {
        /// The conversation's id.
        cli_session_id: String,
        /// The permission mode of the turn; empty if it is not told.
        permission_mode: String,
        /// The model of the turn, likewise.
        model: String,
    },
    /// `system` / `status` with a permission mode: it is another from here on.
    PermissionMode {
        /// The mode.
        mode: String,
    },
    /// `system` / `session_state_changed`: the CLI started to work or stopped.
    State {
        /// True for `idle`.
        idle: bool,
    },
    /// `system` / `task_started`: a background task or a subagent runs.
    TaskStarted(Box<TaskInfo>),
    /// `system` / `task_updated` with a final status, and `task_notification`: it ended,
    /// which may begin a turn.
    TaskEnded {
        /// The task.
        id: String,
        /// Whether it was stopped before it was done.
        stopped: bool,
    },
    /// `system` / `task_progress`: it works.
    TaskProgress,
    /// `system` / `background_tasks_changed`: all tasks that no turn waits for (not in older
    /// versions).
    TasksListed(Vec<TaskInfo>),
    /// `command_lifecycle` / `started`: a prompt is taken up (not in older versions).
    PromptStarted {
        /// The prompt's id.
        uuid: String,
    },
    /// `system` / `api_retry`: activity, although the model says nothing.
    ApiRetry {
        /// The HTTP status of the API's answer; 0 when there was none.
        status: u32,
    },
    /// `conversation_reset`, or another frame that moves to another conversation.
    ConversationReset {
        /// The new conversation's id.
        cli_session_id: String,
    },
    /// Another `system` frame.
    System,
    /// A message of the model.
    Assistant {
        /// Ids of the tool calls in it.
        tool_calls: Vec<String>,
    },
    /// A message in the user's role.
    User {
        /// Ids of the tool calls that it answers.
        tool_results: Vec<String>,
        /// The id of the prompt that it echoes, because the CLI has taken it up.
        echo_of: Option<String>,
    },
    /// A piece of a message.
    StreamEvent,
    /// The end of a turn.
    Result(Box<ResultSummary>),
    /// Transcript entries, mirrored for the store.
    Mirror,
    /// Any other type.
    Other,
}

/// The CLI asks something and waits for a control response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The request's id, as callers name it; empty when there is none, and no answer.
    pub id: String,
    /// The same as JSON, to be named in the answer.
    pub raw_id: String,
    /// `can_use_tool`, `hook_callback`, …
    pub subtype: String,
    /// The tool's name; empty when it is about none.
    pub tool_name: String,
    /// The tool's input as JSON; empty when there is none. The CLI wants it back. Of a hook that
    /// is about no tool: what the CLI tells of the call.
    pub input: String,
    /// The callback that a hook was registered by; empty when it is no call of one.
    pub callback: String,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// `can_use_tool`: may a tool run?
    ToolPermission,
    /// The same of the tool by which the model asks the user.
    Question,
    /// `elicitation`: an MCP server wants to know something of the user.
    Elicitation,
    /// `request_user_dialog`: a dialog of the CLI's own.
    Dialog,
    /// `hook_callback`: a hook that was registered with `initialize` is to run.
    Hook,
    /// `mcp_message`: a message to an MCP server that was registered with `initialize`.
    Mcp,
    /// Any other.
    Unknown,
}

impl RequestKind {
    /// The kind that a request of this subtype is of, which may be about a tool.
    pub fn of(subtype: &str, tool_name: &str) -> Self {
        match subtype {
            "can_use_tool" if tool_name == questions::TOOL => Self::Question,
            "can_use_tool" => Self::ToolPermission,
            "elicitation" => Self::Elicitation,
            "request_user_dialog" => Self::Dialog,
            "hook_callback" => Self::Hook,
            "mcp_message" => Self::Mcp,
            _ => Self::Unknown,
        }
    }
}

/// What a frame says of the CLI's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'f> {
    /// The CLI asks something and waits.
    Made(&'f Prompt),
    /// It waits for the answer to the request of this id no longer.
    Withdrawn(&'f str),
}

impl Prompt {
    /// What it is about.
    pub fn kind(&self) -> RequestKind {
        RequestKind::of(&self.subtype, &self.tool_name)
    }

    /// The hook that is called; `None` if it is no call of one.
    pub fn hook(&self) -> Option<Called<'_>> {
        (self.kind() == RequestKind::Hook).then(|| Called::by(&self.callback)).flatten()
    }
}

/// A line is not a JSON object. What it is instead may be somebody's words: not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line that is not a JSON object")]
pub struct NotAFrame;

impl Frame {
    /// Finds out what a line is.
    pub fn parse(raw: Bytes) -> Result<Self, NotAFrame> {
        let Ok(text) = std::str::from_utf8(&raw) else {
            // What is no UTF-8 is a byte or two within a text: no reason to lose the frame. Only
            // here: the lenient decoder took a twentieth of the service's CPU time in a profile.
            let mended = String::from_utf8_lossy(&raw).into_owned();
            return Self::parse(Bytes::from(mended));
        };
        if let Some((kind, of_subagent)) = classify(text) {
            return Ok(Self { raw, kind, of_subagent });
        }
        match behind_rubbish(text) {
            Some((from, kind, of_subagent)) => {
                Ok(Self { raw: raw.slice(from..), kind, of_subagent })
            }
            None => Err(NotAFrame),
        }
    }

    /// What it says of the CLI's requests, if it is about one.
    pub fn ask(&self) -> Option<Ask<'_>> {
        match &self.kind {
            FrameKind::Prompt(prompt) => Some(Ask::Made(prompt)),
            FrameKind::PromptCancelled { id } => Some(Ask::Withdrawn(id)),
            _ => None,
        }
    }

    /// The line as text.
    pub fn text(&self) -> &str {
        // `parse` has checked it; an empty text would be a bug, not a danger.
        std::str::from_utf8(&self.raw).unwrap_or_default()
    }
}

/// The first `limit` characters of a text.
pub fn excerpt(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A frame that stands behind something else on its line: what wrote there had no line
/// end. Only what is surely a frame is taken for one.
fn behind_rubbish(line: &str) -> Option<(usize, FrameKind, bool)> {
    memmem::find_iter(line.as_bytes(), b"{\"")
        .filter(|from| *from > 0)
        .take(MOST_LOOKS)
        .filter_map(|from| classify(&line[from..]).map(|(kind, parent)| (from, kind, parent)))
        .find(|(_, kind, _)| *kind != FrameKind::Other)
}

/// What a line is, and whether it is of a subagent; `None` when it is not a JSON object. Only
/// what is asked of the CLI's state is looked for in the frequent types.
fn classify(line: &str) -> Option<(FrameKind, bool)> {
    let wire::Head { kind, subtype, has_parent } = wire::head(line)?;
    let names = || Names::parse(line).unwrap_or_default();
    let kind = match &*kind.0 {
        "assistant" => {
            static TOOL_USE: LazyLock<Finder> = LazyLock::new(|| Finder::new("\"tool_use\""));
            FrameKind::Assistant { tool_calls: block_ids(line, "tool_use", &TOOL_USE) }
        }
        "stream_event" => FrameKind::StreamEvent,
        "user" => user(line),
        "system" => system(&subtype.0, names),
        "result" => FrameKind::Result(Box::new(wire::result(line))),
        "control_response" => FrameKind::ControlReply(wire::reply(line)),
        "control_request" => FrameKind::Prompt(wire::prompt(line)),
        "control_cancel_request" => {
            FrameKind::PromptCancelled { id: names().request_id.map(name_of).unwrap_or_default() }
        }
        "transcript_mirror" => FrameKind::Mirror,
        "command_lifecycle" => match names() {
            names if &*names.state.0 == "started" => {
                FrameKind::PromptStarted { uuid: names.command_uuid.into_string() }
            }
            _ => FrameKind::Other,
        },
        "conversation_reset" => FrameKind::ConversationReset {
            cli_session_id: names().new_conversation_id.into_string(),
        },
        _ => FrameKind::Other,
    };
    Some((kind, has_parent))
}

fn system<'a>(subtype: &str, names: impl FnOnce() -> Names<'a>) -> FrameKind {
    match subtype {
        "init" => {
            let Names { session_id, permission_mode, model, .. } = names();
            FrameKind::Init {
                cli_session_id: session_id.into_string(),
                permission_mode: permission_mode.into_string(),
                model: model.into_string(),
            }
        }
        "status" => match names().permission_mode.into_string() {
            mode if mode.is_empty() => FrameKind::System,
            mode => FrameKind::PermissionMode { mode },
        },
        "session_state_changed" => match &*names().state.0 {
            // It says nothing.
            "" => FrameKind::System,
            state => FrameKind::State { idle: state == "idle" },
        },
        "api_retry" => FrameKind::ApiRetry { status: names().error_status },
        "task_started" => FrameKind::TaskStarted(Box::new(begun(names()))),
        "task_progress" => FrameKind::TaskProgress,
        "task_notification" => {
            let Names { task_id, status, .. } = names();
            FrameKind::TaskEnded { id: task_id.into_string(), stopped: is_stopped(&status.0) }
        }
        "background_tasks_changed" => FrameKind::TasksListed(
            names()
                .tasks
                .into_iter()
                .map(|task| TaskInfo {
                    id: task.task_id.into_string(),
                    kind: task.task_type.into_string(),
                    description: task.description.into_string(),
                    call: String::new(),
                    parent: task.parent_task_id.into_string(),
                    foreground: false,
                })
                .collect(),
        ),
        // Comes just before the notification; tasks that are stopped may have only this.
        "task_updated" => match names() {
            Names { patch, task_id, .. }
                if matches!(
                    &*patch.status.0,
                    "completed" | "failed" | "killed" | "stopped" | "cancelled"
                ) =>
            {
                let stopped = is_stopped(&patch.status.0);
                FrameKind::TaskEnded { id: task_id.into_string(), stopped }
            }
            _ => FrameKind::System,
        },
        _ => FrameKind::System,
    }
}

/// The task that has begun.
fn begun(names: Names<'_>) -> TaskInfo {
    TaskInfo {
        id: names.task_id.into_string(),
        kind: names.task_type.into_string(),
        description: names.description.into_string(),
        call: names.tool_use_id.into_string(),
        parent: names.parent_task_id.into_string(),
        foreground: names.is_backgrounded == Some(false),
    }
}

/// Whether a task with this final status was stopped before it was done.
fn is_stopped(status: &str) -> bool {
    matches!(status, "killed" | "stopped" | "cancelled")
}

/// The tool calls and results of an `assistant` or `user` frame.
pub fn tool_texts(line: &str) -> Vec<ToolTexts> {
    Names::parse(line).map_or_else(Vec::new, |names| wire::tool_texts(&names.message))
}

fn user(line: &str) -> FrameKind {
    static IS_REPLAY: LazyLock<Finder> = LazyLock::new(|| Finder::new("\"isReplay\""));
    static TOOL_RESULT: LazyLock<Finder> = LazyLock::new(|| Finder::new("\"tool_result\""));
    let echo_of = IS_REPLAY
        .find(line.as_bytes())
        .and_then(|_| Names::parse(line))
        .filter(|names| names.replay && !names.uuid.0.is_empty())
        .map(|names| names.uuid.into_string());
    FrameKind::User { tool_results: block_ids(line, "tool_result", &TOOL_RESULT), echo_of }
}

/// The ids of the blocks of this type in a message. The type is searched for in quotes: without them
/// `tool_use` is a part of the name `parent_tool_use_id`, which every frame has.
fn block_ids(line: &str, kind: &str, quoted: &Finder<'_>) -> Vec<String> {
    // Most messages have none: one fast search spares the second parse.
    if quoted.find(line.as_bytes()).is_none() {
        return Vec::new();
    }
    Names::parse(line).map_or_else(Vec::new, |names| wire::block_ids(&names.message, kind))
}

#[cfg(test)]
mod tests;
