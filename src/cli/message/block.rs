//! Blocks of a message.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::cli::json::{Json, Lenient, Read, Text, members, object, read_or_default, whole};

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

impl<'a> Lenient<'a> for Content<'a> {
    fn read(raw: &'a RawValue) -> Read<Self> {
        match raw.get().as_bytes().first() {
            Some(b'"') => {
                Text::read(raw).value().map_or(Read::Nothing, |text| Read::Whole(Self::Plain(text)))
            }
            Some(b'[') => serde_json::from_str(raw.get())
                .map_or(Read::Nothing, |blocks| Read::Whole(Self::Blocks(blocks))),
            _ if raw.get() == "null" => Read::Whole(Self::default()),
            _ => Read::Nothing,
        }
    }

    fn read_whole<D: Deserializer<'a>>(value: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'a> Visitor<'a> for ContentVisitor {
            type Value = Content<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("blocks, or a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'a str) -> Result<Content<'a>, E> {
                Ok(Content::Plain(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content<'a>, E> {
                Ok(Content::Plain(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Content<'a>, E> {
                Ok(Content::default())
            }

            fn visit_seq<S: SeqAccess<'a>>(self, mut items: S) -> Result<Content<'a>, S::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = items.next_element()? {
                    blocks.push(block);
                }
                Ok(Content::Blocks(blocks))
            }
        }

        value.deserialize_any(ContentVisitor)
    }
}

object! {
    /// A block of type `text`.
    TextBlock {
        /// Always `text`.
        "type" => _kind: Text<'a>,
        /// The text.
        "text" => text: Text<'a>,
    }
}

object! {
    /// A block of type `thinking`.
    ThinkingBlock {
        /// Always `thinking`.
        "type" => _kind: Text<'a>,
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
        "type" => _kind: Text<'a>,
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
        "type" => _kind: Text<'a>,
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

impl<'a> Block<'a> {
    /// Reads one block; what is not of a known type is `Other`.
    pub fn parse(raw: &'a RawValue) -> Self {
        Self::type_first(raw.get()).unwrap_or_else(|| Self::type_anywhere(raw.get()))
    }

    /// Reads a block that says first of which type it is, as the API does, and of which nothing
    /// is odd: in one pass.
    fn type_first(json: &'a str) -> Option<Self> {
        let (kind, _) = json.strip_prefix(r#"{"type":""#)?.split_once('"')?;
        match kind {
            "text" => whole(json).map(Self::Text),
            "thinking" => whole(json).map(Self::Thinking),
            "tool_use" => whole(json).map(Self::ToolUse),
            "tool_result" => whole(json).map(Self::ToolResult),
            _ => None,
        }
    }

    fn type_anywhere(json: &'a str) -> Self {
        let mut kind = None;
        members(json, |key, _, value| {
            if key == "type" && (kind.is_none() || value.get().starts_with('"')) {
                kind = Some(value);
            }
        });
        let kind: Text<'a> = read_or_default(kind);
        let known = match &*kind.0 {
            "text" => TextBlock::parse(json).map(Self::Text),
            "thinking" => ThinkingBlock::parse(json).map(Self::Thinking),
            "tool_use" => ToolUseBlock::parse(json).map(Self::ToolUse),
            "tool_result" => ToolResultBlock::parse(json).map(Self::ToolResult),
            _ => None,
        };
        known.unwrap_or(Self::Other(kind, json))
    }
}
