//! What is offered by ServeTools, and what is answered: bounds, and what the CLI and the API
//! would refuse later, for every session that uses it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, value::RawValue};
use tonic::Status;

use super::{
    check::{Check, MAX_DEPTH, depth, shown},
    media::{self, Slot},
};
use crate::{
    domain::{ids::SessionId, input::InputBlock, options::Options},
    policy::{Denial, Policy},
    proto,
    tools::{Answer, Content, MAX_ANSWER, MAX_TOOLS, Offer, Progress, Served, Tool},
};

const MAX_SERVER_NAME: usize = 48;
const MAX_TOOL_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 16 * 1024;
const MAX_SCHEMA: usize = 64 * 1024;
const MAX_ANNOTATIONS: usize = 4 * 1024;
/// Bytes of all tools of an offer.
const MAX_OFFER: usize = 1 << 20;
const MAX_SESSIONS: usize = 256;
/// Servers of one session.
const MAX_SERVERS: usize = 16;
const MAX_BLOCKS: usize = 100;
const MAX_MESSAGE: usize = 4 * 1024;
/// The schema of a tool without arguments.
const NO_ARGUMENTS: &str = r#"{"type":"object"}"#;

/// Whether tools may be offered at all.
pub fn may_serve_tools(policy: &Policy) -> Result<(), Status> {
    let mut check = Check::default();
    let denial = |allowed: &str| Denial { at: String::new(), allowed: allowed.to_owned() };
    check.deny_all("register", policy.judge_tool_servers().map(denial).into_iter().collect());
    check.finish(())
}

/// The offer that a stream begins with.
pub fn offer(first: Option<proto::ServeToolsRequest>) -> Result<Offer, Status> {
    use proto::serve_tools_request::Message;
    let mut check = Check::default();
    let Some(Message::Register(register)) = first.and_then(|first| first.message) else {
        check.bad("message", "must be register in the first request");
        return check.finish(()).and(Err(Status::internal("it was refused")));
    };
    let proto::RegisterTools { server, tools, sessions } = register;
    server_name(&mut check, "register.server", &server);
    if tools.is_empty() || tools.len() > MAX_TOOLS {
        let problem = format!("must have 1 to {MAX_TOOLS} entries, has {}", tools.len());
        check.bad("register.tools", problem);
    }
    let size: usize = tools.iter().map(size_of).sum();
    if size > MAX_OFFER {
        let problem = format!("must have at most {MAX_OFFER} bytes in all, has {size}");
        check.bad("register.tools", problem);
    }
    let mut names = BTreeSet::new();
    let mut known = Vec::with_capacity(tools.len().min(MAX_TOOLS));
    for (index, tool) in tools.into_iter().enumerate().take(MAX_TOOLS) {
        let field = format!("register.tools[{index}]");
        if !names.insert(tool.name.clone()) {
            let problem = format!("must not be named before, is {}", shown(&tool.name));
            check.bad(&format!("{field}.name"), problem);
        }
        known.extend(tool_of(&mut check, &field, tool));
    }
    let sessions = served(&mut check, sessions.unwrap_or_default());
    check.finish(Offer { server, tools: known, sessions })
}

fn size_of(tool: &proto::Tool) -> usize {
    let proto::Tool { name, description, input_schema_json, annotations_json } = tool;
    name.len() + description.len() + input_schema_json.len() + annotations_json.len()
}

/// The model knows a tool as `mcp__SERVER__TOOL`, in 128 characters of this alphabet.
fn name(check: &mut Check, field: &str, text: &str, limit: usize) {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.is_empty() || text.len() > limit || !text.chars().all(known) {
        let text = shown(text);
        check.bad(field, format!("must have 1 to {limit} characters of A-Za-z0-9_-, is {text}"));
    }
}

fn server_name(check: &mut Check, field: &str, text: &str) {
    name(check, field, text, MAX_SERVER_NAME);
    if text.contains("__") {
        // Else a tool of one server could be named as one of another.
        check.bad(field, format!("must not contain __, is {}", shown(text)));
    }
}

