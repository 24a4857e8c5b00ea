//! Reads a frame in full, borrowing from its line, for those who show it to
//! callers. Knows nothing of who they are.
//!
//! Every type keeps the keys that it has no field for as JSON text in `extra`, so
//! that nothing a newer CLI says is lost. A line that is not of the expected shape
//! fails to read as its type; its reader then passes on the line as it is.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Text that is borrowed where its JSON has no escapes. `null` reads as empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// The text, as a string of its own.
    pub fn into_string(self) -> String {
        self.0.into_owned()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The keys of an object that have no field, on the way to one JSON object.
#[derive(Debug, Default)]
struct Extra(String);

impl Extra {
    fn push(&mut self, key: &str, value: &RawValue) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        // A string always serializes.
        self.0.push_str(&serde_json::to_string(key).unwrap_or_default());
        self.0.push(':');
        self.0.push_str(value.get());
    }

    fn finish(mut self) -> String {
        if !self.0.is_empty() {
            self.0.push('}');
        }
        self.0
    }
}

/// Declares an object by its keys; `null` reads as the field's default.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal => $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
            /// The other keys, as one JSON object; empty without any.
            pub extra: String,
            /// Some objects hold nothing that borrows; all have the same form.
            line: PhantomData<&'a ()>,
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ObjectVisitor<'a>(PhantomData<&'a ()>);
                impl<'de: 'a, 'a> Visitor<'de> for ObjectVisitor<'a> {
                    type Value = $name<'a>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<$name<'a>, M::Error> {
                        let mut object = $name::default();
                        let mut extra = Extra::default();
                        while let Some(key) = map.next_key::<Text<'de>>()? {
                            match &*key.0 {
                                $($key => {
                                    object.$field = map.next_value::<Option<$type>>()?.unwrap_or_default();
                                })*
                                other => extra.push(other, map.next_value::<&'de RawValue>()?),
                            }
                        }
                        object.extra = extra.finish();
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(ObjectVisitor(PhantomData))
            }
        }
    };
}

/// A value kept as its JSON text.
pub type Json<'a> = Option<&'a RawValue>;

object! {
    /// A `system` frame; the fields after `subtype` are those of `init` and `api_retry`.
    System {
        /// Always `system`.
        "type" => kind: Text<'a>,
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
        "type" => kind: Text<'a>,
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
        "type" => kind: Text<'a>,
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
        "role" => role: Text<'a>,
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
        "type" => kind: Text<'a>,
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
        "type" => kind: Text<'a>,
        /// `success`, …
        "subtype" => subtype: Text<'a>,
        /// Whether the turn failed.
        "is_error" => is_error: bool,
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
        "total_cost_usd" => total_cost_usd: f64,
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
        "type" => kind: Text<'a>,
        /// Its id.
        "request_id" => request_id: Text<'a>,
        /// What it asks.
        "request" => request: Json<'a>,
    }
}

object! {
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
    }
}

/// The content of a message: blocks, or plain text.
#[derive(Debug)]
pub enum Content<'a> {
    /// A plain string.
    Plain(Text<'a>),
    /// Blocks, each to be read by [`Block::parse`].
    Blocks(Vec<&'a RawValue>),
}

impl Default for Content<'_> {
    fn default() -> Self {
        Self::Blocks(Vec::new())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of blocks")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Plain(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Plain(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<S: de::SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element()? {
                    blocks.push(block);
                }
                Ok(Content::Blocks(blocks))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

object! {
    /// A block of type `text`.
    TextBlock {
        /// Always `text`.
        "type" => kind: Text<'a>,
        /// The text.
        "text" => text: Text<'a>,
    }
}

object! {
    /// A block of type `thinking`.
    ThinkingBlock {
        /// Always `thinking`.
        "type" => kind: Text<'a>,
        /// The text.
        "thinking" => thinking: Text<'a>,
        /// The API's signature.
        "signature" => signature: Text<'a>,
    }
}

object! {
    /// A block of type `tool_use`.
    ToolUseBlock {
        /// Always `tool_use`.
        "type" => kind: Text<'a>,
        /// The call.
        "id" => id: Text<'a>,
        /// The tool.
        "name" => name: Text<'a>,
        /// Its input.
        "input" => input: Json<'a>,
    }
}

object! {
    /// A block of type `tool_result`.
    ToolResultBlock {
        /// Always `tool_result`.
        "type" => kind: Text<'a>,
        /// The call.
        "tool_use_id" => tool_use_id: Text<'a>,
        /// The answer, a string or blocks.
        "content" => content: Json<'a>,
        /// Whether the tool failed.
        "is_error" => is_error: bool,
    }
}

/// A block of a message.
#[derive(Debug)]
pub enum Block<'a> {
    /// Text.
    Text(TextBlock<'a>),
    /// Thinking.
    Thinking(ThinkingBlock<'a>),
    /// A call of a tool.
    ToolUse(ToolUseBlock<'a>),
    /// A tool's answer.
    ToolResult(ToolResultBlock<'a>),
    /// Any other, with its type and its JSON.
    Other(Text<'a>, &'a str),
}

#[derive(Deserialize)]
struct BlockHead<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Text<'a>,
}

impl<'a> Block<'a> {
    /// Reads one block; what is not of a known shape is `Other`.
    pub fn parse(raw: &'a RawValue) -> Self {
        let json = raw.get();
        let kind =
            serde_json::from_str::<BlockHead<'a>>(json).map(|head| head.kind).unwrap_or_default();
        let known = match &*kind.0 {
            "text" => serde_json::from_str(json).map(Self::Text),
            "thinking" => serde_json::from_str(json).map(Self::Thinking),
            "tool_use" => serde_json::from_str(json).map(Self::ToolUse),
            "tool_result" => serde_json::from_str(json).map(Self::ToolResult),
            _ => return Self::Other(kind, json),
        };
        known.unwrap_or(Self::Other(kind, json))
    }
}
