//! A permission rule of the operator, in the CLI's own language.

use serde::{Deserialize, Serialize};

use super::ids::TenantId;

/// What becomes of a tool call that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDecision {
    /// It runs, and nobody is asked.
    Allow,
    /// It is refused.
    Deny,
    /// The caller is asked, whatever it has allowed itself.
    Ask,
}

impl RuleDecision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Ask];
}

/// A rule that callers cannot loosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRule {
    /// What becomes of a call that it is about.
    pub decision: RuleDecision,
    /// Which calls: `Tool` or `Tool(specifier)`.
    pub rule: String,
    /// Whose; `None` is of all tenants.
    pub tenant: Option<TenantId>,
}

impl OperatorRule {
    /// Whether it is one for the sessions of this tenant.
    pub fn concerns(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }
}
