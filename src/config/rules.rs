//! The `[[policy.rule]]` tables: permission rules of the operator, which the CLI matches.

use serde::{Deserialize, Serialize};
use toml::Value;

pub use crate::policy::rules::RuleDecision;
use crate::policy::rules::{MOST_BYTES, MOST_RULES, check_rule, check_tenant};

/// Problems that are told of at most.
const MOST_TOLD: usize = 10;

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
    let tables = value.as_array().ok_or("must be a list of tables: [[policy.rule]]")?;
    if tables.len() > MOST_RULES {
        return Err(format!("must be at most {MOST_RULES} tables, not {}", tables.len()));
    }
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (index, table) in tables.iter().enumerate() {
        match read_rule(table) {
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(format!("table {}: {problem}", index + 1)),
        }
    }
    if let Some(more) = problems.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        problems.truncate(MOST_TOLD);
        problems.push(format!("and {more} more"));
    }
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let bytes = rules.iter().map(|rule| rule.rule.len()).sum::<usize>();
    if bytes > MOST_BYTES {
        return Err(format!("must have at most {MOST_BYTES} bytes in all rules, has {bytes}"));
    }
    Ok(rules)
}

fn read_rule(table: &Value) -> Result<RuleConfig, String> {
    let rule: Result<RuleConfig, _> = table.clone().try_into();
    let rule = rule.map_err(|error| error.message().trim().to_owned())?;
    check_rule(&rule.rule).map_err(|problem| format!("rule {problem}"))?;
    check_tenant(&rule.tenant).map_err(|problem| format!("tenant {problem}"))?;
    Ok(rule)
}

/// All tables for a reader.
pub fn show(rules: &[RuleConfig]) -> Value {
    // Everything in it has a form in TOML.
    let shown = |rule: &RuleConfig| Value::try_from(rule).unwrap_or(Value::Boolean(false));
    Value::Array(rules.iter().map(shown).collect())
}
