//! Reads a frame in full, borrowing from its line, for those who show it to
//! callers. Knows nothing of who they are.
//!
//! Every type keeps the keys that it has no field for, and the values that cannot be read
//! as what its fields say, as JSON text in `extra`: nothing that a CLI says is lost, and
//! nothing that it says oddly hides the rest.

mod block;

pub use block::{Block, Content, ToolResultBlock};

use serde_json::value::RawValue;

pub use super::json::{Json, Text};
use super::json::{Lenient as _, members, object, read_or_default, view};
use crate::domain::usage::TokenUsage;

/// A name, which may have been written as a number.
pub fn name_of(raw: &RawValue) -> String {
    Text::read(raw).value().map_or_else(|| raw.get().to_owned(), Text::into_string)
}

view! {
    /// Any frame.
    Head {
        /// What it is.
        "type" => kind: Text<'a>,
    }
}

object! {
    /// A `system` frame; the fields after `subtype` are those of `init` and `api_retry`.
    System {
        /// Always `system`.
        "type" => _kind: Text<'a>,
        /// `init`, `status`, …
        "subtype" => subtype: Text<'a>,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame.
        "uuid" => uuid: Text<'a>,
    }
}

object! {
    /// The keys of a `system` frame of subtype `init`, read from [`System::extra`].
    Init {
        /// Working folder.
        "cwd" => cwd: Text<'a>,
        /// Model in use.
        "model" => model: Text<'a>,
        /// Permission mode in use.
        "permissionMode" => permission_mode: Text<'a>,
        /// Tools by name.
        "tools" => tools: Vec<Text<'a>>,
        /// MCP servers.
        "mcp_servers" => mcp_servers: Vec<McpServer<'a>>,
        /// Slash commands by name.
        "slash_commands" => slash_commands: Vec<Text<'a>>,
        /// Where the API key came from.
        "apiKeySource" => api_key_source: Text<'a>,
        /// The CLI's version.
        "claude_code_version" => claude_code_version: Text<'a>,
        /// Output style.
        "output_style" => output_style: Text<'a>,
        /// Subagents by name.
        "agents" => agents: Vec<Text<'a>>,
        /// Skills by name.
        "skills" => skills: Vec<Text<'a>>,
    }
}

object! {
    /// An MCP server in [`Init`].
    McpServer {
        /// Its name.
        "name" => name: Text<'a>,
        /// Its state.
        "status" => status: Text<'a>,
    }
}

object! {
    /// The keys of a `system` frame of subtype `api_retry`.
    ApiRetry {
        /// The coming attempt.
        "attempt" => attempt: u32,
        /// The most there will be.
        "max_retries" => max_retries: u32,
        /// The wait before it, in milliseconds.
        "retry_delay_ms" => retry_delay_ms: f64,
        /// HTTP status; 0 when there was no answer.
        "error_status" => error_status: u32,
        /// The kind of failure.
        "error" => error: Text<'a>,
    }
}

object! {
    /// An `assistant` frame.
    Assistant {
        /// Always `assistant`.
        "type" => _kind: Text<'a>,
        /// The API's message.
        "message" => message: ApiMessage<'a>,
        /// The subagent's tool call.
        "parent_tool_use_id" => parent_tool_use_id: Text<'a>,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame.
        "uuid" => uuid: Text<'a>,
        /// The API's request.
        "request_id" => request_id: Text<'a>,
        /// Set when this stands for an API failure.
        "error" => error: Text<'a>,
    }
}

object! {
    /// The message inside an `assistant` frame.
    ApiMessage {
        /// Its id.
        "id" => id: Text<'a>,
        /// The model.
        "model" => model: Text<'a>,
        /// Its blocks.
        "content" => content: Content<'a>,
        /// Why the model stopped.
        "stop_reason" => stop_reason: Text<'a>,
        /// Tokens used.
        "usage" => usage: Usage<'a>,
    }
}

