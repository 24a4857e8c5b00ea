//! A message as the API has it: what is in it, and in which way it reaches the client.

use std::time::Duration;

use serde_json::{Value, json};

use super::ids;
use super::record::RecordedRequest;
use super::sse;

/// A message to deliver.
#[derive(Debug)]
pub struct Message {
    id: String,
    model: String,
    input_tokens: usize,
    /// What it consists of, in order.
    pub pieces: Vec<Piece>,
}

/// A part of a message, or of what goes wrong with it.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// A text block.
    Text(Text),
    /// A thinking block.
    Thinking(String),
    /// A tool call; always the last piece.
    ToolUse {
        /// Id of the call.
        id: String,
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// A pause in mid-stream.
    Pause(Duration),
    /// The end of the stream before its time; always the last piece.
    Broken(Break),
}

/// The text of a block and how it is cut into deltas.
#[derive(Debug, PartialEq)]
pub enum Text {
    /// A few deltas.
    Whole(String),
    /// One numbered word per delta.
    Words {
        /// Number of deltas.
        count: u32,
        /// Pause before each but the first.
        every: Duration,
    },
    /// Deltas of a given size.
    Deltas {
        /// Number of deltas.
        count: u32,
        /// Characters in each.
        size: usize,
    },
}

/// How a stream breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Silence behind the headers, before any event.
    SilentFromTheStart,
    /// Silence inside a text block.
    Silent,
    /// The connection goes, inside a text block.
    Dropped,
    /// An `error` event.
    ErrorEvent,
}

impl Message {
    /// The answer to `request`.
    pub fn new(request: &RecordedRequest, pieces: Vec<Piece>) -> Self {
        let model = request.body["model"].as_str().unwrap_or_default();
        Self {
            id: ids::message(),
            model: model.to_owned(),
            input_tokens: sse::tokens(request.body_bytes),
            pieces,
        }
    }

    /// Why the message ends.
    pub fn stop_reason(&self) -> &'static str {
        match self.pieces.last() {
            Some(Piece::ToolUse { .. }) => "tool_use",
            _ => "end_turn",
        }
    }

    /// The `usage` object.
    pub fn usage(&self, output_tokens: usize) -> Value {
        json!({
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        })
    }

    /// The message object with `content` in it.
    pub fn envelope(
        &self,
        content: Vec<Value>,
        stop_reason: Option<&str>,
        output_tokens: usize,
    ) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": self.usage(output_tokens),
        })
    }
}
