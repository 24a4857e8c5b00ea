//! The configuration: where it comes from, what may be in it, what it means.
//! Knows the machine's memory and nothing of the rest of the crate.
//!
//! ```text
//!  defaults ◀ file (TOML) ◀ environment ◀ command line     each beats those left of it
//!       └────────┴──── source: one flat list of settings ────┘
//!                               │
//!                               ▼
//!                fields: one row a key, its type and its bounds
//!                               │
//!                               ▼
//!                check: rules that join several keys ──▶ Config
//! ```
//!
//! A bad setting never stops the reading: [`load`] collects everything that is
//! wrong and reports it at once. The table in `fields` takes [`Config`] apart by
//! name, so a new field does not compile before it has a key, a bound and a place
//! in [`print()`].

mod apply;
mod audit;
mod check;
mod choices;
mod cluster;
mod defaults;
mod egress;
mod env_files;
mod error;
mod fields;
mod gateway;
mod memory;
mod names;
mod places;
mod policy;
mod print;
mod rules;
mod sandbox;
mod secrets;
mod sections;
mod shares;
mod shown;
mod source;
mod spares;
mod spelling;
mod tables;
mod traces;
mod units;
mod variables;

pub use audit::AuditConfig;
pub use check::problem_of_url;
pub use choices::{CgroupMode, FileMentions, LogFormat, SandboxMode, StoreKind};
pub use cluster::ClusterConfig;
pub use egress::EgressConfig;
pub use error::{ConfigError, ValueOrigin, Violation};
pub use gateway::{GatewayConfig, PriceConfig, TenantCredential};
pub use policy::PolicyConfig;
pub use print::print;
pub use rules::{RuleConfig, RuleDecision};
pub use sandbox::SandboxConfig;
pub use sections::{
    AuthConfig, CliConfig, Config, LimitsConfig, LogConfig, MetricsConfig, PoolConfig,
    ServerConfig, StoreConfig, TlsConfig,
};
pub use source::Sources;
pub use spares::SpareConfig;
pub use traces::TracesConfig;
pub use variables::{UnknownVariable, is_setting};

/// The types of two keys of `policy`.
pub use crate::policy::{McpServers, Mentions};

/// Reads, merges and checks the configuration.
///
/// The error lists every violation, each with its key, value, bound and origin.
///
/// ```
/// use session_pool::config::{self, Sources};
///
/// let sources = |sessions: &str, processes: &str| Sources {
///     env: vec![("HOME".into(), "/home/user".into())],
///     flags: vec![
///         ("auth.insecure".into(), "true".into()),
///         ("pool.max_sessions".into(), sessions.into()),
///         ("pool.max_processes".into(), processes.into()),
///     ],
///     ..Sources::default()
/// };
/// let config = config::load(sources("200", "4"))?;
/// assert_eq!((config.pool.max_sessions, config.pool.max_processes), (200, 4));
///
/// let error = config::load(sources("many", "-1")).expect_err("neither is accepted");
/// assert!(error.to_string().contains("pool.max_sessions = \"many\""), "{error}");
/// assert!(error.to_string().contains("pool.max_processes = -1"), "{error}");
/// # Ok::<(), config::ConfigError>(())
/// ```
pub fn load(sources: Sources) -> Result<Config, ConfigError> {
    let settings = sources.settings()?;
    let mut config = Config::defaults(|name| sources.variable(name));
    let mut violations = apply::apply(&mut config, &settings);
    shares::share_out(&mut config, &settings);
    violations.extend(check::check(&config, &settings, &violations));
    violations.extend(sources.misspelt_variables());
    if !violations.is_empty() {
        return Err(ConfigError::Refused(violations));
    }
    config.make_paths_absolute();
    Ok(config)
}

impl Config {
    /// Whether CLIs have anything to come to the service for: the API, or other hosts.
    pub fn needs_gateway(&self) -> bool {
        self.gateway.enabled || self.policy.egress != EgressConfig::Open
    }
}

#[cfg(test)]
mod tests;
