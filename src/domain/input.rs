//! The prompt of a turn: text, or blocks.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// One block of a prompt.
#[derive(Debug, Clone)]
pub enum InputBlock {
    /// Text.
    Text(String),
    /// An image or a document, inline.
    Media {
        /// Which of the two.
        kind: MediaKind,
        /// IANA media type.
        media_type: String,
        /// The bytes.
        data: Bytes,
    },
    /// A document of plain text, which has a source of its own kind.
    PlainDocument(String),
    /// Another block, as a JSON object.
    Json(Box<RawValue>),
}

/// What an inline medium is.
#[derive(Debug, Clone, Copy)]
pub enum MediaKind {
    /// An image.
    Image,
    /// A document.
    Document,
}

/// What a turn asks.
#[derive(Debug, Clone)]
pub enum Input {
    /// Plain text.
    Text(String),
    /// Blocks.
    Blocks(Vec<InputBlock>),
}

impl Input {
    /// Whether the CLI may take it for one of its commands.
    pub fn may_be_command(&self) -> bool {
        #[derive(Deserialize)]
        struct Block<'a> {
            #[serde(borrow)]
            text: Cow<'a, str>,
        }
        let is_command = |block: &InputBlock| match block {
            InputBlock::Text(text) => may_be_command(text),
            InputBlock::Json(json) => serde_json::from_str::<Block<'_>>(json.get())
                .is_ok_and(|block| may_be_command(&block.text)),
            InputBlock::Media { .. } | InputBlock::PlainDocument(_) => false,
        };
        match self {
            Self::Text(text) => may_be_command(text),
            Self::Blocks(blocks) => blocks.iter().any(is_command),
        }
    }
}

/// Whether the CLI may take a text for one of its commands: it does so wherever a block of
/// text stands, and some versions pass over blanks before the slash.
pub fn may_be_command(text: &str) -> bool {
    // What the CLI takes for blank includes the byte order mark.
    let begun = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    begun.starts_with('/')
}
