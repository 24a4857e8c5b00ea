//! Callers' answers to prompts of the CLI, in the CLI's words. An answer that does not fit its
//! prompt is refused here, so that nothing malformed reaches the CLI and nobody's consent is
//! invented.

use std::fmt;

use bytes::Bytes;
use serde_json::json;

use super::{
    frame::{Prompt, RequestKind},
    hooks,
    questions::{Unanswered, answered, has_answers},
    request::{control_refusal, control_response},
};
use crate::domain::decision::Decision;

/// Why an answer does not fit its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Answers to a prompt that asks no questions.
    NoQuestion,
    /// A tool that asks questions may not run without the answers to them.
    WithoutAnswers,
    /// Answers that do not fit the questions.
    Answers(Vec<Unanswered>),
    /// What a hook says, to a prompt that is no call of one.
    NoHook,
    /// An answer to a hook that is none: this field.
    ToHook(&'static str),
    /// What does not belong to the hook's event: a field, and what it must be. There is one at
    /// least.
    Hook(Vec<(&'static str, String)>),
}

impl Unfit {
    /// The field of the contract that is wrong.
    pub fn field(&self) -> String {
        match self {
            Self::NoQuestion => "answers".to_owned(),
            Self::WithoutAnswers => "allow.updated_input_json".to_owned(),
            Self::Answers(_) => "answers.answers".to_owned(),
            Self::NoHook => "hook".to_owned(),
            Self::ToHook(field) => (*field).to_owned(),
            Self::Hook(wrong) => {
                wrong.first().map_or("hook".to_owned(), |(field, _)| format!("hook.{field}"))
            }
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuestion => f.write_str("must answer a prompt of kind QUESTION"),
            Self::WithoutAnswers => {
                f.write_str("must have `answers` for a prompt of kind QUESTION (see `answers`)")
            }
            Self::Answers(wrong) => {
                let wrong: Vec<_> = wrong.iter().map(Unanswered::to_string).collect();
                f.write_str(&wrong.join("; "))
            }
            Self::NoHook => f.write_str("must answer a prompt of kind HOOK"),
            Self::ToHook(_) => {
                f.write_str("must not answer a prompt of kind HOOK, which `hook` answers")
            }
            Self::Hook(wrong) => {
                let (first, rest) = wrong.split_at(wrong.len().min(1));
                first.iter().try_for_each(|(_, problem)| f.write_str(problem))?;
                rest.iter().try_for_each(|(field, problem)| write!(f, "; hook.{field} {problem}"))
            }
        }
    }
}

/// A caller's answer to a prompt.
///
/// # Errors
/// The answer does not fit the prompt, which stays open.
pub fn answer_to(prompt: &Prompt, decision: &Decision) -> Result<Bytes, Unfit> {
    let is_question = prompt.kind() == RequestKind::Question;
    let is_hook = prompt.kind() == RequestKind::Hook;
    let answer = match decision {
        Decision::Allow { .. } if is_hook => return Err(Unfit::ToHook("allow")),
        Decision::Deny { .. } if is_hook => return Err(Unfit::ToHook("deny")),
        Decision::Hook(decision) => {
            let Some(hook) = prompt.hook() else { return Err(Unfit::NoHook) };
            let wrong = hooks::misfits(hook.event, decision);
            if !wrong.is_empty() {
                return Err(Unfit::Hook(wrong));
            }
            hooks::output(hook.event, decision)
        }
        Decision::Allow { updated_input, updated_permissions } => {
            let input = updated_input.as_deref().unwrap_or(&prompt.input);
            if is_question && !(updated_input.is_some() && has_answers(input)) {
                return Err(Unfit::WithoutAnswers);
            }
            allowed(input, updated_permissions.as_deref())
        }
        Decision::Answers(_) if !is_question => return Err(Unfit::NoQuestion),
        Decision::Answers(answers) => {
            allowed(&answered(&prompt.input, answers).map_err(Unfit::Answers)?, None)
        }
        Decision::Deny { message, interrupt } => {
            json!({"behavior": "deny", "message": message, "interrupt": interrupt}).to_string()
        }
        Decision::Raw(text) => text.clone(),
    };
    Ok(control_response(&prompt.raw_id, &answer))
}

/// The answer to a prompt to which nobody gives one, and which is refused for this reason.
pub fn refusal_of(prompt: &Prompt, why: &str) -> Bytes {
    let answer = match prompt.kind() {
        RequestKind::ToolPermission | RequestKind::Question => {
            json!({"behavior": "deny", "message": why})
        }
        RequestKind::Elicitation => json!({"action": "cancel"}),
        RequestKind::Dialog => json!({"behavior": "cancelled"}),
        RequestKind::Hook => match prompt.hook() {
            Some(hook) => {
                let answer = hooks::unanswered(hook.event, why);
                return control_response(&prompt.raw_id, &answer);
            }
            None => return control_refusal(&prompt.raw_id, why),
        },
        RequestKind::Mcp | RequestKind::Unknown => {
            return control_refusal(&prompt.raw_id, why);
        }
    };
    control_response(&prompt.raw_id, &answer.to_string())
}

/// Whether [`refusal_of`] refuses something. Where it does not the CLI goes on as if it had not
/// asked.
pub fn is_refused(prompt: &Prompt) -> bool {
    prompt.hook().is_none_or(|hook| hook.event.guards())
}

/// The CLI wants the input back with every permission: without it 2.1.197 takes the
/// answer for a broken one. It goes back as it came, byte for byte: it may hold what no
/// strict reader of JSON takes.
fn allowed(input: &str, updated_permissions: Option<&str>) -> String {
    let input = if input.is_empty() { "{}" } else { input };
    let permissions = updated_permissions
        .map_or_else(String::new, |updates| format!(r#","updatedPermissions":{updates}"#));
    format!(r#"{{"behavior":"allow","updatedInput":{input}{permissions}}}"#)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::hook::{HookDecision, ToolVerdict};

    fn prompt(tool_name: &str, input: &str) -> Prompt {
        Prompt {
            id: "p\u{fffd}".into(),
            raw_id: r#""p\ud83d""#.into(),
            subtype: "can_use_tool".into(),
            tool_name: tool_name.into(),
            input: input.into(),
            callback: String::new(),
        }
    }

    fn call(callback: &str) -> Prompt {
        Prompt {
            subtype: "hook_callback".into(),
            callback: callback.into(),
            ..prompt("Bash", "{}")
        }
    }

    fn allow(updated_input: Option<&str>, updated_permissions: Option<&str>) -> Decision {
        Decision::Allow {
            updated_input: updated_input.map(str::to_owned),
            updated_permissions: updated_permissions.map(str::to_owned),
        }
    }

    fn line(prompt: &Prompt, decision: &Decision) -> String {
        let line = answer_to(prompt, decision).expect("it fits");
        String::from_utf8(line.to_vec()).expect("text")
    }

    #[test]
    fn d2_an_input_goes_back_byte_for_byte() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for input in [
            r#"{"text":"\ud83d","n":1e400,"x":1.50, "a":1,"a":2}"#.to_owned(),
            format!(r#"{{"deep":{deep}}}"#),
        ] {
            let wanted = format!(r#"{{"behavior":"allow","updatedInput":{input}}}"#);
            let same = line(&prompt("Bash", &input), &allow(None, None));
            assert!(same.contains(&wanted), "{same}");
            let changed = line(&prompt("Bash", "{}"), &allow(Some(&input), Some("[]")));
            let wanted = format!(r#""updatedInput":{input},"updatedPermissions":[]"#);
            assert!(changed.contains(&wanted), "{changed}");
            assert!(changed.contains(r#""request_id":"p\ud83d""#), "{changed}");
        }
        let empty = line(&prompt("Bash", ""), &allow(None, None));
        assert!(empty.contains(r#"{"behavior":"allow","updatedInput":{}}"#), "{empty}");
    }

    #[test]
    fn a_question_is_answered_with_answers_and_nothing_else_is() {
        let input = r#"{"questions":[{"question":"Which?"}]}"#;
        let question = prompt("AskUserQuestion", input);
        let answers = Decision::Answers([("Which?".to_owned(), "A, B".to_owned())].into());
        let wanted =
            r#""updatedInput":{"questions":[{"question":"Which?"}],"answers":{"Which?":"A, B"}}"#;
        assert!(line(&question, &answers).contains(wanted));
        assert_eq!(answer_to(&prompt("Bash", input), &answers), Err(Unfit::NoQuestion));
        let own = r#"{"questions":[],"answers":{"Which?":"A"}}"#;
        line(&question, &allow(Some(own), None));
        for without in [None, Some(input), Some(r#"{"answers":{}}"#)] {
            assert_eq!(answer_to(&question, &allow(without, None)), Err(Unfit::WithoutAnswers));
        }
        line(&question, &Decision::Deny { message: "no".into(), interrupt: false });
        let unfit = answer_to(&question, &Decision::Answers([("Who?".into(), "A".into())].into()));
        let unfit = unfit.expect_err("it does not fit");
        let said = r#"must have an answer to "Which?"; must not have an answer to "Who?", which was not asked"#;
        assert_eq!((unfit.field().as_str(), unfit.to_string().as_str()), ("answers.answers", said));
    }

    #[test]
    fn a_hook_is_answered_as_its_event_can_be_and_nothing_else_is() {
        let denied = HookDecision { verdict: Some(ToolVerdict::Deny), ..HookDecision::default() };
        let decision = Decision::Hook(denied.into());
        let tool = call("0 PreToolUse 60000 Bash");
        assert!(line(&tool, &decision).contains(r#""permissionDecision":"deny""#));
        for (decision, field) in [
            (allow(None, None), "allow"),
            (Decision::Deny { message: "no".into(), interrupt: false }, "deny"),
            (Decision::Answers(BTreeMap::new()), "answers"),
        ] {
            let unfit = answer_to(&tool, &decision).expect_err("it is a hook");
            assert_eq!(unfit.field(), field);
        }
        for other in [prompt("Bash", "{}"), prompt("AskUserQuestion", "{}"), call("other")] {
            assert_eq!(answer_to(&other, &decision), Err(Unfit::NoHook));
        }
        let both = HookDecision {
            verdict: Some(ToolVerdict::Deny),
            context: "more".into(),
            ..HookDecision::default()
        };
        let unfit =
            answer_to(&call("0 Stop 60000 "), &Decision::Hook(both.into())).expect_err("Stop");
        let said = "must not be set for a hook at Stop; \
            hook.additional_context must not be set for a hook at Stop";
        assert_eq!(
            (unfit.field().as_str(), unfit.to_string().as_str()),
            ("hook.permission_decision", said)
        );
        let raw = Decision::Raw(r#"{"continue":false}"#.into());
        assert!(line(&tool, &raw).contains(r#""response":{"continue":false}"#));
    }

    #[test]
    fn a_hook_that_nobody_answers_refuses_what_it_guards_and_nothing_else() {
        let refused = |prompt: &Prompt| {
            let line = refusal_of(prompt, "late");
            (is_refused(prompt), String::from_utf8(line.to_vec()).expect("text"))
        };
        let (is_refused, line) = refused(&call("0 PreToolUse 60000 "));
        assert!(is_refused && line.contains(r#""permissionDecisionReason":"late""#), "{line}");
        let (is_refused, line) = refused(&call("0 Stop 60000 "));
        assert!(!is_refused && line.contains(r#""response":{}"#), "{line}");
        let (is_refused, line) = refused(&call("other"));
        assert!(is_refused && line.contains(r#""error":"late""#), "{line}");
    }
}
