//! Hooks that callers answer: how a CLI is told of them, what a call of one says, and the
//! answers in the CLI's words.
//!
//! Observed on 2.1.110, 2.1.197 and 2.1.332: hooks are fixed by the first `initialize`. A call names
//! the callback that was registered, and so the name says what the call is about, to whoever reads
//! the frame later. A call that is refused by an error, or answered by what does not fit its event,
//! is taken as if there were no hook. What becomes of one that is not answered in the time that was
//! registered differs by version; so the service answers before.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json, value::RawValue};

use super::json::{Json, Text, view};
use crate::domain::hook::{DEFAULT_TIMEOUT, Hook, HookDecision, HookEvent, ToolVerdict};

/// How much later than the service the CLI gives a call up.
const GRACE: Duration = Duration::from_secs(60);

/// What a refusal says if nobody gave a reason.
const REFUSED: &str = "The user refused this.";

view! {
    /// What the CLI tells of a call.
    HookInput {
        /// The tool, if it is about one.
        "tool_name" => tool_name: Text<'a>,
        /// The tool's input.
        "tool_input" => tool_input: Json<'a>,
    }
}

/// The callbacks of hooks, in their order: `NUMBER EVENT MILLISECONDS MATCHER`.
pub fn callbacks(hooks: &[Hook]) -> Vec<String> {
    let name = |(number, hook): (usize, &Hook)| {
        let Hook { event, matcher, timeout } = hook;
        format!("{number} {event} {} {matcher}", timeout.as_millis())
    };
    hooks.iter().enumerate().map(name).collect()
}

/// Hooks as `initialize` takes them.
pub fn registered(hooks: &[Hook]) -> Value {
    let mut events: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (hook, callback) in hooks.iter().zip(callbacks(hooks)) {
        let seconds = (hook.timeout + GRACE).as_secs();
        let mut entry = json!({"hookCallbackIds": [callback], "timeout": seconds});
        if !hook.matcher.is_empty() {
            entry["matcher"] = json!(hook.matcher);
        }
        events.entry(&hook.event).or_default().push(entry);
    }
    json!(events)
}

/// A hook that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called<'a> {
    /// At what.
    pub event: HookEvent,
    /// How long the call waits for its answer.
    pub timeout: Duration,
    /// For what the hook is called.
    pub matcher: &'a str,
}

impl<'a> Called<'a> {
    /// What a callback of [`callbacks`] says; `None` if it is none.
    pub fn by(callback: &'a str) -> Option<Self> {
        let mut parts = callback.splitn(4, ' ').skip(1);
        let event = HookEvent::named(parts.next()?)?;
        let timeout = parts.next()?.parse().map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        Some(Self { event, timeout, matcher: parts.next()? })
    }
}

/// What of an answer does not belong to its event: the field, and what it must be.
pub fn misfits(event: HookEvent, decision: &HookDecision) -> Vec<(&'static str, String)> {
    let HookDecision { verdict, reason, updated_input, context, block, system_message: _ } =
        decision;
    let (name, mut misfits) = (event.name(), Vec::new());
    let mut unless = |fits: bool, field: &'static str, problem: String| {
        if !fits {
            misfits.push((field, problem));
        }
    };
    let not_of = || format!("must not be set for a hook at {name}");
    unless(event.decides_tool() || verdict.is_none(), "permission_decision", not_of());
    unless(event.decides_tool() || updated_input.is_empty(), "updated_input_json", not_of());
    unless(
        *verdict != Some(ToolVerdict::Deny) || updated_input.is_empty(),
        "updated_input_json",
        "must not be set with DENY".to_owned(),
    );
    unless(event.takes_context() || context.is_empty(), "additional_context", not_of());
    let not_block = match event.decides_tool() {
        true => format!("must not be set for a hook at {name}: use permission_decision DENY"),
        false => not_of(),
    };
    unless(event.may_block() || !block, "block", not_block);
    unless(
        !(*block && reason.is_empty() && event.block_needs_reason()),
        "reason",
        format!("must be set with block for a hook at {name}: the model is told it"),
    );
    unless(
        *block || verdict.is_some() || reason.is_empty(),
        "reason",
        "must not be set without permission_decision or block".to_owned(),
    );
    misfits
}

