//! The ordinary frames, with the keys and the key order of CLI 2.1.332. Results are in [`crate::result`].
//!
//! Pure: each function makes one line out of its arguments, and a fresh uuid.

use serde_json::Value;

use crate::ids;
use crate::json::{Json, Object, object};

/// The fake's version, where the real CLI says its own.
pub const VERSION: &str = "9.9.9";

const TOOLS: &str = r#"["Task","AskUserQuestion","Bash","Edit","NotebookEdit","Read","Skill","TaskStop","ToolSearch","WebFetch","WebSearch","Write"]"#;
const SLASH_COMMANDS: &str =
    r#"["debug","code-review","clear","compact","config","context","init","model","usage"]"#;
const AGENTS: &str = r#"["claude","Explore","general-purpose","Plan","statusline-setup"]"#;
const PLUGINS: &str =
    r#"[{"name":"cc-plugin-agents-md","path":"builtin","source":"cc-plugin-agents-md@builtin"}]"#;
const CAPABILITIES: &str =
    r#"["interrupt_receipt_v1","interrupt_cancel_queued_v1","msg_lifecycle_v1","ui_surface_v1"]"#;

fn raw(text: &str) -> Json {
    Json(text.to_owned())
}

/// What `system/init` tells about the session.
pub struct InitFacts<'a> {
    pub session: &'a str,
    pub cwd: &'a str,
    pub model: &'a str,
    pub permission_mode: &'a str,
    pub memory_path: &'a str,
    pub mcp_servers: Vec<Json>,
    pub messages: &'a [String],
}

