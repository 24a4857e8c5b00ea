//! Blocks of a message.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Json,
    object::{Extra, Text, object},
};

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