/// An answer that fits its event, as the CLI reads it. A tool's input goes as it came, byte for
/// byte.
pub fn output(event: HookEvent, decision: &HookDecision) -> String {
    let HookDecision { verdict, reason, updated_input, context, block, system_message } = decision;
    let mut specific = Object::default();
    if let Some(verdict) = verdict {
        let verdict = match verdict {
            ToolVerdict::Allow => "allow",
            ToolVerdict::Deny => "deny",
            ToolVerdict::Ask => "ask",
        };
        specific.text("permissionDecision", verdict);
        specific.text("permissionDecisionReason", reason);
    }
    specific.raw("updatedInput", updated_input);
    specific.text("additionalContext", context);
    let mut output = Object::default();
    if *block {
        output.text("decision", "block");
        output.text("reason", if reason.is_empty() { REFUSED } else { reason });
    }
    output.text("systemMessage", system_message);
    if !specific.0.is_empty() {
        specific.text("hookEventName", event.name());
        output.raw("hookSpecificOutput", &specific.finish());
    }
    output.finish()
}

/// What a call is answered to which nobody has an answer, for this reason.
pub fn unanswered(event: HookEvent, why: &str) -> String {
    let refused = HookDecision { reason: why.to_owned(), ..HookDecision::default() };
    let decision = match (event.guards(), event.decides_tool()) {
        (true, true) => HookDecision { verdict: Some(ToolVerdict::Deny), ..refused },
        (true, false) => HookDecision { block: true, ..refused },
        (false, _) => HookDecision::default(),
    };
    output(event, &decision)
}

/// A JSON object that is being written; members that say nothing are left out.
#[derive(Default)]
struct Object(String);