pub fn init(facts: &InitFacts<'_>) -> Json {
    let mut frame = Object::new();
    frame
        .put("type", "system")
        .put("subtype", "init")
        .put("cwd", facts.cwd)
        .put("session_id", facts.session)
        .put("tools", &raw(TOOLS))
        .put("mcp_servers", &facts.mcp_servers)
        .put("model", facts.model)
        .put("permissionMode", facts.permission_mode)
        .put("slash_commands", &raw(SLASH_COMMANDS))
        .put("terminal_slash_commands", &raw(r#"["doctor","color"]"#))
        .put("apiKeySource", "ANTHROPIC_API_KEY")
        .put("claude_code_version", VERSION)
        .put("output_style", "default")
        .put("agents", &raw(AGENTS))
        .put("skills", &raw(r#"["debug","code-review"]"#))
        .put("plugins", &raw(PLUGINS))
        .put("capabilities", &raw(CAPABILITIES))
        .put("analytics_disabled", &true)
        .put("product_feedback_disabled", &true)
        .put("served_by_anthropic", &false)
        .put("uuid", &ids::uuid())
        .put("original_cwd", facts.cwd)
        .put("additional_directories", &raw("[]"))
        .put("messaging_socket_path", &None::<String>)
        .put("fast_mode_state", "off")
        .put("fast_mode_disabled_reason", "sdk_opt_in_required")
        .put("per_turn_effort_active", &true)
        .put("ultrathink_available", &false)
        .put("ultrathink_typed_raises", &false)
        .put("view_mode", "default")
        .put("sandbox_enabled", &false);
    // Where the notes lie that it keeps, unless that is switched off.
    if std::env::var_os("CLAUDE_CODE_DISABLE_AUTO_MEMORY").is_none() {
        frame.put("memory_paths", &object! { "auto": facts.memory_path });
    }
    if !facts.messages.is_empty() {
        frame.put("user_message_uuids", facts.messages);
    }
    frame.finish()
}

/// A `system` frame: its subtype, what it says, uuid and session id.
pub fn system(session: &str, subtype: &str, fields: &[(&str, Json)]) -> Json {
    let mut frame = Object::new();
    frame.put("type", "system").put("subtype", subtype);
    for (key, value) in fields {
        frame.put(key, value);
    }
    frame.put("uuid", &ids::uuid()).put("session_id", session);
    frame.finish()
}

/// `"text"` as JSON, for [`system`]'s fields.
pub fn text(text: &str) -> Json {
    let mut out = String::new();
    crate::json::ToJson::write(text, &mut out);
    Json(out)
}

pub fn state_changed(session: &str, state: &str) -> Json {
    system(session, "session_state_changed", &[("state", text(state))])
}

pub fn command_lifecycle(session: &str, message: &str, state: &str) -> Json {
    object! {
        "type": "command_lifecycle",
        "command_uuid": message,
        "state": state,
        "uuid": ids::uuid(),
        "session_id": session,
    }
}

pub fn api_retry(session: &str, attempt: u64, status: u32) -> Json {
    let error = match status {
        401 | 403 => "authentication_failed",
        _ => "overloaded",
    };
    let fields = [
        ("attempt", Json(attempt.to_string())),
        ("max_retries", raw("10")),
        ("retry_delay_ms", raw("545")),
        ("error_status", Json(status.to_string())),
        ("error", text(error)),
    ];
    system(session, "api_retry", &fields)
}

/// The `usage` of a message that has only begun, as assistant frames carry it.
fn begun_usage() -> Json {
    raw(
        r#"{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"output_tokens":1}"#,
    )
}

/// The `message` of an assistant frame.
pub fn assistant_message(id: &str, model: &str, content: &[Json]) -> Json {
    object! {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None::<String>,
        "stop_sequence": None::<String>,
        "usage": begun_usage(),
        "context_management": None::<String>,
    }
}

/// The `message` the CLI makes up when the API failed.
pub fn synthetic_message(words: &str) -> Json {
    object! {
        "diagnostics": None::<String>,
        "id": ids::uuid(),
        "container": None::<String>,
        "model": "<synthetic>",
        "role": "assistant",
        "stop_details": None::<String>,
        "stop_reason": "stop_sequence",
        "stop_sequence": "",
        "type": "message",
        "usage": raw(r#"{"input_tokens":0,"output_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0}"#),
        "content": [text_block(words)],
        "context_management": None::<String>,
    }
}

/// What sets one assistant frame apart from another, its message aside.
#[derive(Clone, Copy, Default)]
pub struct AssistantNotes<'a> {
    pub uuid: &'a str,
    /// The answer was cut off by an interrupt.
    pub aborted: bool,
    /// It reports a failed API call.
    pub failed: bool,
    /// The uuids of the prompts it answers.
    pub messages: &'a [String],
}

pub fn assistant(session: &str, message: &Json, notes: AssistantNotes<'_>) -> Json {
    let mut frame = Object::new();
    frame
        .put("type", "assistant")
        .put("message", message)
        .put("parent_tool_use_id", &None::<String>)
        .put("session_id", session)
        .put("uuid", notes.uuid)
        .put("timestamp", &ids::timestamp());
    if notes.failed {
        frame
            .put("error", "server_error")
            .put("is_api_error_message", &true)
            .put("api_error_status", &500u64)
            .put("api_error_type", "api_error");
    } else {
        frame.put("request_id", "req_fake");
    }
    if notes.aborted {
        frame.put("aborted", &true);
    }
    if let Some(last) = notes.messages.last() {
        frame.put("user_message_uuid", last).put("user_message_uuids", notes.messages);
    }
    frame.finish()
}

/// An assistant frame with the keys a reader cannot do without, for lines shorter than an ordinary frame.
pub fn lean_assistant(session: &str, model: &str, block: Json) -> Json {
    let message = object! { "role": "assistant", "model": model, "content": [block] };
    object! { "type": "assistant", "message": message, "session_id": session, "uuid": ids::uuid() }
}

pub fn text_block(words: &str) -> Json {
    object! { "type": "text", "text": words }
}

pub fn thinking_block(words: &str) -> Json {
    object! { "type": "thinking", "thinking": words, "signature": "sig==" }
}

pub fn tool_use_block(id: &str, name: &str, input: &Value) -> Json {
    object! { "type": "tool_use", "id": id, "name": name, "input": input }
}

pub fn tool_result_block(id: &str, words: &str, is_error: bool) -> Json {
    if is_error {
        object! { "type": "tool_result", "content": words, "is_error": true, "tool_use_id": id }
    } else {
        object! { "tool_use_id": id, "type": "tool_result", "content": words }
    }
}

/// A user frame that the CLI makes: tool results and notes of interruption.
pub fn user(session: &str, uuid: &str, block: &Json, tool_use_result: Option<&str>) -> Json {
    let mut frame = Object::new();
    frame
        .put("type", "user")
        .put("message", &object! { "role": "user", "content": [block] })
        .put("parent_tool_use_id", &None::<String>)
        .put("session_id", session)
        .put("uuid", uuid)
        .put("timestamp", &ids::timestamp())
        .put_some("tool_use_result", tool_use_result);
    frame.finish()
}

/// A user frame that repeats what came in.
pub fn replay(session: &str, uuid: &str, words: &str) -> Json {
    object! {
        "type": "user",
        "message": object! { "role": "user", "content": words },
        "session_id": session,
        "parent_tool_use_id": None::<String>,
        "uuid": uuid,
        "timestamp": ids::timestamp(),
        "isReplay": true,
    }
}

pub fn stream_event(session: &str, event: &Json, message_id: &str, starts: bool) -> Json {
    let mut frame = Object::new();
    frame
        .put("type", "stream_event")
        .put("event", event)
        .put("session_id", session)
        .put("parent_tool_use_id", &None::<String>)
        .put("uuid", &ids::uuid());
    if starts {
        frame.put("ttft_ms", &5u64).put("thinking_display", "updates");
    }
    frame.put("api_message_id", message_id);
    frame.finish()
}

pub fn control_request(request_id: &str, request: &Json) -> Json {
    object! { "type": "control_request", "request_id": request_id, "request": request }
}

pub fn control_cancel_request(request_id: &str) -> Json {
    object! { "type": "control_cancel_request", "request_id": request_id }
}

pub fn conversation_reset(session: &str, message: &str) -> Json {
    object! {
        "type": "conversation_reset",
        "new_conversation_id": ids::uuid(),
        "uuid": ids::uuid(),
        "trigger": "clear",
        "user_message_uuid": message,
        "timestamp": ids::timestamp(),
        "session_id": session,
    }
}

pub fn transcript_mirror(path: &str, entries: &[Json]) -> Json {
    object! { "type": "transcript_mirror", "filePath": path, "entries": entries }
}

pub fn unknown(session: &str, kind: &str) -> Json {
    object! {
        "type": kind,
        "payload": object! { "from": "the future", "number": 12_345_678_901_234_567_890u64 },
        "uuid": ids::uuid(),
        "session_id": session,
    }
}
