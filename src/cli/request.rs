//! Makes the lines that go to the CLI. Knows the protocol's words, and nothing of
//! when they are said.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::hooks;
use crate::domain::{
    hook::Hook,
    input::{Input, InputBlock, MediaKind},
    options::{LiveChange, Options},
};

/// A control request of ours, with the id that its answer will name.
#[derive(Debug, Clone)]
pub struct ControlRequest {
    /// The id.
    pub id: String,
    /// The line.
    pub line: Bytes,
}

impl ControlRequest {
    pub(super) fn new(request: Value) -> Self {
        let id = Uuid::new_v4().to_string();
        let line = line(&json!({"type": "control_request", "request_id": id, "request": request}));
        Self { id, line }
    }

    /// Stops the running turn.
    pub fn interrupt() -> Self {
        Self::new(json!({"subtype": "interrupt"}))
    }

    /// Stops a task that works in the background. One that is not there is stopped already.
    pub fn stop_task(id: &str) -> Self {
        Self::new(json!({"subtype": "stop_task", "task_id": id}))
    }

    /// Gives a running process variables, which it and all that it starts have from then on.
    pub fn variables(variables: &BTreeMap<String, String>) -> Self {
        Self::new(json!({"subtype": "apply_flag_settings", "settings": {"env": variables}}))
    }

    /// Makes a running process take on an option.
    pub fn change(change: &LiveChange) -> Self {
        Self::new(match change {
            LiveChange::Model(model) => json!({"subtype": "set_model", "model": model}),
            LiveChange::PermissionMode(mode) => {
                json!({"subtype": "set_permission_mode", "mode": mode})
            }
            LiveChange::MaxThinkingTokens(tokens) => {
                json!({"subtype": "set_max_thinking_tokens", "max_thinking_tokens": tokens})
            }
            LiveChange::Effort(level) => {
                json!({"subtype": "apply_flag_settings", "settings": {"effortLevel": level}})
            }
        })
    }
}

/// The first request to a process. It fixes what is in it for the process's life:
/// a second one changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Initialize {
    /// Replaces the CLI's system prompt.
    pub system_prompt: Option<String>,
    /// Added to the CLI's system prompt.
    pub append_system_prompt: Option<String>,
    /// JSON schema of the structured output, as JSON.
    pub json_schema: Option<String>,
    /// Subagents by name, as JSON.
    pub agents: Option<String>,
    /// Names of tool servers that the service answers for.
    pub tool_servers: Vec<String>,
    /// Hooks that callers answer.
    pub hooks: Vec<Hook>,
}

impl Initialize {
    /// What these options say.
    pub fn of(options: &Options) -> Self {
        Self {
            system_prompt: options.system_prompt.clone(),
            append_system_prompt: options.append_system_prompt.clone(),
            json_schema: options.json_schema.clone(),
            agents: options.agents.clone(),
            tool_servers: options.tool_servers.clone(),
            hooks: options.hooks.clone(),
        }
    }

