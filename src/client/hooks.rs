//! Calls of hooks at a terminal: shown in words, and answered by yes or no.

use super::{
    args::Answer,
    values::{cut, one_line},
};
use crate::proto::{HookCall, HookDecision, HookPermission};

/// The event at which a hook decides on a tool; at others it lets things go on, or blocks them.
const DECIDES: &str = "PreToolUse";

/// Events that cannot be blocked.
const ONLY_TOLD: [&str; 2] = ["SubagentStart", "PostCompact"];

/// What a no says for which nobody gave a reason.
const REFUSED: &str = "The user refused this.";

/// A call in words. Of one about a tool its input is shown, of others all that the CLI tells.
pub fn call(hook: &HookCall, input: &str, columns: usize) -> String {
    let HookCall { event, tool_name, input_json, .. } = hook;
    let (event, tool) = (one_line(event), one_line(tool_name));
    let tool = if tool.is_empty() { tool } else { format!(" {tool}") };
    let told = if input.is_empty() { input_json } else { input };
    format!("Hook {event}:{tool} {}", cut(told, columns))
}

/// What is asked of a call.
pub fn asked(event: &str) -> &'static str {
    match event {
        DECIDES => "Allow it? [y]es, [n]o: ",
        event if ONLY_TOLD.contains(&event) => "Go on? [y]es: ",
        _ => "Go on? [y]es, [n]o: ",
    }
}

/// What a person says of a call.
#[derive(Debug, Default)]
pub struct Words {
    /// Why not.
    pub message: String,
    /// The tool's input in place of the one that it asked with.
    pub input: String,
    /// What the model is told beside.
    pub context: String,
}

/// The answer to a call of a hook; `None` if it is none.
pub fn decision(event: &str, answer: Answer, words: Words) -> Option<HookDecision> {
    let Words { message, input, context } = words;
    let mut decision = HookDecision {
        updated_input_json: input,
        additional_context: context,
        ..HookDecision::default()
    };
    match answer {
        Answer::Yes if event == DECIDES => {
            decision.set_permission_decision(HookPermission::Allow);
        }
        Answer::Yes => {}
        Answer::No => {
            decision.reason = if message.is_empty() { REFUSED.to_owned() } else { message };
            match event {
                DECIDES => decision.set_permission_decision(HookPermission::Deny),
                _ => decision.block = true,
            }
        }
        Answer::Always => return None,
    }
    Some(decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_mean_what_the_event_is_about() {
        let said = |event, answer| decision(event, answer, Words::default()).expect("an answer");
        assert_eq!(said("PreToolUse", Answer::Yes).permission_decision(), HookPermission::Allow);
        let no = said("PreToolUse", Answer::No);
        assert_eq!((no.permission_decision(), no.block), (HookPermission::Deny, false));
        assert_eq!(said("Stop", Answer::Yes), HookDecision::default());
        let no = said("Stop", Answer::No);
        assert_eq!((no.block, no.reason.as_str()), (true, REFUSED));
        assert_eq!(decision("Stop", Answer::Always, Words::default()), None);
        let words = Words { message: "why".into(), input: "{}".into(), context: "c".into() };
        let no = decision("PreToolUse", Answer::No, words).expect("an answer");
        assert_eq!((no.reason.as_str(), no.updated_input_json.as_str()), ("why", "{}"));
        assert_eq!(no.additional_context, "c");
    }

    #[test]
    fn a_call_is_shown_in_words() {
        let hook = HookCall {
            event: "PreToolUse".into(),
            tool_name: "Bash".into(),
            input_json: "{}".into(),
            matcher: String::new(),
        };
        let shown = call(&hook, r#"{"command":"make"}"#, 200);
        assert_eq!(shown, r#"Hook PreToolUse: Bash {"command":"make"}"#);
        let hook = HookCall { event: "Stop".into(), tool_name: String::new(), ..hook };
        assert_eq!(call(&hook, "", 200), "Hook Stop: {}");
        assert_eq!(asked("PostCompact"), "Go on? [y]es: ");
    }
}
