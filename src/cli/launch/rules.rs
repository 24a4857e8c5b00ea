//! The operator's permission rules as flags. The CLI matches them; here they are only handed
//! over, so that nothing that a caller or an agent says takes them away.
//!
//! Observed on 2.1.110, 2.1.197 and 2.1.332, whatever the mode, the caller's own rules, its
//! answers to prompts, settings that are applied later, and hooks of a folder say:
//!
//! - a call that any `--disallowedTools` is about is refused, and one that a rule `ask` of any
//!   settings is about is asked for, also if it is allowed elsewhere;
//! - the rules of settings of which anything is malformed are left out (2.1.110 and later), and
//!   `--settings` is what callers give, too, where they may: theirs must not stand beside ours;
//! - `--managed-settings` is apart from all that (2.1.197 and 2.1.332; 2.1.110 does not start
//!   with it). The CLI takes it where the machine has no managed settings of its own, which are
//!   the operator's as well and go before it. `managedSettings` in `initialize` does nothing,
//!   nor does a variable.
//!
//! So refusals and permissions are flags of their own on every version, questions are settings,
//! and all three are managed settings where the version takes them.

use serde_json::json;

use crate::{
    cli::versions::Version,
    domain::{
        ids::TenantId,
        operator_rule::{OperatorRule, RuleDecision},
        options::Options,
    },
};

/// The flags of the rules for a process of this tenant.
pub(super) fn rule_args(
    rules: &[OperatorRule],
    tenant: &TenantId,
    options: &Options,
    version: Option<Version>,
) -> Vec<String> {
    let of = |decision: RuleDecision| -> Vec<&str> {
        let own = rules.iter().filter(|it| it.decision == decision && it.concerns(tenant));
        own.map(|it| it.rule.as_str()).collect()
    };
    let [allow, deny, ask] = RuleDecision::ALL.map(of);
    let mut args = Vec::new();
    let mut flags = |name: &str, rules: &[&str]| {
        args.extend(rules.iter().map(|rule| format!("--{name}={rule}")));
    };
    flags("allowedTools", &allow);
    flags("disallowedTools", &deny);
    let is_managed = version.is_some_and(Version::takes_managed_settings);
    if options.settings.is_some() && !is_managed {
        // There is nothing that callers could not take away, but a refusal.
        flags("disallowedTools", &ask);
    }
    if !ask.is_empty() && options.settings.is_none() {
        args.push(format!("--settings={}", json!({"permissions": {"ask": ask}})));
    }
    if is_managed && !(allow.is_empty() && deny.is_empty() && ask.is_empty()) {
        let managed = json!({"permissions": {"allow": allow, "deny": deny, "ask": ask}});
        args.push(format!("--managed-settings={managed}"));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::redacted::Redacted;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a name")
    }

    fn rule(decision: RuleDecision, rule: &str, of: Option<&str>) -> OperatorRule {
        OperatorRule { decision, rule: rule.into(), tenant: of.map(tenant) }
    }

    fn rules() -> Vec<OperatorRule> {
        vec![
            rule(RuleDecision::Deny, "Bash(git push:*)", None),
            rule(RuleDecision::Allow, "Bash(git:*)", Some("a")),
            rule(RuleDecision::Ask, "Write", None),
            rule(RuleDecision::Ask, "Edit", Some("b")),
        ]
    }

    fn args(of: &str, settings: Option<&str>, version: &str) -> Vec<String> {
        let settings = settings.map(|text| Redacted(text.to_owned()));
        let options = Options { settings, ..Options::default() };
        rule_args(&rules(), &tenant(of), &options, Version::find(version))
    }

    #[test]
    fn a_tenant_has_its_own_rules_and_those_of_all() {
        let managed = |text: &str| format!("--managed-settings={text}");
        assert_eq!(
            args("a", None, "2.1.197"),
            [
                "--allowedTools=Bash(git:*)".to_owned(),
                "--disallowedTools=Bash(git push:*)".to_owned(),
                r#"--settings={"permissions":{"ask":["Write"]}}"#.to_owned(),
                managed(
                    r#"{"permissions":{"allow":["Bash(git:*)"],"ask":["Write"],"deny":["Bash(git push:*)"]}}"#
                ),
            ]
        );
        assert_eq!(
            args("b", None, "2.1.332"),
            [
                "--disallowedTools=Bash(git push:*)".to_owned(),
                r#"--settings={"permissions":{"ask":["Write","Edit"]}}"#.to_owned(),
                managed(
                    r#"{"permissions":{"allow":[],"ask":["Write","Edit"],"deny":["Bash(git push:*)"]}}"#
                ),
            ]
        );
    }

    #[test]
    fn a_version_that_takes_no_managed_settings_is_not_given_them() {
        for version in ["2.1.110", "2.1.196", "unknown"] {
            assert_eq!(
                args("c", None, version),
                [
                    "--disallowedTools=Bash(git push:*)",
                    r#"--settings={"permissions":{"ask":["Write"]}}"#,
                ]
            );
        }
    }

    #[test]
    fn settings_of_a_caller_never_stand_beside_ours() {
        let ours = |arg: &&String| arg.starts_with("--settings=");
        for version in ["2.1.110", "2.1.197", "2.1.332", "unknown"] {
            let args = args("c", Some("{}"), version);
            assert_eq!(args.iter().filter(ours).count(), 0, "{args:?}");
        }
        // What would be asked about is refused where they could take the question away.
        let refused = "--disallowedTools=Write".to_owned();
        assert!(args("c", Some("{}"), "2.1.110").contains(&refused));
        assert!(args("c", Some("{}"), "unknown").contains(&refused));
        assert!(!args("c", Some("{}"), "2.1.197").contains(&refused));
    }

    #[test]
    fn without_rules_there_are_no_flags() {
        let version = Version::find("2.1.332");
        assert!(rule_args(&[], &tenant("a"), &Options::default(), version).is_empty());
        let of_another = [rule(RuleDecision::Deny, "Bash", Some("b"))];
        assert!(rule_args(&of_another, &tenant("a"), &Options::default(), version).is_empty());
    }
}