object! {
    /// A `user` frame.
    User {
        /// Always `user`.
        "type" => _kind: Text<'a>,
        /// The message.
        "message" => message: UserContent<'a>,
        /// The subagent's tool call.
        "parent_tool_use_id" => parent_tool_use_id: Text<'a>,
        /// The tool's structured result.
        "tool_use_result" => tool_use_result: Json<'a>,
        /// True for the echo of a prompt.
        "isReplay" => is_replay: bool,
        /// True for what the CLI made up.
        "isSynthetic" => is_synthetic: bool,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame.
        "uuid" => uuid: Text<'a>,
    }
}

object! {
    /// The message inside a `user` frame.
    UserContent {
        /// Always `user`.
        "role" => _role: Text<'a>,
        /// Its blocks.
        "content" => content: Content<'a>,
    }
}

object! {
    /// Tokens.
    Usage {
        /// Read.
        "input_tokens" => input_tokens: u64,
        /// Written.
        "output_tokens" => output_tokens: u64,
        /// Written to the cache.
        "cache_creation_input_tokens" => cache_creation_input_tokens: u64,
        /// Read from the cache.
        "cache_read_input_tokens" => cache_read_input_tokens: u64,
    }
}

object! {
    /// A `stream_event` frame.
    StreamEvent {
        /// Always `stream_event`.
        "type" => _kind: Text<'a>,
        /// The API's event.
        "event" => event: Json<'a>,
        /// The subagent's tool call.
        "parent_tool_use_id" => parent_tool_use_id: Text<'a>,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame.
        "uuid" => uuid: Text<'a>,
    }
}

object! {
    /// The API's event inside a `stream_event`.
    ApiEvent {
        /// Its type.
        "type" => kind: Text<'a>,
        /// The content block's index.
        "index" => index: Option<u32>,
        /// What is added.
        "delta" => delta: Option<Delta<'a>>,
    }
}

object! {
    /// What a `content_block_delta` adds.
    Delta {
        /// `text_delta`, …
        "type" => kind: Text<'a>,
        /// Of a `text_delta`.
        "text" => text: Option<Text<'a>>,
        /// Of a `thinking_delta`.
        "thinking" => thinking: Option<Text<'a>>,
        /// Of an `input_json_delta`.
        "partial_json" => partial_json: Option<Text<'a>>,
    }
}

object! {
    /// A `result` frame.
    TurnResult {
        /// Always `result`.
        "type" => _kind: Text<'a>,
        /// `success`, …
        "subtype" => subtype: Text<'a>,
        /// Whether the turn failed.
        "is_error" => is_error: Option<bool>,
        /// The last words.
        "result" => result: Text<'a>,
        /// The structured output.
        "structured_output" => structured_output: Json<'a>,
        /// Rounds with the model.
        "num_turns" => num_turns: u32,
        /// Wall time, in milliseconds.
        "duration_ms" => duration_ms: f64,
        /// Time in the API, in milliseconds.
        "duration_api_ms" => duration_api_ms: f64,
        /// Cost over the life of the process, in US dollars.
        "total_cost_usd" => total_cost_usd: Option<f64>,
        /// Tokens of the turn.
        "usage" => usage: Usage<'a>,
        /// Tokens by model.
        "modelUsage" => model_usage: Json<'a>,
        /// Refused tool calls.
        "permission_denials" => permission_denials: Vec<PermissionDenial<'a>>,
        /// Why the model stopped.
        "stop_reason" => stop_reason: Text<'a>,
        /// Why the turn ended.
        "terminal_reason" => terminal_reason: Text<'a>,
        /// Errors in words.
        "errors" => errors: Vec<Text<'a>>,
        /// HTTP status of the failure.
        "api_error_status" => api_error_status: u32,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame.
        "uuid" => uuid: Text<'a>,
    }
}

