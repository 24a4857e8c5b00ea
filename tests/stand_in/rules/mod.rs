//! What the Messages API refuses with 400, in its own words. Owns the rules and knows nothing of scripts.
//!
//! A client that sends a broken history is told so at every later turn of that conversation, so a test that
//! would not notice is worthless: every request to the stand-in is held against these rules.
//!
//! | rule | module |
//! |---|---|
//! | required members, roles, the first and the last message, cache marks | this one |
//! | each tool call has its one result right behind it | [`tools`] |
//! | which blocks there are, texts that are not blank, thinking as it was signed | [`blocks`] |
//! | images and documents that are what they say they are, within their bounds | [`media`] |
//!
//! A body that is no JSON (invalid UTF-8, a lone surrogate, …) never gets here: [`super::record`] notes what
//! is wrong with it.

mod blocks;
mod media;
#[cfg(test)]
mod tests;
mod tools;

use serde_json::Value;

pub use blocks::signature;

/// The rest of a request may have so many marks for the cache.
const MAX_CACHE_MARKS: usize = 4;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
    /// Instructions between messages, which newer models take.
    System,
}

/// One message of the history.
#[derive(Debug)]
struct Message<'a> {
    /// Its place, as errors name it: `messages.3`.
    at: String,
    role: Role,
    /// Its blocks; a content that is a string has none.
    blocks: &'a [Value],
}

/// Which of the two things that take a conversation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `/v1/messages`
    Answer,
    /// `/v1/messages/count_tokens`
    Count,
}

/// Why the API would refuse this body.
pub fn check(body: &Value, purpose: Purpose) -> Result<(), String> {
    if body["model"].as_str().is_none_or(str::is_empty) {
        return Err("model: Field required".to_owned());
    }
    match &body["max_tokens"] {
        _ if purpose == Purpose::Count => {}
        Value::Null => return Err("max_tokens: Field required".to_owned()),
        given if given.as_u64().is_some_and(|tokens| tokens > 0) => {}
        _ => return Err("max_tokens: Input should be greater than or equal to 1".to_owned()),
    }
    let messages = body["messages"].as_array().ok_or("messages: Field required")?;
    system(&body["system"])?;
    let messages = messages
        .iter()
        .enumerate()
        .map(|(index, message)| read(index, message))
        .collect::<Result<Vec<_>, _>>()?;
    ends(&messages)?;
    for message in &messages {
        blocks::check(message)?;
    }
    media::check_together(&messages)?;
    tools::check(&messages)?;
    cache_marks(body)
}

fn read(index: usize, message: &Value) -> Result<Message<'_>, String> {
    let at = format!("messages.{index}");
    let role = match message["role"].as_str() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        _ => return Err(format!("{at}.role: Input should be 'user' or 'assistant'")),
    };
    let blocks = match &message["content"] {
        Value::String(text) => {
            filled(&at, text.is_empty())?;
            blocks::text("messages", text)?;
            &[]
        }
        Value::Array(blocks) => {
            // 2.1.332 changes the effort in mid-conversation by a message that says nothing else.
            let sets = role == Role::System && message["output_config"].is_object();
            filled(&at, blocks.is_empty() && !sets)?;
            blocks.as_slice()
        }
        Value::Null => return Err(format!("{at}.content: Field required")),
        _ => return Err(format!("{at}.content: Input should be a valid list")),
    };
    Ok(Message { at, role, blocks })
}

fn filled(at: &str, empty: bool) -> Result<(), String> {
    match empty {
        true => Err(format!(
            "{at}: all messages must have non-empty content except for the optional final assistant message"
        )),
        false => Ok(()),
    }
}

/// A conversation begins and ends with the user.
fn ends(messages: &[Message<'_>]) -> Result<(), String> {
    let first = messages.first().ok_or("messages: at least one message is required")?;
    if first.role != Role::User {
        return Err("messages: first message must use the \"user\" role".to_owned());
    }
    match messages.iter().rfind(|message| message.role != Role::System) {
        Some(last) if last.role == Role::Assistant => {
            Err("This model does not support assistant message prefill. The conversation must end with a user message."
                .to_owned())
        }
        _ => Ok(()),
    }
}

fn system(system: &Value) -> Result<(), String> {
    match system {
        Value::Null | Value::String(_) => Ok(()),
        Value::Array(blocks) => blocks.iter().enumerate().try_for_each(|(index, block)| {
            match (block["type"].as_str(), block["text"].as_str()) {
                (Some("text"), Some(text)) => blocks::text("system", text),
                (Some("text"), None) => Err(format!("system.{index}.text: Field required")),
                _ => Err(format!("system.{index}.type: Input should be 'text'")),
            }
        }),
        _ => Err("system: Input should be a valid list".to_owned()),
    }
}

fn cache_marks(body: &Value) -> Result<(), String> {
    let found = marks(&body["system"]) + marks(&body["messages"]) + marks(&body["tools"]);
    match found > MAX_CACHE_MARKS {
        true => Err(format!(
            "A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {found}."
        )),
        false => Ok(()),
    }
}

/// Blocks with a mark. The input of a tool and its schema are data, whatever they are called.
fn marks(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(marks).sum(),
        Value::Object(members) => {
            let own = usize::from(members.get("cache_control").is_some_and(Value::is_object));
            own + members.get("content").map_or(0, marks)
        }
        _ => 0,
    }
}
