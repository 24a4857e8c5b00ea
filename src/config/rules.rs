//! The `[[policy.rule]]` tables: permission rules of the operator, which the CLI matches.

use serde::{Deserialize, Serialize};
use toml::Value;

use super::tables;
pub use crate::policy::rules::RuleDecision;
use crate::policy::rules::{MOST_BYTES, MOST_RULES, check_rule, check_tenant};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What becomes of a tool call that it is about.
    pub decision: RuleDecision,
    /// Which calls: `Tool` or `Tool(specifier)`.
    pub rule: String,
    /// Whose; empty is of all tenants.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
}

/// Reads all tables; the error names every table that is wrong, and what of it.
pub fn read(value: &Value) -> Result<Vec<RuleConfig>, String> {
    let rules = tables::read(value, ("policy.rule", MOST_RULES), check)?;
    let bytes = rules.iter().map(|rule| rule.rule.len()).sum::<usize>();
    if bytes > MOST_BYTES {
        return Err(format!("must have at most {MOST_BYTES} bytes in all rules, has {bytes}"));
    }
    Ok(rules)
}

fn check(rule: &RuleConfig) -> Result<(), String> {
    check_rule(&rule.rule).map_err(|problem| format!("rule {problem}"))?;
    check_tenant(&rule.tenant).map_err(|problem| format!("tenant {problem}"))
}
