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
    figures: Usage,
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

/// Figures of tokens that a script sets; the others are made up from the lengths of the texts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// `input_tokens`
    pub input: Option<u32>,
    /// `output_tokens` at the end of the message
    pub output: Option<u32>,
    /// `cache_read_input_tokens`
    pub cache_read: Option<u32>,
    /// `cache_creation_input_tokens`
    pub cache_write: Option<u32>,
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
    pub fn new(request: &RecordedRequest, pieces: Vec<Piece>, figures: Usage) -> Self {
        let model = request.body["model"].as_str().unwrap_or_default();
        Self {
            id: ids::message(),
            model: model.to_owned(),
            input_tokens: sse::tokens(request.body_bytes),
            figures,
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

    /// The `usage` object at the end of the message.
    pub fn final_usage(&self, output_tokens: usize) -> Value {
        let set = self.figures.output.and_then(|tokens| usize::try_from(tokens).ok());
        self.usage(set.unwrap_or(output_tokens))
    }

    /// The `usage` object.
    fn usage(&self, output_tokens: usize) -> Value {
        let Usage { input, cache_read, cache_write, output: _ } = self.figures;
        let input = input.and_then(|tokens| usize::try_from(tokens).ok());
        json!({
            "input_tokens": input.unwrap_or(self.input_tokens),
            "cache_creation_input_tokens": cache_write.unwrap_or(0),
            "cache_read_input_tokens": cache_read.unwrap_or(0),
            "output_tokens": output_tokens,
            "service_tier": "standard",
        })
    }

    /// The message object as a stream begins with it.
    pub fn opening(&self) -> Value {
        self.envelope(Vec::new(), None, self.usage(1))
    }

    /// The whole message object.
    pub fn whole(&self, content: Vec<Value>, output_tokens: usize) -> Value {
        self.envelope(content, Some(self.stop_reason()), self.final_usage(output_tokens))
    }

    fn envelope(&self, content: Vec<Value>, stop_reason: Option<&str>, usage: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": usage,
        })
    }
}
