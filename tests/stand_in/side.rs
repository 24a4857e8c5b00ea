//! What the CLI asks for and says by itself, though it looks like part of the conversation.
//!
//! Side requests and notices are answered with something harmless; they never take a step of a script.
//! Seen with 2.1.110, 2.1.197 and 2.1.330: a title for the session (only where non-essential traffic is allowed),
//! a summary for `/compact`, the reminder to call `StructuredOutput`, and the turn that the CLI starts when
//! a background task ends. The quota check of interactive sessions has `max_tokens` 1.

use serde_json::Value;

/// The tool that `jsonSchema` in `initialize` brings with it.
const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// A text in the user's place that the CLI wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A background task ended.
    TaskEnded,
    /// The conversation goes on from a summary.
    Continued,
    /// A summary of the conversation is wanted.
    Summarise,
    /// The answer was to be a call of `StructuredOutput`.
    StructuredOutput,
}

impl Notice {
    /// Recognises a notice by the words that the CLI uses.
    pub fn of(text: &str) -> Option<Self> {
        const OPENINGS: [(&str, Notice); 6] = [
            ("<task-notification>", Notice::TaskEnded),
            ("<system-reminder>\n[SYSTEM NOTIFICATION", Notice::TaskEnded),
            ("This session is being continued from", Notice::Continued),
            ("CRITICAL: Respond with TEXT ONLY", Notice::Summarise),
            ("[structured-output-enforce]", Notice::StructuredOutput),
            // 2.1.110 repeats it until it is obeyed.
            ("Stop hook feedback:\nYou MUST call the StructuredOutput", Notice::StructuredOutput),
        ];
        let text = text.trim_start();
        let opening = OPENINGS.iter().find(|(opening, _)| text.starts_with(opening));
        opening.map(|(_, notice)| *notice)
    }
}

/// The answer to a request that is no turn at all; `None` for every other.
pub fn answer(body: &Value) -> Option<String> {
    if body["max_tokens"].as_u64() == Some(1) {
        return Some("OK".to_owned());
    }
    let schema = &body["output_config"]["format"]["schema"];
    schema.is_object().then(|| instance(schema).to_string())
}

/// The call that `StructuredOutput` wants: the tool's name and some input that its schema allows.
pub fn structured_output(body: &Value) -> Option<(String, Value)> {
    let tools = body["tools"].as_array()?;
    let tool = tools.iter().find(|tool| tool["name"] == STRUCTURED_OUTPUT)?;
    Some((STRUCTURED_OUTPUT.to_owned(), instance(&tool["input_schema"])))
}

/// Something that fits a schema, as far as the usual keywords go.
fn instance(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object();
            let members = properties.into_iter().flatten();
            members.map(|(name, schema)| (name.clone(), instance(schema))).collect()
        }
        Some("array") => Value::Array(Vec::new()),
        Some("boolean") => Value::Bool(false),
        Some("integer" | "number") => Value::from(0),
        Some("null") => Value::Null,
        _ => Value::from("Stand-in"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_for_a_title_gets_one_of_the_form_asked_for() {
        let schema = json!({ "type": "object", "properties": { "title": { "type": "string" } } });
        let body = json!({ "output_config": { "format": { "schema": schema } } });
        assert_eq!(answer(&body).as_deref(), Some(r#"{"title":"Stand-in"}"#));
        assert_eq!(answer(&json!({ "output_config": { "effort": "high" } })), None);
    }

    #[test]
    fn the_quota_check_is_no_turn() {
        assert_eq!(answer(&json!({ "max_tokens": 1 })).as_deref(), Some("OK"));
    }

    #[test]
    fn structured_output_is_called_with_what_its_schema_allows() {
        let schema = json!({
            "type": "object",
            "properties": { "n": { "type": "integer" }, "kind": { "enum": ["a", "b"] } },
        });
        let body = json!({ "tools": [{ "name": "StructuredOutput", "input_schema": schema }] });
        let input = json!({ "n": 0, "kind": "a" });
        let called = Some(("StructuredOutput".to_owned(), input));
        assert_eq!(structured_output(&body), called);
    }
}