object! {
    /// A tool call that was refused.
    PermissionDenial {
        /// The tool.
        "tool_name" => tool_name: Text<'a>,
        /// The call.
        "tool_use_id" => tool_use_id: Text<'a>,
        /// Its input.
        "tool_input" => tool_input: Json<'a>,
    }
}

object! {
    /// A `control_request` of the CLI.
    ControlRequest {
        /// Always `control_request`.
        "type" => _kind: Text<'a>,
        /// Its id.
        "request_id" => request_id: Json<'a>,
        /// What it asks.
        "request" => request: Json<'a>,
    }
}

view! {
    /// The body of a [`ControlRequest`].
    PromptRequest {
        /// `can_use_tool`, …
        "subtype" => subtype: Text<'a>,
        /// The tool.
        "tool_name" => tool_name: Text<'a>,
        /// Its input.
        "input" => input: Json<'a>,
        /// Permission updates that the CLI suggests.
        "permission_suggestions" => suggestions: Json<'a>,
        /// The call.
        "tool_use_id" => tool_use_id: Text<'a>,
        /// What the tool is about to do.
        "description" => description: Text<'a>,
        /// Why the CLI asks.
        "decision_reason" => decision_reason: Text<'a>,
        /// The callback of a hook.
        "callback_id" => callback: Text<'a>,
        /// The MCP server that asks.
        "mcp_server_name" => mcp_server_name: Text<'a>,
        /// What it asks.
        "message" => message: Text<'a>,
        /// The schema of the answer.
        "requested_schema" => requested_schema: Json<'a>,
    }
}

view! {
    /// What a model used.
    ModelUsage {
        /// In US dollars.
        "costUSD" => cost: Option<f64>,
        /// Tokens read.
        "inputTokens" => input_tokens: u64,
        /// Written.
        "outputTokens" => output_tokens: u64,
        /// Written to the cache.
        "cacheCreationInputTokens" => cache_creation_input_tokens: u64,
        /// Read from the cache.
        "cacheReadInputTokens" => cache_read_input_tokens: u64,
    }
}

/// What a model cost, and its tokens.
pub fn use_of_model(told: &RawValue) -> (f64, TokenUsage) {
    let told: ModelUsage<'_> = read_or_default(Some(told));
    let usage = TokenUsage {
        input_tokens: told.input_tokens,
        output_tokens: told.output_tokens,
        cache_creation_input_tokens: told.cache_creation_input_tokens,
        cache_read_input_tokens: told.cache_read_input_tokens,
    };
    (told.cost.filter(|cost| cost.is_finite() && *cost >= 0.0).unwrap_or_default(), usage)
}

/// Whether a turn failed, by its result: newer words for failure all begin alike.
pub fn has_failed(is_error: Option<bool>, subtype: &Text<'_>) -> bool {
    is_error.unwrap_or_else(|| subtype.0.starts_with("error"))
}

/// The cost that a result tells; `None` if it tells none.
pub fn total_cost(total: Option<f64>, by_model: Json<'_>) -> Option<f64> {
    total.filter(|cost| *cost >= 0.0).or_else(|| by_model.and_then(cost_by_model))
}

/// What was spent since the result before, from versions that tell it by model.
pub fn cost_since(by_model: Json<'_>) -> Option<f64> {
    let models = by_model?;
    let mut any = false;
    let is_object = members(models.get(), |_, _, _| any = true);
    if any { cost_by_model(models) } else { is_object.then_some(0.0) }
}

/// What all models cost together, as far as it is told.
fn cost_by_model(models: &RawValue) -> Option<f64> {
    let mut sum = None;
    members(models.get(), |_, _, value| {
        let usage: ModelUsage<'_> = read_or_default(Some(value));
        if let Some(cost) = usage.cost.filter(|cost| *cost >= 0.0) {
            *sum.get_or_insert(0.0) += cost;
        }
    });
    sum
}

#[cfg(test)]
mod tests;
