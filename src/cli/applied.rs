//! What a process says that it applies: its model and its effort. A prompt that is a command
//! may choose both (`/model`, `/effort`). The CLI reports a model with the next turn only,
//! and an effort in no frame at all, and a process that takes up the conversation knows
//! nothing of either. So a process is asked before such a prompt and behind it, and what is
//! other then, the prompt has chosen, whatever the command is called.
//!
//! Source: observed on 2.1.110 to 2.1.332, which all answer `get_settings` within
//! milliseconds. Prompts choose from 2.1.250 on.
//! An effort that goes with a model is no choice: another model comes with its own.
//!
//! Its permission mode and its model it also says of its own accord ([`Told`]).

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    frame::{Frame, FrameKind},
    request::ControlRequest,
};

/// What a process says of its own accord that it applies. What it does not say is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<'f> {
    /// Its permission mode.
    pub mode: &'f str,
    /// Its model.
    pub model: &'f str,
}

impl<'f> Told<'f> {
    /// What a frame says; `None` if it says nothing of this.
    pub fn by(frame: &'f Frame) -> Option<Self> {
        match &frame.kind {
            FrameKind::Init { permission_mode, model, .. } => {
                Some(Self { mode: permission_mode, model })
            }
            FrameKind::PermissionMode { mode } => Some(Self { mode, model: "" }),
            _ => None,
        }
    }
}

/// Takes out of a frame what was heard of it already, so that it is not heard once more.
pub fn untell(frame: &mut Frame) {
    match &mut frame.kind {
        FrameKind::Init { permission_mode, model, .. } => {
            permission_mode.clear();
            model.clear();
        }
        kind @ FrameKind::PermissionMode { .. } => *kind = FrameKind::System,
        _ => {}
    }
}

/// The permission mode in the answer to a change of it; empty if it does not say.
pub fn mode_in(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    answer.get("mode").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a prompt has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A model.
    Model(String),
    /// An effort level. One that is left to the CLI is what it takes for now.
    Effort(String),
}

/// Asks a process what it applies.
pub fn question() -> ControlRequest {
    ControlRequest::new(json!({"subtype": "get_settings"}))
}

/// What was chosen between two answers.
pub fn chosen(before: &str, behind: &str) -> Option<Choice> {
    let (before, behind) = (Applied::read(before)?, Applied::read(behind)?);
    if before.model != behind.model {
        return behind.model.map(Choice::Model);
    }
    let is_other = before.effort != behind.effort;
    behind.effort.filter(|_| is_other).map(Choice::Effort)
}

#[derive(Deserialize)]
struct Applied {
    model: Option<String>,
    effort: Option<String>,
}

impl Applied {
    fn read(answer: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Settings {
            applied: Applied,
        }
        serde_json::from_str(answer).ok().map(|settings: Settings| settings.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(model: &str, effort: Option<&str>) -> String {
        json!({"effective": {}, "applied": {"model": model, "effort": effort, "advisor": null}})
            .to_string()
    }

    #[test]
    fn e3_what_is_other_behind_a_prompt_was_chosen_by_it() {
        let before = applied("claude-opus-5[1m]", Some("high"));
        assert_eq!(chosen(&before, &before), None);
        let low = applied("claude-opus-5[1m]", Some("low"));
        assert_eq!(chosen(&before, &low), Some(Choice::Effort("low".into())));
        // The effort came along.
        for effort in [Some("medium"), Some("high"), None] {
            let other = applied("claude-sonnet-4-5", effort);
            let model = Choice::Model("claude-sonnet-4-5".into());
            assert_eq!(chosen(&before, &other), Some(model));
        }
        assert_eq!(chosen(&before, &applied("claude-opus-5[1m]", None)), None);
    }

    #[test]
    fn e3_an_answer_that_says_nothing_is_no_choice() {
        let before = applied("m", Some("high"));
        for answer in ["", "{}", "[]", r#"{"applied":{"model":1}}"#, r#"{"applied":null}"#] {
            assert_eq!(chosen(&before, answer), None, "{answer}");
            assert_eq!(chosen(answer, &before), None, "{answer}");
        }
    }
}