fn tool_of(check: &mut Check, field: &str, tool: proto::Tool) -> Option<Tool> {
    let proto::Tool { name: text, description, input_schema_json, annotations_json } = tool;
    name(check, &format!("{field}.name"), &text, MAX_TOOL_NAME);
    check.text(&format!("{field}.description"), &description, MAX_DESCRIPTION);
    let at = format!("{field}.input_schema_json");
    let schema = match input_schema_json.as_str() {
        "" => NO_ARGUMENTS.to_owned(),
        _ => input_schema_json,
    };
    if let Some(schema) = check.json_map(&at, &schema, MAX_SCHEMA)
        && let Some(problem) = problem_of_schema(&schema)
    {
        check.bad(&at, problem);
    }
    let annotations = (!annotations_json.is_empty()).then_some(annotations_json);
    if let Some(text) = &annotations {
        let at = format!("{field}.annotations_json");
        let annotations = check.json_map(&at, text, MAX_ANNOTATIONS);
        if let Some(problem) = annotations.as_ref().and_then(problem_of_annotations) {
            check.bad(&at, problem);
        }
    }
    let raw = |text: String| RawValue::from_string(text).ok();
    Some(Tool {
        name: text,
        description,
        input_schema: raw(schema)?,
        annotations: annotations.and_then(raw),
    })
}

/// What the CLI would refuse all tools of the server for.
fn problem_of_schema(schema: &Map<String, Value>) -> Option<&'static str> {
    let required =
        |value: &Value| value.as_array().is_some_and(|it| it.iter().all(Value::is_string));
    if schema.get("type") != Some(&Value::from("object")) {
        Some("must have the type \"object\"")
    } else if schema.get("properties").is_some_and(|properties| !properties.is_object()) {
        Some("must have an object as its properties")
    } else if schema.get("required").is_some_and(|names| !required(names)) {
        Some("must have an array of strings as required")
    } else {
        None
    }
}

/// Likewise.
fn problem_of_annotations(annotations: &Map<String, Value>) -> Option<&'static str> {
    let hints = ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];
    let is_hint = |name: &str| annotations.get(name).is_none_or(Value::is_boolean);
    if !hints.into_iter().all(is_hint) {
        Some("must have true or false as hints")
    } else if annotations.get("title").is_some_and(|title| !title.is_string()) {
        Some("must have a string as title")
    } else {
        None
    }
}

fn served(check: &mut Check, sessions: proto::ToolSessions) -> Served {
    let field = "register.sessions";
    let proto::ToolSessions { all, ids } = sessions;
    match (all, ids.is_empty()) {
        (true, true) => return Served::All,
        (true, false) => check.bad(field, "must have either all or ids, has both"),
        (false, true) => check.bad(field, "must be set: all, or ids"),
        (false, false) => {}
    }
    if ids.len() > MAX_SESSIONS {
        let problem = format!("must have at most {MAX_SESSIONS} entries, has {}", ids.len());
        check.bad(&format!("{field}.ids"), problem);
    }
    let ids = ids.iter().enumerate().take(MAX_SESSIONS).filter_map(|(index, id)| {
        check.name(&format!("{field}.ids[{index}]"), id, SessionId::parse)
    });
    Served::Only(ids.collect())
}

/// What a stream says behind its offer.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// The answer to a call, or what is wrong with it.
    Answer(u64, Result<Answer, String>),
    /// How far a call has come.
    Progress(u64, Progress),
}

