//! Puts a frame of the CLI together from the typed fields of its event. A field that
//! holds nothing becomes an empty value, which [`crate::lossless`] takes for absent.

use serde_json::{Map, Value, json};
use session_pool::proto::{self, content_block::Block, stream_event::Delta, turn_event::Kind};

#[track_caller]
pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A field that holds JSON; empty stands for nothing.
#[track_caller]
fn raw(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { parse(text) }
}

/// An object of these members and of those that have no field.
#[track_caller]
fn object(members: Value, extra: &str) -> Value {
    let (Value::Object(mut members), extra) = (members, raw(extra)) else {
        panic!("not an object");
    };
    let extra = match extra {
        Value::Object(extra) => extra,
        Value::Null => Map::new(),
        other => panic!("extra_json is no object: {other}"),
    };
    for (key, value) in extra {
        // What a field cannot hold, such as a number in the place of a text, is in extra_json.
        let field = members.insert(key.clone(), value).unwrap_or_default();
        assert!(says_nothing(&field), "{key} is in a field and in extra_json");
    }
    Value::Object(members)
}

/// Whether a field has no value, as the contract's fields have none by default.
fn says_nothing(field: &Value) -> bool {
    match field {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
    }
}

/// The frame that an event stands for.
#[track_caller]
pub fn frame_of(kind: &Kind) -> Value {
    match kind {
        Kind::Started(_) => panic!("started twice"),
        Kind::PromptResolved(_)
        | Kind::Steered(_)
        | Kind::RateLimited(_)
        | Kind::EgressRefused(_)
        | Kind::Heartbeat(_) => {
            panic!("no frame of the CLI")
        }
        Kind::System(message) => system(message),
        Kind::Assistant(message) => assistant(message),
        Kind::User(message) => user(message),
        Kind::StreamEvent(event) => stream_event(event),
        Kind::Prompt(event) => prompt(event),
        Kind::Result(message) => result(message),
        Kind::Other(frame) => {
            let whole = parse(&frame.frame_json);
            assert_eq!(whole["type"].as_str().unwrap_or_default(), frame.r#type);
            whole
        }
    }
}

fn milliseconds(duration: &Option<prost_types::Duration>) -> f64 {
    let duration = (*duration).unwrap_or_default();
    duration.seconds as f64 * 1e3 + f64::from(duration.nanos) / 1e6
}

fn system(message: &proto::SystemMessage) -> Value {
    let mut members = json!({
        "type": "system",
        "subtype": message.subtype,
        "session_id": message.cli_session_id,
        "uuid": message.uuid,
    });
    if let Some(init) = &message.init {
        let servers = init.mcp_servers.iter().map(|server| {
            object(json!({"name": server.name, "status": server.status}), &server.extra_json)
        });
        members["mcp_servers"] = servers.collect();
        members["cwd"] = json!(init.cwd);
        members["model"] = json!(init.model);
        members["permissionMode"] = json!(init.permission_mode);
        members["tools"] = json!(init.tools);
        members["slash_commands"] = json!(init.slash_commands);
        members["apiKeySource"] = json!(init.api_key_source);
        members["claude_code_version"] = json!(init.claude_code_version);
        members["output_style"] = json!(init.output_style);
        members["agents"] = json!(init.agents);
        members["skills"] = json!(init.skills);
    }
    if let Some(retry) = &message.api_retry {
        members["attempt"] = json!(retry.attempt);
        members["max_retries"] = json!(retry.max_retries);
        members["retry_delay_ms"] = json!(milliseconds(&retry.retry_delay));
        members["error_status"] = json!(retry.error_status);
        members["error"] = json!(retry.error);
    }
    object(members, &message.extra_json)
}

fn usage(usage: &Option<proto::Usage>) -> Value {
    let Some(usage) = usage else { return Value::Null };
    let members = json!({
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
    });
    object(members, &usage.extra_json)
}

fn block(block: &proto::ContentBlock) -> Value {
    match block.block.as_ref().expect("a block") {
        Block::Text(text) => object(json!({"type": "text", "text": text.text}), &text.extra_json),
        Block::Thinking(block) => {
            let members = json!({
                "type": "thinking",
                "thinking": block.thinking,
                "signature": block.signature,
            });
            object(members, &block.extra_json)
        }
        Block::ToolUse(call) => {
            let members = json!({
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": raw(&call.input_json),
            });
            object(members, &call.extra_json)
        }
        Block::ToolResult(result) => {
            let content = match result.content_json.as_str() {
                "" => json!(result.text),
                content => parse(content),
            };
            let members = json!({
                "type": "tool_result",
                "tool_use_id": result.tool_use_id,
                "content": content,
                "is_error": result.is_error,
            });
            object(members, &result.extra_json)
        }
        Block::Other(block) => {
            let whole = parse(&block.block_json);
            assert_eq!(whole["type"].as_str().unwrap_or_default(), block.r#type);
            whole
        }
    }
}

fn assistant(message: &proto::AssistantMessage) -> Value {
    let inner = json!({
        "id": message.message_id,
        "model": message.model,
        "content": message.content.iter().map(block).collect::<Value>(),
        "stop_reason": message.stop_reason,
        "usage": usage(&message.usage),
    });
    let members = json!({
        "type": "assistant",
        "message": object(inner, &message.message_extra_json),
        "parent_tool_use_id": message.parent_tool_use_id,
        "session_id": message.cli_session_id,
        "uuid": message.uuid,
        "request_id": message.request_id,
        "error": message.error,
    });
    object(members, &message.extra_json)
}

fn user(message: &proto::UserMessage) -> Value {
    let content = match (message.plain_text, message.content.as_slice()) {
        (true, [only]) => block(only)["text"].take(),
        (_, blocks) => blocks.iter().map(block).collect(),
    };
    let inner = json!({"role": "user", "content": content});
    let members = json!({
        "type": "user",
        "message": object(inner, &message.message_extra_json),
        "parent_tool_use_id": message.parent_tool_use_id,
        "tool_use_result": raw(&message.tool_use_result_json),
        "isReplay": message.is_replay,
        "isSynthetic": message.is_synthetic,
        "session_id": message.cli_session_id,
        "uuid": message.uuid,
    });
    object(members, &message.extra_json)
}

fn stream_event(event: &proto::StreamEvent) -> Value {
    let delta = event.delta.as_ref().map(|delta| match delta {
        Delta::Text(text) => json!({"type": "text_delta", "text": text}),
        Delta::Thinking(text) => json!({"type": "thinking_delta", "thinking": text}),
        Delta::PartialJson(text) => json!({"type": "input_json_delta", "partial_json": text}),
    });
    let inner = match event.event_json.as_str() {
        "" => json!({"type": event.event_type, "index": event.index, "delta": delta}),
        whole => {
            let whole = parse(whole);
            assert_eq!(whole["type"].as_str().unwrap_or_default(), event.event_type);
            assert_eq!(whole["index"].as_u64(), event.index.map(u64::from));
            whole
        }
    };
    let members = json!({
        "type": "stream_event",
        "event": inner,
        "parent_tool_use_id": event.parent_tool_use_id,
        "session_id": event.cli_session_id,
        "uuid": event.uuid,
    });
    object(members, &event.extra_json)
}

fn prompt(event: &proto::PromptEvent) -> Value {
    let request = raw(&event.request_json);
    // What is asked of a hook is about a tool one level further in.
    let (about, input) = match &event.hook {
        Some(hook) => {
            assert_eq!(request["input"], raw(&hook.input_json));
            assert_eq!(hook.tool_name, event.tool_name);
            (&request["input"], "tool_input")
        }
        None => (&request, "input"),
    };
    assert_eq!(about["tool_name"].as_str().unwrap_or_default(), event.tool_name);
    assert_eq!(about[input], raw(&event.input_json));
    assert_eq!(request["tool_use_id"].as_str().unwrap_or_default(), event.tool_use_id);
    assert_eq!(request["description"].as_str().unwrap_or_default(), event.description);
    assert_eq!(request["decision_reason"].as_str().unwrap_or_default(), event.decision_reason);
    assert_eq!(request["permission_suggestions"], raw(&event.suggestions_json));
    let members =
        json!({"type": "control_request", "request_id": event.prompt_id, "request": request});
    object(members, &event.extra_json)
}

fn result(message: &proto::TurnResult) -> Value {
    let denials = message.permission_denials.iter().map(|denial| {
        let members = json!({
            "tool_name": denial.tool_name,
            "tool_use_id": denial.tool_use_id,
            "tool_input": raw(&denial.tool_input_json),
        });
        object(members, &denial.extra_json)
    });
    let members = json!({
        "type": "result",
        "subtype": message.subtype,
        "is_error": message.is_error,
        "result": message.result,
        "structured_output": raw(&message.structured_output_json),
        "num_turns": message.num_turns,
        "duration_ms": milliseconds(&message.duration),
        "duration_api_ms": milliseconds(&message.api_duration),
        "total_cost_usd": message.total_cost_usd,
        "usage": usage(&message.usage),
        "modelUsage": raw(&message.model_usage_json),
        "permission_denials": denials.collect::<Value>(),
        "stop_reason": message.stop_reason,
        "terminal_reason": message.terminal_reason,
        "errors": message.errors,
        "api_error_status": message.api_error_status,
        "session_id": message.cli_session_id,
        "uuid": message.uuid,
    });
    object(members, &message.extra_json)
}
