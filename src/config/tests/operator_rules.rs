//! Rules of the operator: the forms in which they come, and what is wrong with one.

use super::*;
use crate::config::{RuleConfig, RuleDecision};

fn rule(decision: RuleDecision, rule: &str, tenant: &str) -> RuleConfig {
    RuleConfig { decision, rule: rule.into(), tenant: tenant.into() }
}

#[test]
fn rules_come_as_tables_or_as_one_value() {
    let wanted = [
        rule(RuleDecision::Deny, "Bash(git push:*)", ""),
        rule(RuleDecision::Ask, "WebFetch", "team-a"),
    ];
    let config = with_file(
        "[policy]\nagents = true\n\
         [[policy.rule]]\ndecision = 'deny'\nrule = 'Bash(git push:*)'\n\
         [[policy.rule]]\ndecision = 'ask'\nrule = 'WebFetch'\ntenant = 'team-a'\n",
    )
    .expect("read");
    assert_eq!(config.policy.rule, wanted);
    assert!(config.policy.agents);
    assert_eq!(with_file(&print(&config)).expect("printed as it is read"), config);
    let value = "[{ decision = \"deny\", rule = \"Bash(git push:*)\" }, \
                  { decision = \"ask\", rule = \"WebFetch\", tenant = \"team-a\" }]";
    assert_eq!(with_flags(&[("policy.rule", value)]).expect("read").policy.rule, wanted);
    let env = environment(&[("SESSION_POOL__POLICY__RULE", value)]);
    let config = load(Sources { env, ..Sources::default() }).expect("read");
    assert_eq!(config.policy.rule, wanted);
}

#[test]
fn what_is_wrong_with_a_rule_is_told_with_its_table() {
    for (value, told) in [
        ("3", "policy.rule (command line): must be a list of tables: [[policy.rule]]"),
        (
            "[{ decision = 'deny', rule = 'Bash' }, { decision = 'no', rule = 'Bash' }]",
            "policy.rule (command line): table 2: unknown variant `no`, expected one of `allow`, \
             `deny`, `ask`",
        ),
        ("[{ decision = 'deny' }]", "policy.rule (command line): table 1: missing field `rule`"),
        (
            "[{ rule = 'Bash' }, { decision = 'ask', rule = 'bash' }]",
            "policy.rule (command line): table 1: missing field `decision`; table 2: rule must be \
             Tool or Tool(specifier), is \"bash\"",
        ),
        (
            "[{ decision = 'deny', rule = 'Bash', tenant = 'a b' }]",
            "policy.rule (command line): table 1: tenant must consist of A-Z a-z 0-9 . _ : -, has \
             ' '",
        ),
        (
            "[{ decision = 'deny', rule = 'Bash', of = 'a' }]",
            "policy.rule (command line): table 1: unknown field `of`, expected one of `decision`, \
             `rule`, `tenant`",
        ),
    ] {
        assert_eq!(refusal(&[("policy.rule", value)]), told);
    }
}

#[test]
fn rules_are_bounded_in_number_and_in_all() {
    let many = |count: usize, rule: &str| {
        let table = format!("{{ decision = 'deny', rule = '{rule}' }}, ");
        format!("[{}]", table.repeat(count))
    };
    let refused = |value: &str| refusal(&[("policy.rule", value)]);
    assert!(with_flags(&[("policy.rule", &many(500, "Bash(git:*)"))]).is_ok());
    let told = refused(&many(501, "Bash"));
    assert!(told.ends_with("must be at most 500 tables, not 501"), "{told}");
    let long = format!("Bash({})", "x".repeat(994));
    assert!(with_flags(&[("policy.rule", &many(32, &long))]).is_ok());
    let told = refused(&many(33, &long));
    assert!(told.ends_with("must have at most 32768 bytes in all rules, has 33000"), "{told}");
    let told = refused(&many(12, "bash"));
    assert!(told.ends_with("; and 2 more") && told.len() < 1000, "{told}");
}

#[test]
fn an_argument_of_the_operators_own_does_not_take_the_place_of_the_rules() {
    let some = "[{ decision = 'ask', rule = 'Bash' }]";
    for argument in ["--settings", "--managed-settings"] {
        let own = format!("['{argument}={{}}']");
        let told = refusal(&[("policy.rule", some), ("cli.extra_args", &own)]);
        let words = format!("must be none while cli.extra_args has {argument}: the CLI takes one");
        assert!(
            told.starts_with("policy.rule = not empty (command line): ") && told.ends_with(&words)
        );
        assert!(with_flags(&[("cli.extra_args", &own)]).is_ok());
    }
}
