//! Permission prompts: `can_use_tool`, and what becomes of the tool by the answer.

use serde_json::Value;

use crate::frames;
use crate::ids;
use crate::json::{Json, object};
use crate::session::{Flow, Session, Stop};
use crate::turn::Turn;

const STREAM_CLOSED: &str = "Tool permission request failed: AbortError: Tool permission stream closed before response received";

const NO_BEHAVIOR: &str = r#"        {
          "code": "invalid_value",
          "values": [
            "allow"
          ],
          "path": [
            "behavior"
          ],
          "message": "Invalid input: expected \"allow\""
        },
"#;

/// What the answer makes of the tool.
#[derive(Debug, PartialEq)]
enum Verdict {
    Run(Value),
    Refuse {
        text: String,
    },
    /// Refused, and the turn ends.
    Interrupt,
}

impl Turn {
    /// Uses a tool, asks whether it may, and prints what became of it.
    pub fn ask(&mut self, session: &mut Session, tool: &str, input: &Value) -> Flow {
        let id = ids::prefixed("toolu_");
        let block = frames::tool_use_block(&id, tool, input);
        let message =
            frames::assistant_message(&ids::prefixed("msg_"), &session.settings.model, &[block]);
        self.assistant(session, &message, false);
        self.open_tools.push(id.clone());
        let denial = object! { "tool_name": tool, "tool_use_id": id, "tool_input": input };
        let verdict = if session.args.asks_over_stdio {
            session
                .put_question(tool, &id, input)
                .inspect_err(|_| self.denials.push(denial.clone()))?
        } else {
            session.refuse_unasked(tool, &id)
        };
        if !matches!(verdict, Verdict::Run(_)) {
            self.denials.push(denial);
        }
        match verdict {
            Verdict::Run(input) => {
                self.tool_result(session, &id, &format!("{tool} ran with {input}"), false)
            }
            Verdict::Refuse { text } => self.tool_result(session, &id, &text, true),
            Verdict::Interrupt => Err(Stop::Interrupted),
        }
    }
}

impl Session {
    fn put_question(&mut self, tool: &str, id: &str, input: &Value) -> Flow<Verdict> {
        self.state("requires_action");
        let request_id = ids::uuid();
        let description = input["file_path"].as_str().or(input["command"].as_str()).unwrap_or(tool);
        let suggestion =
            object! { "type": "setMode", "mode": "acceptEdits", "destination": "session" };
        let request = object! {
            "subtype": "can_use_tool",
            "tool_name": tool,
            "display_name": tool,
            "input": input,
            "description": description,
            "permission_suggestions": [suggestion],
            "decision_reason": "Path is outside allowed working directories",
            "decision_reason_type": "workingDir",
            "tool_use_id": id,
        };
        self.frame(&frames::control_request(&request_id, &request));
        self.asking = Some(request_id);
        let answer = self.wait_for_answer();
        self.asking = None;
        self.state("running");
        Ok(match answer? {
            Some(answer) => verdict(&answer),
            None => Verdict::Refuse { text: STREAM_CLOSED.to_owned() },
        })
    }

    /// Without somebody to ask, the CLI refuses by itself.
    fn refuse_unasked(&mut self, tool: &str, id: &str) -> Verdict {
        let text =
            format!("Claude requested permissions to use {tool}, but you haven't granted it yet.");
        let fields: [(&str, Json); 5] = [
            ("tool_name", frames::text(tool)),
            ("tool_use_id", frames::text(id)),
            ("decision_reason_type", frames::text("workingDir")),
            ("decision_reason", frames::text("Path is outside allowed working directories")),
            ("message", frames::text(&text)),
        ];
        let frame = frames::system(&self.conversation.session, "permission_denied", &fields);
        self.frame(&frame);
        Verdict::Refuse { text }
    }
}

fn verdict(answer: &Value) -> Verdict {
    if answer["subtype"] == "error" {
        let error = answer["error"].as_str().unwrap_or("undefined");
        return Verdict::Refuse { text: format!("Tool permission request failed: Error: {error}") };
    }
    let decision = &answer["response"];
    match decision["behavior"].as_str() {
        Some("allow") if decision["updatedInput"].is_object() => {
            Verdict::Run(decision["updatedInput"].clone())
        }
        Some("deny") if decision["interrupt"] == true => Verdict::Interrupt,
        Some("deny") if decision["message"].is_string() => {
            Verdict::Refuse { text: decision["message"].as_str().unwrap_or_default().to_owned() }
        }
        Some("allow") => Verdict::Refuse { text: zod_error("") },
        _ => Verdict::Refuse { text: zod_error(NO_BEHAVIOR) },
    }
}

/// What 2.1.197 says of an answer of the wrong shape, word for word.
fn zod_error(behavior: &str) -> String {
    format!(
        r#"Tool permission request failed: ZodError: [
  {{
    "code": "invalid_union",
    "errors": [
      [
{behavior}        {{
          "expected": "record",
          "code": "invalid_type",
          "path": [
            "updatedInput"
          ],
          "message": "Invalid input: expected record, received undefined"
        }}
      ],
      [
        {{
          "code": "invalid_value",
          "values": [
            "deny"
          ],
          "path": [
            "behavior"
          ],
          "message": "Invalid input: expected \"deny\""
        }},
        {{
          "expected": "string",
          "code": "invalid_type",
          "path": [
            "message"
          ],
          "message": "Invalid input: expected string, received undefined"
        }}
      ]
    ],
    "path": [],
    "message": "Invalid input"
  }}
]"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(decision: &Value) -> Verdict {
        verdict(&json!({"subtype": "success", "response": decision}))
    }

    #[test]
    fn only_an_answer_of_the_right_shape_lets_the_tool_run() {
        assert_eq!(
            of(&json!({"behavior": "allow", "updatedInput": {"a": 1}})),
            Verdict::Run(json!({"a": 1}))
        );
        for decision in [json!({"behavior": "allow"}), json!({}), json!({"behavior": "deny"})] {
            let Verdict::Refuse { text } = of(&decision) else {
                panic!("{decision} was not refused");
            };
            assert!(text.contains("ZodError"), "{text}");
        }
    }

    #[test]
    fn a_denial_gives_its_message_or_ends_the_turn() {
        let refused = Verdict::Refuse { text: "no way".to_owned() };
        assert_eq!(of(&json!({"behavior": "deny", "message": "no way"})), refused);
        let decision = json!({"behavior": "deny", "message": "stop", "interrupt": true});
        assert_eq!(of(&decision), Verdict::Interrupt);
    }
}
