//! What the pool itself has to know of a frame: whose answer it is, whether a
//! tool runs, whether the turn ended. Everything else stays in the raw line,
//! which [`super::message`] can read in full. Knows nothing of turns.
//!
//! The order of keys is not fixed (in 2.1.330 a result's `type` is not its first),
//! so a line is parsed, never matched by its beginning. Lines of the two frequent
//! types are scanned once and nothing in them is allocated.

mod wire;

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use wire::{
    WireBlock, WireId, WireLifecycle, WireMessage, WirePrompt, WireReplay, WireReply, WireReset,
    WireResult, WireSession, WireState, WireTask, WireTaskUpdate,
};

/// One line of the CLI, and what it is.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The line, which is valid UTF-8 and a JSON object.
    pub raw: Bytes,
    /// What it is.
    pub kind: FrameKind,
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
    },
    /// `system` / `session_state_changed`: the CLI started to work or stopped.
    State {
        /// True for `idle`.
        idle: bool,
    },
    /// `system` / `task_started`: a background task or a subagent runs.
    TaskStarted {
        /// The task.
        id: String,
    },
    /// `system` / `task_updated` with a final status, and `task_notification`: it ended,
    /// which may begin a turn.
    TaskEnded {
        /// The task.
        id: String,
    },
    /// `command_lifecycle` / `started`: a prompt is taken up (not in older versions).
    PromptStarted {
        /// The prompt's id.
        uuid: String,
    },
    /// `system` / `api_retry`: activity, although the model says nothing.
    ApiRetry,
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

/// The answer to a control request of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlReply {
    /// The request's id.
    pub request_id: String,
    /// What was answered: the payload as JSON (`null` without one), or the error.
    pub outcome: Result<String, String>,
}

/// The CLI asks something and waits for a control response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The request's id, to be named in the answer.
    pub id: String,
    /// `can_use_tool`, `hook_callback`, …
    pub subtype: String,
    /// The tool's input as JSON; empty when there is none. The CLI wants it back.
    pub input: String,
}

/// The figures of a `result`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResultSummary {
    /// Whether the turn failed.
    pub is_error: bool,
    /// Why it ended, for example `aborted_tools`.
    pub terminal_reason: String,
    /// The error or the answer in words, cut to 300 characters.
    pub text: String,
    /// Cost in US dollars, summed over the life of the process.
    pub total_cost_usd: f64,
    /// Tokens of the turn.
    pub usage: TokenUsage,
    /// Ids of the prompts that it answers, from versions that say so.
    pub prompt_uuids: Vec<String>,
    /// Whether it ends a turn that a background task began (`origin.kind`).
    pub background: bool,
    /// The conversation's id.
    pub cli_session_id: String,
}

/// Tokens, as the API counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenUsage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens written to the prompt cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
}

impl TokenUsage {
    /// Takes over what another count of the same turns has more of.
    pub fn raise(&mut self, other: &Self) {
        self.input_tokens = self.input_tokens.max(other.input_tokens);
        self.output_tokens = self.output_tokens.max(other.output_tokens);
        self.cache_creation_input_tokens =
            self.cache_creation_input_tokens.max(other.cache_creation_input_tokens);
        self.cache_read_input_tokens =
            self.cache_read_input_tokens.max(other.cache_read_input_tokens);
    }

    /// Adds what another turn used, as far as a number goes.
    pub fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        add(&mut self.input_tokens, other.input_tokens);
        add(&mut self.output_tokens, other.output_tokens);
        add(&mut self.cache_creation_input_tokens, other.cache_creation_input_tokens);
        add(&mut self.cache_read_input_tokens, other.cache_read_input_tokens);
    }
}

/// A line is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a line that is not a JSON object: {excerpt:?}")]
pub struct NotAFrame {
    /// The line's first characters.
    pub excerpt: String,
}

