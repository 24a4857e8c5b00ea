//! Hooks of a session, and what callers answer to calls of them: bounds, and what the CLI would
//! not understand. A hook that it never calls guards nothing, and nobody would be told.

use std::{collections::HashSet, time::Duration};

use super::check::{Check, MAX_TEXT, shown};
use crate::{
    domain::hook::{HookDecision, HookEvent, ToolVerdict},
    proto,
};

const MAX_HOOKS: usize = 32;
const MAX_MATCHER: usize = 256;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(600);

/// Holds hooks to their bounds.
pub(super) fn hooks(check: &mut Check, field: &str, hooks: &[proto::Hook]) {
    if hooks.len() > MAX_HOOKS {
        check.bad(field, format!("must have at most {MAX_HOOKS} entries, has {}", hooks.len()));
    }
    let mut seen = HashSet::new();
    for (index, hook) in hooks.iter().enumerate().take(MAX_HOOKS) {
        let field = format!("{field}[{index}]");
        let proto::Hook { event, matcher, timeout } = hook;
        check.one_of(&format!("{field}.event"), event, &HookEvent::ALL.map(HookEvent::name));
        matcher_of(check, &format!("{field}.matcher"), matcher, HookEvent::named(event));
        if let Some(timeout) = timeout {
            timeout_of(check, &format!("{field}.timeout"), *timeout);
        }
        if !seen.insert((event, matcher)) {
            // The same call would be asked about twice.
            check.bad(&field, "must not have event and matcher of one before");
        }
    }
}

fn matcher_of(check: &mut Check, field: &str, matcher: &str, event: Option<HookEvent>) {
    check.word(field, matcher, MAX_MATCHER);
    if matcher.is_empty() {
        return;
    }
    if let Some(event) = event.filter(|event| !event.has_matcher()) {
        check.bad(field, format!("must be empty for {}, is {}", event.name(), shown(matcher)));
    } else if matcher != "*" && !matcher.split('|').all(is_pattern) {
        // The CLI reads a regular expression, and takes one that is broken as fitting nothing.
        check.bad(
            field,
            format!("must be names of A-Za-z0-9_- and .*, separated by |, is {}", shown(matcher)),
        );
    }
}

/// Whether it is a name in which `.*` may stand for anything.
fn is_pattern(name: &str) -> bool {
    let known = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    !name.is_empty() && name.split(".*").all(known)
}

fn timeout_of(check: &mut Check, field: &str, timeout: prost_types::Duration) {
    let is_within =
        Duration::try_from(timeout).is_ok_and(|timeout| (SHORTEST..=LONGEST).contains(&timeout));
    if !is_within {
        check.bad(field, format!("must be 1 s to 10 min, is {timeout}"));
    }
}

