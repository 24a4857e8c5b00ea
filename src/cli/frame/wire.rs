//! The parts of a line's JSON that [`super`] looks at. Whatever is odd about them, a frame
//! keeps the role that its type gives it.

use serde_json::value::RawValue;

use super::{
    ControlReply, ModelUse, ModelsTold, Prompt, RequestKind, ResultSummary, ToolTexts, excerpt,
};
use crate::cli::hooks;
use crate::cli::json::{Json, Text, is_null, members, read_or_default, view, whole};
use crate::cli::message::{cost_since, has_failed, name_of, total_cost, use_of_model};
use crate::domain::usage::TokenUsage;

/// What a `result` calls the origin of a turn that a background task began.
const BACKGROUND: &str = "task-notification";

/// Models of a result that are read, and characters of their names: a bound for an agent that speaks
/// in its CLI's name.
const MOST_MODELS: usize = 32;
const LONGEST_MODEL: usize = 100;

view! {
    /// What any frame may say of whom or what it is about.
    Names {
        /// The conversation.
        "session_id" => session_id: Text<'a>,
        /// The frame, or the prompt that it echoes.
        "uuid" => uuid: Text<'a>,
        /// A control request.
        "request_id" => request_id: Json<'a>,
        /// The HTTP status that the API answered with.
        "error_status" => error_status: u32,
        /// A background task.
        "task_id" => task_id: Text<'a>,
        /// The tool call by which it was begun.
        "tool_use_id" => tool_use_id: Text<'a>,
        /// The task that began it, from versions that say so.
        "parent_task_id" => parent_task_id: Text<'a>,
        /// What kind of task.
        "task_type" => task_type: Text<'a>,
        /// What it is for.
        "description" => description: Text<'a>,
        /// Whether no turn waits for it, from versions that say so.
        "is_backgrounded" => is_backgrounded: Option<bool>,
        /// What became of it.
        "status" => status: Text<'a>,
        /// The background tasks that there are.
        "tasks" => tasks: Vec<ListedTask<'a>>,
        /// A prompt.
        "command_uuid" => command_uuid: Text<'a>,
        /// What became of it; of the CLI, in `session_state_changed`.
        "state" => state: Text<'a>,
        /// The conversation that comes next.
        "new_conversation_id" => new_conversation_id: Text<'a>,
        /// The permission mode, of `init` and `status`.
        "permissionMode" => permission_mode: Text<'a>,
        /// The model, of `init`.
        "model" => model: Text<'a>,
        /// Whether it is an echo.
        "isReplay" => replay: bool,
        /// What changed about a task.
        "patch" => patch: Patch<'a>,
        /// A message.
        "message" => message: Message<'a>,
        /// The answer to a request.
        "response" => response: Json<'a>,
    }
}

view! {
    /// What changed about a task.
    Patch {
        /// How it goes.
        "status" => status: Text<'a>,
    }
}

view! {
    /// A background task in a list of them.
    ListedTask {
        /// Its id.
        "task_id" => task_id: Text<'a>,
        /// The task that began it, from versions that say so.
        "parent_task_id" => parent_task_id: Text<'a>,
        /// What kind of task.
        "task_type" => task_type: Text<'a>,
        /// What it is for.
        "description" => description: Text<'a>,
    }
}

view! {
    /// A message.
    Message {
        /// Its blocks, or a text.
        "content" => content: Json<'a>,
    }
}

view! {
    /// A block of a message.
    Block {
        /// Its type.
        "type" => kind: Text<'a>,
        /// Of a tool call.
        "id" => id: Text<'a>,
        /// Of a tool's result.
        "tool_use_id" => tool_use_id: Text<'a>,
        /// The tool that is called.
        "name" => name: Text<'a>,
        /// What it is given.
        "input" => input: Json<'a>,
        /// What it gave: a text, or blocks.
        "content" => content: Json<'a>,
        /// Of a text.
        "text" => text: Text<'a>,
    }
}

view! {
    /// The body of an answer.
    Reply {
        /// `success` or `error`.
        "subtype" => subtype: Text<'a>,
        /// The request.
        "request_id" => request_id: Text<'a>,
        /// The payload.
        "response" => response: Json<'a>,
        /// The error.
        "error" => error: Text<'a>,
    }
}