/// Decodes what a stream says behind its offer.
pub fn said(request: proto::ServeToolsRequest) -> Result<Said, Status> {
    use proto::serve_tools_request::Message;
    let mut check = Check::default();
    match request.message {
        Some(Message::Result(proto::ToolResult { call_id, content, is_error })) => {
            let id = call(&mut check, "result.call_id", &call_id);
            let answer = answer(content, is_error);
            check.finish(Said::Answer(id, answer))
        }
        Some(Message::Progress(told)) => {
            let proto::ToolProgress { call_id, progress, total, message } = told;
            let id = call(&mut check, "progress.call_id", &call_id);
            check.text("progress.message", &message, MAX_MESSAGE);
            for (field, figure) in [("progress", Some(progress)), ("total", total)] {
                if let Some(figure) = figure.filter(|figure| !figure.is_finite()) {
                    let problem = format!("must be finite, is {figure}");
                    check.bad(&format!("progress.{field}"), problem);
                }
            }
            check.finish(Said::Progress(id, Progress { progress, total, message }))
        }
        Some(Message::Register(_)) => {
            check.bad("register", "must be in the first request only");
            check.finish(Said::Answer(0, Err(String::new())))
        }
        None => {
            check.bad("message", "must be result or progress");
            check.finish(Said::Answer(0, Err(String::new())))
        }
    }
}

fn call(check: &mut Check, field: &str, text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| {
        check.bad(field, format!("must be the call_id of a call, is {}", shown(text)));
        0
    })
}

/// An answer, or what is wrong with it: that is nothing to end the other calls for.
fn answer(content: Vec<proto::ToolContent>, is_error: bool) -> Result<Answer, String> {
    let mut check = Check::default();
    let field = "result.content";
    if content.len() > MAX_BLOCKS {
        let problem = format!("must have at most {MAX_BLOCKS} blocks, has {}", content.len());
        check.bad(field, problem);
    }
    let blocks = content.into_iter().take(MAX_BLOCKS).enumerate();
    let content: Vec<_> = blocks
        .filter_map(|(index, block)| content_of(&mut check, &format!("{field}[{index}]"), block))
        .collect();
    let size: usize = content.iter().map(Content::bytes).sum();
    if size > MAX_ANSWER {
        check.bad(field, format!("must have at most {MAX_ANSWER} bytes in all, has {size}"));
    }
    check.finish(Answer { content, is_error }).map_err(|status| status.message().to_owned())
}

fn content_of(check: &mut Check, field: &str, content: proto::ToolContent) -> Option<Content> {
    use proto::tool_content::Block;
    match content.block {
        // The API takes no empty text.
        Some(Block::Text(text)) if text.is_empty() => None,
        Some(Block::Text(text)) => {
            check.text(&format!("{field}.text"), &text, MAX_ANSWER);
            Some(Content::Text(text))
        }
        Some(Block::Image(image)) => match media::inline(check, field, Slot::Image, image) {
            InputBlock::Media { media_type, data, .. } => Some(Content::Image { media_type, data }),
            InputBlock::Text(_) | InputBlock::PlainDocument(_) | InputBlock::Json(_) => None,
        },
        Some(Block::ValueJson(text)) => {
            let at = format!("{field}.value_json");
            check.text(&at, &text, MAX_ANSWER);
            if depth(&text) > MAX_DEPTH || serde_json::from_str::<&RawValue>(&text).is_err() {
                check.bad(&at, format!("must be JSON, nested at most {MAX_DEPTH} deep"));
            }
            Some(Content::Text(text))
        }
        None => {
            check.bad(field, "must have text, image or value_json");
            None
        }
    }
}

/// The servers that a session names.
pub(super) fn servers(check: &mut Check, field: &str, options: &Options) {
    let names = &options.tool_servers;
    if names.len() > MAX_SERVERS {
        check.bad(field, format!("must have at most {MAX_SERVERS} entries, has {}", names.len()));
    }
    let others = options.mcp_server_names();
    let mut seen = BTreeSet::new();
    for (index, text) in names.iter().enumerate().take(MAX_SERVERS) {
        let field = format!("{field}[{index}]");
        server_name(check, &field, text);
        if !seen.insert(text) {
            check.bad(&field, format!("must not be named before, is {}", shown(text)));
        }
        if others.contains(text) {
            check.bad(&field, format!("must not be a name in mcp_servers, is {}", shown(text)));
        }
    }
}

#[cfg(test)]
mod tests;
