//! Who a caller is. Knows tenants and roles; nothing of what callers ask for.

use crate::ids::TenantId;

/// A caller that has been let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose sessions it may use.
    pub tenant: TenantId,
    /// Whether it may look at, and interrupt, what belongs to other tenants.
    pub admin: bool,
}

impl Identity {
    /// Whoever reaches a service that asks nobody who they are.
    pub fn anonymous() -> Self {
        Self { tenant: TenantId::default(), admin: true }
    }
}
