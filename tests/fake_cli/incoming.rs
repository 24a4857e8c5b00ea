//! What a line on stdin means. Pure.

use serde_json::Value;

/// A user message.
#[derive(Clone, Debug, PartialEq)]
pub struct UserMessage {
    pub uuid: Option<String>,
    pub text: String,
}

/// A line of stdin, understood.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    User(UserMessage),
    ControlRequest {
        id: Value,
        request: Value,
    },
    /// The answer to a control request of the fake's own.
    ControlResponse(Value),
    /// The CLI passes over it in silence.
    Ignored,
    /// The CLI dies of it: the text for stderr, before exit 1.
    Fatal(String),
}

impl Incoming {
    pub fn of_line(line: &[u8]) -> Self {
        if line.is_empty() {
            return Self::Ignored;
        }
        // The real one replaces invalid UTF-8 instead of minding it.
        let line = String::from_utf8_lossy(line);
        let Ok(mut value) = serde_json::from_str::<Value>(&line) else {
            let count = line.chars().count();
            return Self::Fatal(format!(
                "Error parsing streaming input line (type=unknown, {count} chars): SyntaxError"
            ));
        };
        match value["type"].as_str() {
            Some("user") => user(&value),
            Some("control_request") if value["request"].is_object() => Self::ControlRequest {
                id: value["request_id"].take(),
                request: value["request"].take(),
            },
            Some("control_request") => {
                Self::Fatal("Error: Missing request on control_request".to_owned())
            }
            Some("control_response") => Self::ControlResponse(value["response"].take()),
            _ => Self::Ignored,
        }
    }
}

fn user(value: &Value) -> Incoming {
    let message = &value["message"];
    let role = message["role"].as_str().unwrap_or("undefined");
    if role != "user" {
        return Incoming::Fatal(format!("Error: Expected message role 'user', got '{role}'"));
    }
    Incoming::User(UserMessage {
        uuid: value["uuid"].as_str().map(str::to_owned),
        text: text_of(&message["content"]),
    })
}

/// The words of a message's content; blocks that are no text are named in brackets.
fn text_of(content: &Value) -> String {
    let words = match content {
        Value::String(words) => words.clone(),
        Value::Array(blocks) => {
            let block = |block: &Value| match block["text"].as_str() {
                Some(words) => words.to_owned(),
                None => format!("[{}]", block["type"].as_str().unwrap_or("unknown")),
            };
            blocks.iter().map(block).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    };
    if words.is_empty() { "(no content)".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> String {
        match Incoming::of_line(line.as_bytes()) {
            Incoming::User(message) => message.text,
            other => panic!("not a user message: {other:?}"),
        }
    }

    #[test]
    fn content_is_text_or_blocks() {
        assert_eq!(text(r#"{"type":"user","message":{"role":"user","content":"x"}}"#), "x");
        assert_eq!(
            text(
                r#"{"type":"user","message":{"role":"user","content":[{"type":"text","text":"x"},{"type":"image"}]}}"#
            ),
            "x\n[image]"
        );
        assert_eq!(
            text(r#"{"type":"user","message":{"role":"user","content":[]}}"#),
            "(no content)"
        );
    }

    #[test]
    fn what_the_cli_ignores_is_ignored() {
        for line in ["", "42", "{}", "[1]", r#"{"type":"keep_alive"}"#] {
            assert_eq!(Incoming::of_line(line.as_bytes()), Incoming::Ignored, "{line}");
        }
    }

    #[test]
    fn what_the_cli_dies_of_is_fatal() {
        for (line, text) in [
            (
                "{not json",
                "Error parsing streaming input line (type=unknown, 9 chars): SyntaxError",
            ),
            (r#"{"type":"user"}"#, "Error: Expected message role 'user', got 'undefined'"),
            (r#"{"type":"control_request"}"#, "Error: Missing request on control_request"),
        ] {
            assert_eq!(Incoming::of_line(line.as_bytes()), Incoming::Fatal(text.to_owned()));
        }
    }
}