impl Frame {
    /// Finds out what a line is.
    pub fn parse(raw: Bytes) -> Result<Self, NotAFrame> {
        let kind = std::str::from_utf8(&raw).ok().and_then(classify);
        match kind {
            Some(kind) => Ok(Self { raw, kind }),
            None => Err(NotAFrame { excerpt: excerpt(&String::from_utf8_lossy(&raw), 120) }),
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

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    subtype: Cow<'a, str>,
}

/// `None` when the line is not a JSON object. A frame of a known type that is not
/// of the expected shape is `Other`: it is passed on, not acted upon.
fn classify(line: &str) -> Option<FrameKind> {
    // A list of the right length would pass for a struct.
    if !line.trim_start().starts_with('{') {
        return None;
    }
    let head: Head<'_> = match serde_json::from_str(line) {
        Ok(head) => head,
        // Valid JSON with a `type` that is not a string?
        Err(error) if error.is_data() => return Some(FrameKind::Other),
        Err(_) => return None,
    };
    Some(match &*head.kind {
        "assistant" => FrameKind::Assistant { tool_calls: block_ids(line, "tool_use") },
        "stream_event" => FrameKind::StreamEvent,
        "user" => user(line),
        "system" => system(line, &head.subtype),
        "result" => shaped(line, |result: WireResult| FrameKind::Result(Box::new(result.into()))),
        "control_response" => shaped(line, |wire: WireReply| wire.into()),
        "control_request" => shaped(line, |wire: WirePrompt| FrameKind::Prompt(wire.into())),
        "control_cancel_request" => {
            shaped(line, |wire: WireId| FrameKind::PromptCancelled { id: wire.request_id })
        }
        "transcript_mirror" => FrameKind::Mirror,
        "command_lifecycle" => shaped(line, |wire: WireLifecycle| match wire.state.as_str() {
            "started" => FrameKind::PromptStarted { uuid: wire.command_uuid },
            _ => FrameKind::Other,
        }),
        "conversation_reset" => shaped(line, |wire: WireReset| FrameKind::ConversationReset {
            cli_session_id: wire.new_conversation_id,
        }),
        _ => FrameKind::Other,
    })
}

fn shaped<'a, T: Deserialize<'a>>(line: &'a str, make: impl FnOnce(T) -> FrameKind) -> FrameKind {
    serde_json::from_str(line).map_or(FrameKind::Other, make)
}

fn system(line: &str, subtype: &str) -> FrameKind {
    match subtype {
        "init" => {
            shaped(line, |wire: WireSession| FrameKind::Init { cli_session_id: wire.session_id })
        }
        "session_state_changed" => {
            shaped(line, |wire: WireState| FrameKind::State { idle: wire.state == "idle" })
        }
        "api_retry" => FrameKind::ApiRetry,
        "task_started" => {
            shaped(line, |wire: WireTask| FrameKind::TaskStarted { id: wire.task_id })
        }
        "task_notification" => {
            shaped(line, |wire: WireTask| FrameKind::TaskEnded { id: wire.task_id })
        }
        // Comes just before the notification; tasks that are stopped may have only this.
        "task_updated" => shaped(line, |wire: WireTaskUpdate| match wire.patch.status.as_str() {
            "completed" | "failed" | "killed" | "stopped" | "cancelled" => {
                FrameKind::TaskEnded { id: wire.task_id }
            }
            _ => FrameKind::System,
        }),
        _ => FrameKind::System,
    }
}

fn user(line: &str) -> FrameKind {
    let echo_of = memmem::find(line.as_bytes(), b"\"isReplay\"")
        .and_then(|_| serde_json::from_str::<WireReplay>(line).ok())
        .filter(|wire| wire.replay)
        .and_then(|wire| wire.uuid);
    FrameKind::User { tool_results: block_ids(line, "tool_result"), echo_of }
}

/// The ids of the blocks of type `wanted` in a message.
fn block_ids(line: &str, wanted: &str) -> Vec<String> {
    // Most messages have none: one fast search spares the second parse.
    if memmem::find(line.as_bytes(), wanted.as_bytes()).is_none() {
        return Vec::new();
    }
    let Ok(wire) = serde_json::from_str::<WireMessage<'_>>(line) else { return Vec::new() };
    let blocks: Vec<WireBlock> =
        serde_json::from_str(wire.message.content.get()).unwrap_or_default();
    blocks
        .into_iter()
        .filter(|block| block.kind == wanted)
        .filter_map(|block| block.id.or(block.tool_use_id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> FrameKind {
        Frame::parse(Bytes::copy_from_slice(line.as_bytes())).expect("a frame").kind
    }

    #[test]
    fn the_type_need_not_come_first() {
        let line = r#"{"duration_ms":3,"is_error":true,"result":"no","usage":{"input_tokens":4},"user_message_uuids":["u"],"session_id":"s","total_cost_usd":0.5,"type":"result"}"#;
        let FrameKind::Result(result) = kind(line) else { panic!("not a result") };
        assert!(result.is_error);
        assert_eq!(result.text, "no");
        assert_eq!(result.usage.input_tokens, 4);
        assert_eq!(result.prompt_uuids, ["u"]);
        assert_eq!(result.total_cost_usd, 0.5);
    }

    #[test]
    fn tool_calls_and_their_results_are_named() {
        assert_eq!(
            kind(
                r#"{"type":"assistant","message":{"content":[{"type":"text","text":"tool_use"},{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}}"#
            ),
            FrameKind::Assistant { tool_calls: vec!["t1".into()] }
        );
        assert_eq!(
            kind(
                r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}"#
            ),
            FrameKind::User { tool_results: vec!["t1".into()], echo_of: None }
        );
        assert_eq!(
            kind(r#"{"type":"user","isReplay":true,"uuid":"u","message":{"content":"hi"}}"#),
            FrameKind::User { tool_results: vec![], echo_of: Some("u".into()) }
        );
    }

    #[test]
    fn control_replies_say_success_or_error() {
        assert_eq!(
            kind(
                r#"{"type":"control_response","response":{"subtype":"success","request_id":"r","response":{"a":1}}}"#
            ),
            FrameKind::ControlReply(ControlReply {
                request_id: "r".into(),
                outcome: Ok(r#"{"a":1}"#.into())
            })
        );
        assert_eq!(
            kind(
                r#"{"type":"control_response","response":{"subtype":"error","request_id":"r","error":"no"}}"#
            ),
            FrameKind::ControlReply(ControlReply {
                request_id: "r".into(),
                outcome: Err("no".into())
            })
        );
    }

    #[test]
    fn an_object_of_an_unexpected_shape_is_passed_on() {
        for line in [
            "{}",
            r#"{"type":5}"#,
            r#"{"type":"news"}"#,
            r#"{"type":"control_request"}"#,
            r#"{"type":"result","is_error":"yes"}"#,
        ] {
            assert_eq!(kind(line), FrameKind::Other, "{line}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_not_a_frame() {
        for line in [
            "42",
            "\"text\"",
            "[1]",
            "[]",
            "[\"assistant\",\"\"]",
            "{\"a\":",
            "Error: no",
            "null",
            "{\"a\":1} x",
        ] {
            let parsed = Frame::parse(Bytes::copy_from_slice(line.as_bytes()));
            assert!(parsed.is_err(), "{line}: {parsed:?}");
        }
        assert!(Frame::parse(Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
    }
}