view! {
    /// The body of a request of the CLI.
    Asked {
        /// `can_use_tool`, …
        "subtype" => subtype: Text<'a>,
        /// The tool's name.
        "tool_name" => tool_name: Text<'a>,
        /// The tool's input.
        "input" => input: Json<'a>,
        /// The callback of a hook.
        "callback_id" => callback: Text<'a>,
    }
}

view! {
    /// A `result`.
    WireResult {
        /// `success`, …
        "subtype" => subtype: Text<'a>,
        /// Whether the turn failed.
        "is_error" => is_error: Option<bool>,
        /// Why it ended.
        "terminal_reason" => terminal_reason: Text<'a>,
        /// The last words.
        "result" => result: Option<Text<'a>>,
        /// The structured output.
        "structured_output" => structured_output: Json<'a>,
        /// Errors in words.
        "errors" => errors: Vec<Text<'a>>,
        /// Cost over the life of the process.
        "total_cost_usd" => total_cost_usd: Option<f64>,
        /// The same by model.
        "modelUsage" => model_usage: Json<'a>,
        /// The same since the result before.
        "model_usage_since_last_result" => model_usage_since: Json<'a>,
        /// Tokens of the turn.
        "usage" => usage: Tokens<'a>,
        /// The prompt that it answers last.
        "user_message_uuid" => user_message_uuid: Text<'a>,
        /// All of them.
        "user_message_uuids" => user_message_uuids: Vec<Text<'a>>,
        /// Who asked for it.
        "origin" => origin: Origin<'a>,
        /// The conversation.
        "session_id" => session_id: Text<'a>,
    }
}

view! {
    /// Who asked for a turn.
    Origin {
        /// In one word.
        "kind" => kind: Text<'a>,
    }
}

view! {
    /// Tokens.
    Tokens {
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

/// What the first look at a line tells.
pub(super) struct Head<'a> {
    /// Its type.
    pub kind: Text<'a>,
    /// Its subtype.
    pub subtype: Text<'a>,
    /// Whether it names a tool call that it belongs to: it is a subagent's.
    pub has_parent: bool,
}

view! {
    /// The same of a line of which nothing is odd.
    PlainHead {
        /// Its type.
        "type" => kind: Text<'a>,
        /// Its subtype.
        "subtype" => subtype: Text<'a>,
        /// The tool call that it belongs to.
        "parent_tool_use_id" => parent: Text<'a>,
    }
}

/// The head of a line; `None` if it is no JSON object.
pub(super) fn head(line: &str) -> Option<Head<'_>> {
    let plain = whole(line).map(|PlainHead { kind, subtype, parent, .. }| Head {
        kind,
        subtype,
        has_parent: !parent.0.is_empty(),
    });
    plain.or_else(|| odd_head(line))
}

/// The same, where a key comes twice or a value is of another type.
fn odd_head(line: &str) -> Option<Head<'_>> {
    let (mut kind, mut subtype, mut has_parent) = (None, None, false);
    let is_object = members(line, |key, _, value| {
        let field = match key {
            "type" => &mut kind,
            "subtype" => &mut subtype,
            "parent_tool_use_id" => {
                has_parent = value.get().starts_with('"') && value.get() != "\"\"";
                return;
            }
            _ => return,
        };
        // One that comes twice, and the second time as something else, is as it was.
        if field.is_none() || value.get().starts_with('"') {
            *field = Some(value);
        }
    });
    is_object.then(|| Head {
        kind: read_or_default(kind),
        subtype: read_or_default(subtype),
        has_parent,
    })
}

/// The answer to a control request of ours.
pub(super) fn reply(line: &str) -> ControlReply {
    let response = Names::parse(line).and_then(|names| names.response);
    let body: Reply<'_> = read_or_default(response);
    let outcome = if &*body.subtype.0 == "success" {
        Ok(body.response.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned()))
    } else if body.error.0.is_empty() {
        Err(body.subtype.into_string())
    } else {
        Err(body.error.into_string())
    };
    ControlReply { request_id: body.request_id.into_string(), outcome }
}