impl Object {
    fn raw(&mut self, key: &str, json: &str) {
        if !json.is_empty() {
            let comma = if self.0.is_empty() { "" } else { "," };
            self.0.push_str(&format!(r#"{comma}"{key}":{json}"#));
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.raw(key, &Value::from(text).to_string());
        }
    }

    fn finish(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// The tool that a call is about, and its input, in what the CLI tells of the call.
pub fn tool(told: &RawValue) -> (String, Json<'_>) {
    let told = HookInput::parse(told.get()).unwrap_or_default();
    (told.tool_name.into_string(), told.tool_input)
}

/// The same; where it is about none, all that the CLI tells.
pub fn subject(told: &RawValue) -> (String, &str) {
    let (name, input) = tool(told);
    (name, input.unwrap_or(told).get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(event: &str, matcher: &str, seconds: u64) -> Hook {
        let timeout = Duration::from_secs(seconds);
        Hook { event: event.into(), matcher: matcher.into(), timeout }
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn hooks_are_registered_by_event_and_their_callbacks_say_what_they_are() {
        let hooks = [
            hook("PreToolUse", "Write|mcp__a b__.*", 5),
            hook("Stop", "", 60),
            hook("PreToolUse", "", 600),
        ];
        let callbacks = callbacks(&hooks);
        let wanted = json!({
            "PreToolUse": [
                {"hookCallbackIds": [callbacks[0]], "timeout": 65, "matcher": hooks[0].matcher},
                {"hookCallbackIds": [callbacks[2]], "timeout": 660},
            ],
            "Stop": [{"hookCallbackIds": [callbacks[1]], "timeout": 120}],
        });
        assert_eq!(registered(&hooks), wanted);
        for (hook, callback) in hooks.iter().zip(&callbacks) {
            let called = Called::by(callback).expect("a hook");
            assert_eq!(called.event.name(), hook.event);
            assert_eq!((called.timeout, called.matcher), (hook.timeout, hook.matcher.as_str()));
        }
        for odd in ["", "0", "0 Stop", "0 Stop 5", "0 Other 5 x", "hook_0"] {
            assert_eq!(Called::by(odd), None, "{odd}");
        }
        assert_eq!(Called::by("0 Stop x ").map(|called| called.timeout), Some(DEFAULT_TIMEOUT));
    }

    fn all() -> HookDecision {
        HookDecision {
            verdict: Some(ToolVerdict::Allow),
            reason: "why".into(),
            updated_input: r#"{"n":1.50}"#.into(),
            context: "more".into(),
            block: true,
            system_message: "said".into(),
        }
    }

    #[test]
    fn every_event_has_its_fields_and_no_others() {
        let (tool, input) = ("permission_decision", "updated_input_json");
        for (event, wanted) in [
            (HookEvent::PreToolUse, vec!["block"]),
            (HookEvent::PostToolUse, vec![tool, input]),
            (HookEvent::PostToolUseFailure, vec![tool, input]),
            (HookEvent::UserPromptSubmit, vec![tool, input]),
            (HookEvent::Stop, vec![tool, input, "additional_context"]),
            (HookEvent::SubagentStart, vec![tool, input, "block"]),
            (HookEvent::SubagentStop, vec![tool, input, "additional_context"]),
            (HookEvent::PreCompact, vec![tool, input, "additional_context"]),
            (HookEvent::PostCompact, vec![tool, input, "additional_context", "block"]),
        ] {
            let misfits = misfits(event, &all());
            let fields: Vec<_> = misfits.iter().map(|(field, _)| *field).collect();
            assert_eq!(fields, wanted, "{event:?}");
            assert!(misfits.iter().all(|(_, problem)| problem.contains(event.name())));
            assert_eq!(super::misfits(event, &HookDecision::default()), [], "{event:?}");
            assert_eq!(output(event, &HookDecision::default()), "{}");
        }
    }

    #[test]
    fn a_reason_belongs_to_a_decision_and_a_denied_tool_has_no_input() {
        let fields = |event, decision| {
            let misfits = misfits(event, &decision);
            misfits.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        let reason = HookDecision { reason: "why".into(), ..HookDecision::default() };
        let block = HookDecision { block: true, ..HookDecision::default() };
        for event in HookEvent::ALL {
            assert_eq!(fields(event, reason.clone()), ["reason"], "{event:?}");
        }
        assert_eq!(fields(HookEvent::Stop, block.clone()), ["reason"]);
        assert_eq!(fields(HookEvent::PostToolUse, block.clone()), ["reason"]);
        assert_eq!(fields(HookEvent::UserPromptSubmit, block.clone()), [""; 0]);
        assert_eq!(fields(HookEvent::PreCompact, block), [""; 0]);
        let denied = HookDecision { verdict: Some(ToolVerdict::Deny), block: false, ..all() };
        assert_eq!(fields(HookEvent::PreToolUse, denied), ["updated_input_json"]);
    }

    #[test]
    fn answers_are_in_the_words_of_the_cli() {
        let tool = HookDecision { block: false, ..all() };
        let text = output(HookEvent::PreToolUse, &tool);
        assert!(text.contains(r#""updatedInput":{"n":1.50}"#), "{text}");
        let wanted = json!({"systemMessage": "said", "hookSpecificOutput": {
            "hookEventName": "PreToolUse", "permissionDecision": "allow",
            "permissionDecisionReason": "why", "updatedInput": {"n": 1.50},
            "additionalContext": "more"}});
        assert_eq!(json(&text), wanted);
        for (verdict, word) in [(ToolVerdict::Deny, "deny"), (ToolVerdict::Ask, "ask")] {
            let decision = HookDecision { verdict: Some(verdict), ..HookDecision::default() };
            let wanted = json!({"hookSpecificOutput":
                {"hookEventName": "PreToolUse", "permissionDecision": word}});
            assert_eq!(json(&output(HookEvent::PreToolUse, &decision)), wanted);
        }
        let block = HookDecision {
            block: true,
            reason: "say \"more\"\n".into(),
            ..HookDecision::default()
        };
        for event in HookEvent::ALL.into_iter().filter(|event| event.may_block()) {
            let wanted = json!({"decision": "block", "reason": "say \"more\"\n"});
            assert_eq!(json(&output(event, &block)), wanted, "{event:?}");
        }
        let context = HookDecision { context: "more".into(), ..HookDecision::default() };
        for event in HookEvent::ALL.into_iter().filter(|event| event.takes_context()) {
            let wanted = json!({"hookSpecificOutput":
                {"hookEventName": event.name(), "additionalContext": "more"}});
            assert_eq!(json(&output(event, &context)), wanted, "{event:?}");
        }
        let nothing_said = HookDecision { block: true, ..HookDecision::default() };
        let wanted = json!({"decision": "block", "reason": REFUSED});
        assert_eq!(json(&output(HookEvent::UserPromptSubmit, &nothing_said)), wanted);
    }

    #[test]
    fn what_is_guarded_does_not_happen_where_nobody_answers() {
        let denied = json!({"hookSpecificOutput": {"hookEventName": "PreToolUse",
            "permissionDecision": "deny", "permissionDecisionReason": "late"}});
        assert_eq!(json(&unanswered(HookEvent::PreToolUse, "late")), denied);
        let blocked = json!({"decision": "block", "reason": "late"});
        assert_eq!(json(&unanswered(HookEvent::UserPromptSubmit, "late")), blocked);
        for event in HookEvent::ALL.into_iter().filter(|event| !event.guards()) {
            assert_eq!(unanswered(event, "late"), "{}", "{event:?}");
        }
    }

    #[test]
    fn a_call_about_a_tool_is_shown_by_the_tool() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let tool = raw(r#"{"tool_name":"Bash","tool_input":{"command":"make"}}"#);
        assert_eq!(subject(&tool), ("Bash".to_owned(), r#"{"command":"make"}"#));
        let other = raw(r#"{"prompt":"hi"}"#);
        assert_eq!(subject(&other), (String::new(), r#"{"prompt":"hi"}"#));
        assert_eq!(subject(&raw("7")).1, "7");
    }
}
