//! Single blocks: which there are on which side, and what has to be in them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Message, Role, media};

/// Blocks that the user's side may have.
const OF_USER: [&str; 6] =
    ["text", "image", "document", "search_result", "tool_result", "container_upload"];
/// Blocks that the model's side may have.
const OF_ASSISTANT: [&str; 6] = [
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "server_tool_use",
    "web_search_tool_result",
];
/// Blocks that the result of a tool may have.
const OF_RESULT: [&str; 5] = ["text", "image", "document", "search_result", "tool_reference"];

/// What the stand-in signs a thinking block with. It depends on nothing else, so that a conversation can go
/// on with another stand-in.
pub fn signature(thinking: &str) -> String {
    STANDARD.encode(Sha256::digest(format!("messages-stand-in thought: {thinking}")))
}

/// Checks the blocks of a message.
pub fn check(message: &Message<'_>) -> Result<(), String> {
    let allowed: &[&str] = match message.role {
        Role::User => &OF_USER,
        Role::Assistant => &OF_ASSISTANT,
        Role::System => &["text"],
    };
    for (index, block) in message.blocks.iter().enumerate() {
        one(&format!("{}.content.{index}", message.at), block, allowed)?;
    }
    Ok(())
}

/// Checks that there is something in a text.
pub fn text(owner: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err(format!("{owner}: text content blocks must be non-empty"))
    } else if text.trim().is_empty() {
        Err(format!("{owner}: text content blocks must contain non-whitespace text"))
    } else {
        Ok(())
    }
}

fn one(at: &str, block: &Value, allowed: &[&str]) -> Result<(), String> {
    let kind = block["type"].as_str().unwrap_or_default();
    if !allowed.contains(&kind) {
        let tags = allowed.iter().map(|tag| format!("'{tag}'")).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}"
        ));
    }
    match kind {
        "text" => match block["text"].as_str() {
            Some(said) => text("messages", said),
            None => Err(format!("{at}.text.text: Field required")),
        },
        "thinking" => thinking(at, block),
        "tool_use" => tool_use(at, block),
        "tool_result" => tool_result(at, block),
        "image" => media::image(at, &block["source"]),
        "document" => media::document(at, &block["source"]),
        _ => Ok(()),
    }
}

fn thinking(at: &str, block: &Value) -> Result<(), String> {
    let Some(thought) = block["thinking"].as_str() else {
        return Err(format!("{at}.thinking.thinking: Field required"));
    };
    match block["signature"].as_str() {
        None => Err(format!("{at}.thinking.signature: Field required")),
        Some(given) if given == signature(thought) => Ok(()),
        Some(_) => Err(format!("{at}: Invalid `signature` in `thinking` block")),
    }
}

fn tool_use(at: &str, block: &Value) -> Result<(), String> {
    word(&format!("{at}.tool_use.id"), &block["id"])?;
    word(&format!("{at}.tool_use.name"), &block["name"])?;
    match block["input"].is_object() {
        true => Ok(()),
        false => Err(format!("{at}.tool_use.input: Input should be a valid dictionary")),
    }
}

/// Ids and names of tools are words.
fn word(at: &str, value: &Value) -> Result<(), String> {
    let fits = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    match value.as_str() {
        None => Err(format!("{at}: Field required")),
        Some(given) if fits(given) => Ok(()),
        Some(_) => Err(format!("{at}: String should match pattern '^[a-zA-Z0-9_-]+$'")),
    }
}

fn tool_result(at: &str, block: &Value) -> Result<(), String> {
    word(&format!("{at}.tool_result.tool_use_id"), &block["tool_use_id"])?;
    match &block["content"] {
        Value::Null | Value::String(_) => Ok(()),
        Value::Array(held) => held.iter().enumerate().try_for_each(|(index, block)| {
            one(&format!("{at}.tool_result.content.{index}"), block, &OF_RESULT)
        }),
        _ => Err(format!("{at}.tool_result.content: Input should be a valid list")),
    }
}