/// What a hook says. Whether it fits the hook's event is known where the prompt is.
pub(super) fn decision(check: &mut Check, decision: proto::HookDecision) -> HookDecision {
    let verdict = check
        .choice::<proto::HookPermission>("hook.permission_decision", decision.permission_decision)
        .and_then(|permission| match permission {
            proto::HookPermission::Unspecified => None,
            proto::HookPermission::Allow => Some(ToolVerdict::Allow),
            proto::HookPermission::Deny => Some(ToolVerdict::Deny),
            proto::HookPermission::Ask => Some(ToolVerdict::Ask),
        });
    let proto::HookDecision {
        permission_decision: _,
        reason,
        updated_input_json: updated_input,
        additional_context: context,
        block,
        system_message,
    } = decision;
    for (field, text) in [
        ("hook.reason", &reason),
        ("hook.additional_context", &context),
        ("hook.system_message", &system_message),
    ] {
        check.text(field, text, MAX_TEXT);
    }
    if !updated_input.is_empty() {
        check.json_object("hook.updated_input_json", &updated_input);
    }
    HookDecision { verdict, reason, updated_input, context, block, system_message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(event: &str, matcher: &str) -> proto::Hook {
        proto::Hook { event: event.into(), matcher: matcher.into(), timeout: None }
    }

    fn refused(list: &[proto::Hook]) -> Option<(String, String)> {
        let mut check = Check::default();
        hooks(&mut check, "options.hooks", list);
        check.refused()
    }

    #[track_caller]
    fn assert_refused(list: &[proto::Hook], field: &str, problem: &str) {
        let (fields, problems) = refused(list).expect("out of bounds");
        assert_eq!(fields, field);
        assert!(problems.contains(problem), "{problems}");
    }

    #[test]
    fn hooks_are_of_events_at_which_the_cli_calls_back() {
        let all: Vec<_> = HookEvent::ALL.iter().map(|event| hook(event.name(), "")).collect();
        assert_eq!(refused(&all), None);
        for event in ["", "pretooluse", "PermissionRequest", "SessionStart", "Notification"] {
            let problem = "must be one of PreToolUse, PostToolUse,";
            assert_refused(&[hook("Stop", ""), hook(event, "")], "options.hooks[1].event", problem);
        }
    }

    #[test]
    fn matchers_are_names_that_the_cli_can_read() {
        for matcher in ["Bash", "Write|Edit", "mcp__shop__.*", ".*", "*", "mcp__.*__add|a-b"] {
            assert_eq!(refused(&[hook("PreToolUse", matcher)]), None, "{matcher}");
        }
        let field = "options.hooks[0].matcher";
        for matcher in ["(", "a b", "a||b", "|", "*a", "a.b", "a.+", "^a$", "\u{e9}"] {
            assert_refused(&[hook("PreToolUse", matcher)], field, "must be names of");
        }
        assert_refused(&[hook("PreToolUse", &"x".repeat(257))], field, "at most 256 bytes");
        for event in ["Stop", "UserPromptSubmit"] {
            assert_refused(&[hook(event, "Bash")], field, "must be empty for");
        }
    }

    #[test]
    fn times_and_numbers_of_hooks_are_bounded() {
        let timed = |seconds, nanos| {
            let timeout = Some(prost_types::Duration { seconds, nanos });
            [proto::Hook { timeout, ..hook("Stop", "") }]
        };
        for (seconds, nanos) in [(1, 0), (2, 500_000_000), (600, 0)] {
            assert_eq!(refused(&timed(seconds, nanos)), None);
        }
        let field = "options.hooks[0].timeout";
        for (seconds, nanos) in [(0, 0), (0, 999_999_999), (600, 1), (-5, 0), (i64::MAX, 0)] {
            assert_refused(&timed(seconds, nanos), field, "must be 1 s to 10 min");
        }
        let many: Vec<_> = (0..33).map(|n| hook("PreToolUse", &format!("T{n}"))).collect();
        assert_eq!(refused(&many[..32]), None);
        assert_refused(&many, "options.hooks", "at most 32 entries, has 33");
        let twice = [hook("Stop", ""), hook("Stop", "")];
        assert_refused(&twice, "options.hooks[1]", "of one before");
    }

    #[test]
    fn what_a_hook_says_has_its_bounds() {
        let long = "x".repeat(MAX_TEXT + 1);
        let said = proto::HookDecision {
            permission_decision: 9,
            reason: long.clone(),
            updated_input_json: "[]".into(),
            additional_context: "a\0b".into(),
            block: true,
            system_message: long,
        };
        let mut check = Check::default();
        decision(&mut check, said);
        let (fields, _) = check.refused().expect("out of bounds");
        let wanted = "hook.permission_decision,hook.reason,hook.additional_context,\
            hook.system_message,hook.updated_input_json";
        assert_eq!(fields, wanted);

        let mut check = Check::default();
        let said = proto::HookDecision {
            permission_decision: proto::HookPermission::Ask.into(),
            updated_input_json: "{}".into(),
            ..proto::HookDecision::default()
        };
        let taken = decision(&mut check, said);
        assert_eq!(check.refused(), None);
        assert_eq!((taken.verdict, taken.updated_input.as_str()), (Some(ToolVerdict::Ask), "{}"));
    }
}
