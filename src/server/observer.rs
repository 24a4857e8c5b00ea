//! What `GetStats` says beside the pool's own figures.

use super::Enclosure;
use crate::{
    cli::usage,
    health::Health,
    pool::{PoolStats, Scope},
    rpc::{service::Observe, snapshot::Facts},
    supply::{ProcessSupply, SupplyLimits},
};

/// Looks at the supply, the machine and the CLI.
#[derive(Debug)]
pub struct Observer {
    /// What CLIs are enclosed in, and what was tried against it.
    pub enclosure: Enclosure,
    /// Where processes come from.
    pub supply: ProcessSupply,
    /// Its bounds.
    pub limits: SupplyLimits,
    /// Knows the CLI's version.
    pub health: Health,
}

impl Observe for Observer {
    async fn facts(&self, scope: &Scope, stats: &PoolStats) -> Facts {
        let SupplyLimits { max_processes, max_processes_of_a_tenant, .. } = self.limits;
        let (processes, max_processes) = match scope {
            Scope::All => (self.supply.processes(), max_processes),
            Scope::Tenant(tenant) => (
                self.supply.processes_of(tenant),
                max_processes_of_a_tenant.map_or(max_processes, |share| share.min(max_processes)),
            ),
        };
        let look = self.supply.looks().recent(&stats.process_ids).await;
        let tenant = match scope {
            Scope::All => None,
            Scope::Tenant(tenant) => Some(tenant),
        };
        let (spares, spares_starting) = self.supply.spares(tenant);
        let rate_limits = match self.supply.gateway() {
            Some(gateway) => gateway.limits(tenant).await,
            None => Vec::new(),
        };
        Facts {
            processes,
            spares,
            spares_starting,
            starting: self.supply.starting(),
            max_processes,
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64,
            // A look that failed is a figure that is not known.
            memory_bytes: usage::resident_bytes(&look, &stats.process_ids),
            cli_version: self.health.cli_version().unwrap_or_default(),
            sandbox: self.enclosure.sandbox.name(),
            sandbox_attempts: self.enclosure.attempts.clone(),
            not_ready_reasons: self
                .health
                .reasons()
                .into_iter()
                .map(|(part, reason)| format!("{part}: {reason}"))
                .collect(),
            rate_limits,
        }
    }
}