/// What the CLI asks. Its id goes back as it came.
pub(super) fn prompt(line: &str) -> Prompt {
    let mut request_id: Option<&RawValue> = None;
    let mut request = None;
    members(line, |key, _, value| match key {
        "request_id" if request_id.is_none() || !is_null(value) => request_id = Some(value),
        "request" if request.is_none() || value.get().starts_with('{') => request = Some(value),
        _ => {}
    });
    let body: Asked<'_> = read_or_default(request);
    let mut tool_name = body.tool_name.into_string();
    let mut input = body.input.map_or("", RawValue::get);
    let is_hook = RequestKind::of(&body.subtype.0, "") == RequestKind::Hook;
    if let Some(told) = body.input.filter(|_| is_hook) {
        (tool_name, input) = hooks::subject(told);
    }
    Prompt {
        id: request_id.map(name_of).unwrap_or_default(),
        raw_id: request_id.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned()),
        subtype: body.subtype.into_string(),
        tool_name,
        input: input.to_owned(),
        callback: body.callback.into_string(),
    }
}

/// The ids of the blocks of type `wanted` in a message.
pub(super) fn block_ids(message: &Message<'_>, wanted: &str) -> Vec<String> {
    let blocks: Vec<Block<'_>> = read_or_default(message.content);
    blocks
        .into_iter()
        .filter(|block| block.kind.0 == wanted)
        .map(|block| if block.id.0.is_empty() { block.tool_use_id } else { block.id })
        .map(Text::into_string)
        .filter(|id| !id.is_empty())
        .collect()
}

/// The tool calls and results of a message.
pub(super) fn tool_texts(message: &Message<'_>) -> Vec<ToolTexts> {
    let blocks: Vec<Block<'_>> = read_or_default(message.content);
    let read = |block: Block<'_>| match &*block.kind.0 {
        "tool_use" => Some(ToolTexts {
            id: block.id.into_string(),
            name: block.name.into_string(),
            text: block.input.map(|raw| raw.get().to_owned()).unwrap_or_default(),
        }),
        "tool_result" => Some(ToolTexts {
            id: block.tool_use_id.into_string(),
            name: String::new(),
            text: text_of(block.content),
        }),
        _ => None,
    };
    blocks.into_iter().filter_map(read).collect()
}

/// What a tool gave, as far as it is text.
fn text_of(content: Json<'_>) -> String {
    let Some(raw) = content else { return String::new() };
    if raw.get().starts_with('"') {
        return read_or_default::<Text<'_>>(content).into_string();
    }
    let blocks: Vec<Block<'_>> = read_or_default(content);
    blocks.into_iter().map(|block| block.text.into_string()).collect::<Vec<_>>().join("\n")
}

/// What a result tells of models, as far as it can be read.
fn models(told: &RawValue) -> Vec<ModelUse> {
    let mut models = Vec::new();
    members(told.get(), |name, _, value| {
        if models.len() < MOST_MODELS {
            let (cost_usd, usage) = use_of_model(value);
            models.push(ModelUse { name: excerpt(name, LONGEST_MODEL), cost_usd, usage });
        }
    });
    models
}

/// The figures of a result.
pub(super) fn result(line: &str) -> ResultSummary {
    let wire = WireResult::parse(line).unwrap_or_default();
    let mut prompt_uuids: Vec<String> =
        wire.user_message_uuids.into_iter().map(Text::into_string).collect();
    prompt_uuids.extend(Some(wire.user_message_uuid.into_string()));
    prompt_uuids.retain(|uuid| !uuid.is_empty());
    let errors: Vec<String> = wire.errors.into_iter().map(Text::into_string).collect();
    let text = wire.result.map_or_else(|| errors.join("; "), Text::into_string);
    let usage = TokenUsage {
        input_tokens: wire.usage.input_tokens,
        output_tokens: wire.usage.output_tokens,
        cache_creation_input_tokens: wire.usage.cache_creation_input_tokens,
        cache_read_input_tokens: wire.usage.cache_read_input_tokens,
    };
    ResultSummary {
        is_error: has_failed(wire.is_error, &wire.subtype),
        terminal_reason: wire.terminal_reason.into_string(),
        text: excerpt(&text, 300),
        total_cost_usd: total_cost(wire.total_cost_usd, wire.model_usage),
        cost_since_last_usd: cost_since(wire.model_usage_since),
        models: match wire.model_usage_since {
            Some(since) => ModelsTold::Since(models(since)),
            None => ModelsTold::Sums(wire.model_usage.map_or_else(Vec::new, models)),
        },
        structured_output: wire.structured_output.map(|raw| raw.get().to_owned()),
        usage,
        prompt_uuids,
        background: wire.origin.kind.0 == BACKGROUND,
        cli_session_id: wire.session_id.into_string(),
    }
}