    /// The request.
    pub fn request(&self) -> ControlRequest {
        let hooks = hooks::registered(&self.hooks);
        let mut request = json!({"subtype": "initialize", "hooks": hooks});
        if let Some(text) = &self.system_prompt {
            request["systemPrompt"] = json!([text]);
        }
        if let Some(text) = &self.append_system_prompt {
            request["appendSystemPrompt"] = json!(text);
        }
        if !self.tool_servers.is_empty() {
            request["sdkMcpServers"] = json!(self.tool_servers);
        }
        for (key, text) in [("jsonSchema", &self.json_schema), ("agents", &self.agents)] {
            // Checked to be JSON where it came in; what is not is left out here.
            if let Some(value) = text.as_ref().and_then(|text| serde_json::from_str(text).ok()) {
                request[key] = value;
            }
        }
        ControlRequest::new(request)
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireBlock<'a> {
    Typed { r#type: &'static str, text: &'a str },
    Media { r#type: &'static str, source: Source<'a> },
    Json(&'a RawValue),
}

#[derive(Serialize)]
struct Source<'a> {
    r#type: &'static str,
    media_type: &'a str,
    data: Cow<'a, str>,
}

impl<'a> From<&'a InputBlock> for WireBlock<'a> {
    fn from(block: &'a InputBlock) -> Self {
        match block {
            InputBlock::Text(text) => Self::Typed { r#type: "text", text },
            InputBlock::Media { kind, media_type, data } => Self::Media {
                r#type: match kind {
                    MediaKind::Image => "image",
                    MediaKind::Document => "document",
                },
                source: Source { r#type: "base64", media_type, data: STANDARD.encode(data).into() },
            },
            InputBlock::PlainDocument(text) => Self::Media {
                r#type: "document",
                source: Source { r#type: "text", media_type: "text/plain", data: text.into() },
            },
            InputBlock::Json(json) => Self::Json(json),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireContent<'a> {
    Text(&'a str),
    Blocks(Vec<WireBlock<'a>>),
}

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: WireContent<'a>,
}

#[derive(Serialize)]
struct WirePrompt<'a> {
    r#type: &'static str,
    uuid: String,
    parent_tool_use_id: Option<()>,
    message: WireMessage<'a>,
}

/// The user message that starts a turn. The CLI drops one whose `uuid` it has seen
/// before without a word, so each needs a fresh one.
pub fn user_message(input: &Input, uuid: Uuid) -> Bytes {
    let content = match input {
        Input::Text(text) => WireContent::Text(text),
        Input::Blocks(blocks) => WireContent::Blocks(blocks.iter().map(WireBlock::from).collect()),
    };
    line(&WirePrompt {
        r#type: "user",
        uuid: uuid.to_string(),
        parent_tool_use_id: None,
        message: WireMessage { role: "user", content },
    })
}

/// The answer to a prompt of the CLI. Its id and the decision are JSON, and go as they are:
/// neither has to be JSON that a strict reader takes.
pub(super) fn control_response(prompt_id: &str, response: &str) -> Bytes {
    one_line(format!(
        r#"{{"type":"control_response","response":{{"subtype":"success","request_id":{prompt_id},"response":{response}}}}}"#
    ).into_bytes())
}

/// The answer to a request of the CLI that comes to nothing, in words. Its id goes as it came.
pub fn control_refusal(request_id: &str, why: &str) -> Bytes {
    let why = serde_json::Value::from(why);
    one_line(format!(
        r#"{{"type":"control_response","response":{{"subtype":"error","request_id":{request_id},"error":{why}}}}}"#
    ).into_bytes())
}

fn line(message: &impl Serialize) -> Bytes {
    // Nothing here has keys that are not strings, which is all that can fail.
    one_line(serde_json::to_vec(message).unwrap_or_default())
}

fn one_line(mut line: Vec<u8>) -> Bytes {
    // A caller's own JSON may be laid out in lines. Between tokens a line end is as good
    // as a blank, and within strings there are none.
    for byte in line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &Bytes) -> Value {
        assert_eq!(line.last(), Some(&b'\n'));
        assert_eq!(memchr::memchr_iter(b'\n', line).count(), 1, "one line");
        serde_json::from_slice(line).expect("JSON")
    }

    #[test]
    fn a_prompt_is_one_line_whatever_it_holds() {
        let text = "two\nlines, \"quotes\" and --flags";
        let uuid = Uuid::new_v4();
        let message = parsed(&user_message(&Input::Text(text.into()), uuid));
        assert_eq!(message["message"], json!({"role": "user", "content": text}));
        assert_eq!(message["uuid"], uuid.to_string());
    }

    #[test]
    fn blocks_are_passed_on_in_order() {
        let blocks = vec![
            InputBlock::Text("look".into()),
            InputBlock::Media {
                kind: MediaKind::Image,
                media_type: "image/png".into(),
                data: Bytes::from_static(b"\x89PNG"),
            },
            InputBlock::PlainDocument("notes".into()),
            InputBlock::Json(
                RawValue::from_string(r#"{"type":"x","n":1.50}"#.into()).expect("JSON"),
            ),
        ];
        let line = user_message(&Input::Blocks(blocks), Uuid::new_v4());
        assert!(memchr::memmem::find(&line, br#"{"type":"x","n":1.50}"#).is_some());
        assert_eq!(
            parsed(&line)["message"]["content"],
            json!([
                {"type": "text", "text": "look"},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
                {"type": "document", "source":
                    {"type": "text", "media_type": "text/plain", "data": "notes"}},
                {"type": "x", "n": 1.50},
            ])
        );
    }

    #[test]
    fn a_command_begins_with_a_slash() {
        let text = |text: &str| InputBlock::Text(text.to_owned());
        let json = |json: &str| InputBlock::Json(RawValue::from_string(json.into()).expect("JSON"));
        let blocks = |blocks| Input::Blocks(blocks).may_be_command();
        assert!(Input::Text("\u{feff} /effort low".into()).may_be_command());
        assert!(!Input::Text("look at /etc".into()).may_be_command());
        assert!(blocks(vec![text("look"), text("/effort low")]));
        assert!(blocks(vec![json(r#"{"type":"text","te\u0078t":"\/x"}"#)]));
        assert!(!blocks(vec![json(r#"{"type":"image"}"#), InputBlock::PlainDocument("/x".into())]));
    }

    #[test]
    fn a_block_laid_out_in_lines_stays_on_one() {
        let block = "{\"type\": \"x\",\r\n \"text\": \"a\\nb\"}";
        let raw = RawValue::from_string(block.into()).expect("JSON");
        let line = user_message(&Input::Blocks(vec![InputBlock::Json(raw)]), Uuid::new_v4());
        let content = json!([{"type": "x", "text": "a\nb"}]);
        assert_eq!(parsed(&line)["message"]["content"], content);
    }

    #[test]
    fn initialize_carries_what_is_bound_late() {
        let request = Initialize {
            system_prompt: Some("--dangerously-skip-permissions".into()),
            json_schema: Some(r#"{"type":"object"}"#.into()),
            tool_servers: vec!["shop".into()],
            ..Initialize::default()
        }
        .request();
        let message = parsed(&request.line);
        assert_eq!(message["request_id"], request.id);
        assert_eq!(message["request"]["systemPrompt"], json!(["--dangerously-skip-permissions"]));
        assert_eq!(message["request"]["jsonSchema"], json!({"type": "object"}));
        assert_eq!(message["request"]["sdkMcpServers"], json!(["shop"]));
        assert!(message["request"].get("agents").is_none());
    }
}
