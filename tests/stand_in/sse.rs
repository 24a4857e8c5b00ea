//! The events of a streamed message, encoded.

use bytes::Bytes;
use serde_json::{Value, json};

use super::error;
use super::message::Message;

/// Encodes one message, event by event. Knows which block is open and how much has been said.
#[derive(Debug, Default)]
pub struct Encoder {
    block: usize,
    output_chars: usize,
}

impl Encoder {
    /// `message_start`, and the `ping` the API sends behind it.
    pub fn start(&self, message: &Message) -> Bytes {
        let envelope = json!({
            "type": "message_start",
            "message": message.opening(),
        });
        let mut text = event(&envelope);
        text.push_str(&event(&json!({ "type": "ping" })));
        Bytes::from(text)
    }

    /// `content_block_start` with a block that is still empty.
    pub fn open(&self, empty: &Value) -> Bytes {
        Bytes::from(event(&json!({
            "type": "content_block_start",
            "index": self.block,
            "content_block": empty,
        })))
    }

    /// `content_block_delta` of `kind`, whose payload is the string `field`.
    pub fn delta(&mut self, kind: &str, field: &str, text: &str) -> Bytes {
        self.output_chars += text.len();
        Bytes::from(event(&json!({
            "type": "content_block_delta",
            "index": self.block,
            "delta": { "type": kind, field: text },
        })))
    }

    /// `content_block_stop`.
    pub fn close(&mut self) -> Bytes {
        let index = self.block;
        self.block += 1;
        Bytes::from(event(&json!({ "type": "content_block_stop", "index": index })))
    }

    /// `message_delta` and `message_stop`.
    pub fn finish(&self, message: &Message) -> Bytes {
        let delta = json!({
            "type": "message_delta",
            "delta": { "stop_reason": message.stop_reason(), "stop_sequence": null },
            "usage": message.final_usage(tokens(self.output_chars)),
        });
        let mut text = event(&delta);
        text.push_str(&event(&json!({ "type": "message_stop" })));
        Bytes::from(text)
    }

    /// The `error` event.
    pub fn error(kind: &str, message: &str) -> Bytes {
        Bytes::from(event(&error::body(kind, message)))
    }
}

/// A number of tokens that such a text might have.
pub fn tokens(chars: usize) -> usize {
    chars.div_ceil(4)
}

fn event(data: &Value) -> String {
    let name = data["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}
