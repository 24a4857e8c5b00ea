//! Checks that an event says all that the CLI's frame says: puts a frame together from
//! the typed fields and compares it with the frame itself.
//!
//! A value that is not there and one that is empty (`null`, `""`, `0`, `false`, `[]`)
//! are the same in the contract. A key of the frame that is in no field and in no
//! `extra_json` is a loss, whatever its value.

use serde_json::{Map, Value, json};
use session_pool::proto::{self, content_block::Block, stream_event::Delta, turn_event::Kind};

use crate::support::turn::Turn;

/// Checks every frame of a turn that ran with payload BOTH.
#[track_caller]
pub fn check(turn: &Turn) {
    for event in turn.events.iter().skip(1) {
        let kind = event.kind.as_ref().expect("a kind");
        assert!(!event.json.is_empty(), "an event without its frame: {kind:?}");
        let frame = parse(&event.json);
        let mut lost = Vec::new();
        compare("", &frame, &rebuilt(kind), &mut lost);
        assert!(lost.is_empty(), "{lost:#?}\nframe: {frame:#}\nevent: {kind:#?}");
    }
}

/// Notes where the frame and what was put together differ.
fn compare(path: &str, frame: &Value, rebuilt: &Value, lost: &mut Vec<String>) {
    match (frame, rebuilt) {
        (Value::Object(frame), Value::Object(rebuilt)) => {
            for (key, value) in frame {
                let path = format!("{path}.{key}");
                match rebuilt.get(key) {
                    Some(rebuilt) => compare(&path, value, rebuilt, lost),
                    None => lost.push(format!("{path} is lost: {value}")),
                }
            }
            for (key, value) in rebuilt {
                if !frame.contains_key(key) && !is_empty(value) {
                    lost.push(format!("{path}.{key} was made up: {value}"));
                }
            }
        }
        (Value::Array(frame), Value::Array(rebuilt)) if frame.len() == rebuilt.len() => {
            for (index, (frame, rebuilt)) in frame.iter().zip(rebuilt).enumerate() {
                compare(&format!("{path}[{index}]"), frame, rebuilt, lost);
            }
        }
        (Value::Number(a), Value::Number(b)) if close(a.as_f64(), b.as_f64()) => {}
        (a, b) if a == b || (a.is_null() && is_empty(b)) => {}
        (a, b) => lost.push(format!("{path} was {a}, became {b}")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}

/// Durations have whole nanoseconds; the CLI counts fractions of milliseconds.
fn close(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-5)
}

#[track_caller]
fn parse(text: &str) -> Value {
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
        let said_twice = members.insert(key.clone(), value);
        assert!(said_twice.is_none(), "{key} is in a field and in extra_json");
    }
    Value::Object(members)
}

#[track_caller]
fn rebuilt(kind: &Kind) -> Value {
    match kind {
        Kind::Started(_) => panic!("started twice"),
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
            assert_eq!(whole["type"], event.event_type);
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
    let request = parse(&event.request_json);
    assert_eq!(request["tool_name"].as_str().unwrap_or_default(), event.tool_name);
    assert_eq!(request["tool_use_id"].as_str().unwrap_or_default(), event.tool_use_id);
    assert_eq!(request["description"].as_str().unwrap_or_default(), event.description);
    assert_eq!(request["decision_reason"].as_str().unwrap_or_default(), event.decision_reason);
    assert_eq!(request["input"], raw(&event.input_json));
    assert_eq!(request["permission_suggestions"], raw(&event.suggestions_json));
    json!({"type": "control_request", "request_id": event.prompt_id, "request": request})
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
