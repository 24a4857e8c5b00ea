//! The parts of a line's JSON that [`super`] looks at, as serde reads them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ControlReply, FrameKind, Prompt, ResultSummary, TokenUsage, excerpt};

#[derive(Deserialize)]
pub(super) struct WireMessage<'a> {
    #[serde(borrow)]
    pub(super) message: WireContent<'a>,
}

#[derive(Deserialize)]
pub(super) struct WireContent<'a> {
    #[serde(borrow)]
    pub(super) content: &'a RawValue,
}

#[derive(Deserialize)]
pub(super) struct WireBlock {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) tool_use_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WireReplay {
    #[serde(rename = "isReplay", default)]
    pub(super) replay: bool,
    pub(super) uuid: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WireLifecycle {
    pub(super) command_uuid: String,
    pub(super) state: String,
}

#[derive(Deserialize)]
pub(super) struct WireTask {
    pub(super) task_id: String,
}

#[derive(Deserialize)]
pub(super) struct WireTaskUpdate {
    pub(super) task_id: String,
    pub(super) patch: WireTaskPatch,
}

#[derive(Deserialize)]
pub(super) struct WireTaskPatch {
    #[serde(default)]
    pub(super) status: String,
}

#[derive(Deserialize)]
pub(super) struct WireSession {
    pub(super) session_id: String,
}

#[derive(Deserialize)]
pub(super) struct WireState {
    pub(super) state: String,
}

#[derive(Deserialize)]
pub(super) struct WireId {
    pub(super) request_id: String,
}

#[derive(Deserialize)]
pub(super) struct WireReset {
    pub(super) new_conversation_id: String,
}

#[derive(Deserialize)]
pub(super) struct WireReply {
    pub(super) response: WireReplyBody,
}

#[derive(Deserialize)]
pub(super) struct WireReplyBody {
    pub(super) subtype: String,
    pub(super) request_id: String,
    pub(super) response: Option<Box<RawValue>>,
    pub(super) error: Option<String>,
}

impl From<WireReply> for FrameKind {
    fn from(wire: WireReply) -> Self {
        let body = wire.response;
        let outcome = if body.subtype == "success" {
            Ok(body.response.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned()))
        } else {
            Err(body.error.unwrap_or(body.subtype))
        };
        Self::ControlReply(ControlReply { request_id: body.request_id, outcome })
    }
}

#[derive(Deserialize)]
pub(super) struct WirePrompt {
    pub(super) request_id: String,
    pub(super) request: WirePromptBody,
}

#[derive(Deserialize)]
pub(super) struct WirePromptBody {
    pub(super) subtype: String,
    pub(super) input: Option<Box<RawValue>>,
}

impl From<WirePrompt> for Prompt {
    fn from(wire: WirePrompt) -> Self {
        Self {
            id: wire.request_id,
            subtype: wire.request.subtype,
            input: wire.request.input.map_or_else(String::new, |raw| raw.get().to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(super) struct WireResult {
    pub(super) is_error: bool,
    pub(super) terminal_reason: Option<String>,
    pub(super) result: Option<String>,
    pub(super) errors: Vec<String>,
    pub(super) total_cost_usd: f64,
    pub(super) usage: Option<TokenUsage>,
    pub(super) user_message_uuid: Option<String>,
    pub(super) user_message_uuids: Vec<String>,
    pub(super) origin: Option<WireOrigin>,
    pub(super) session_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WireOrigin {
    pub(super) kind: Option<String>,
}

impl From<WireResult> for ResultSummary {
    fn from(wire: WireResult) -> Self {
        let mut prompt_uuids = wire.user_message_uuids;
        prompt_uuids.extend(wire.user_message_uuid);
        let text = wire.result.unwrap_or_else(|| wire.errors.join("; "));
        Self {
            is_error: wire.is_error,
            terminal_reason: wire.terminal_reason.unwrap_or_default(),
            text: excerpt(&text, 300),
            total_cost_usd: wire.total_cost_usd,
            usage: wire.usage.unwrap_or_default(),
            prompt_uuids,
            background: wire
                .origin
                .and_then(|origin| origin.kind)
                .is_some_and(|kind| kind == "task-notification"),
            cli_session_id: wire.session_id.unwrap_or_default(),
        }
    }
}
