//! What the configuration says, in the words of each part. The only place that knows both.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    access::nodes::METADATA_BYTES,
    audit::{Audit, Place},
    budget::{self, Budget},
    cli::{
        env_files::EnvFiles, launch::LaunchSettings, sandbox::Sandbox, telemetry, usage::Allowed,
        versions::Installed,
    },
    cluster::CALLS_ON_A_LINK,
    config::{CliConfig, Config, RuleConfig, SpareConfig},
    domain::{ids::TenantId, operator_rule::OperatorRule, options::Options, redacted::Redacted},
    os::{cgroup::Bounds, limits::OfEach},
    policy::{Policy, Roots},
    pool::PoolSettings,
    rpc::edge::EdgeLimits,
    session::Settings,
    supply::{SpareClass, SpareSettings, SupplyLimits},
    tenant::Quotas,
    traces,
    transport::Limits,
    turn::storage::StorageSettings,
};

/// Connections at once, and calls on each, where there are only health checks.
pub const HEALTH_CONNECTIONS: usize = 64;
const HEALTH_STREAMS: u32 = 16;

/// Connections of other nodes at once. Each node makes one for every hundred calls.
pub const NODE_CONNECTIONS: usize = 256;

/// What connections are held to, of which there may be so many.
pub fn transport(config: &Config, max_connections: usize) -> Limits {
    let limits = &config.server.limits;
    let at_most = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let of_callers = Limits {
        max_connections,
        max_streams: at_most(limits.max_streams),
        handshake_timeout: limits.handshake_timeout,
        idle_timeout: Some(limits.idle_timeout).filter(|limit| !limit.is_zero()),
        max_header_bytes: at_most(limits.max_header_bytes),
    };
    if nodes_come_with_callers(config) { for_nodes(of_callers) } else { of_callers }
}

/// The same for connections of other nodes alone.
pub fn node_transport(config: &Config) -> Limits {
    for_nodes(transport(config, NODE_CONNECTIONS))
}

/// A call that was good for the node that forwards it is good for the next one.
fn for_nodes(limits: Limits) -> Limits {
    Limits {
        max_streams: limits.max_streams.max(CALLS_ON_A_LINK),
        max_header_bytes: limits.max_header_bytes.saturating_add(METADATA_BYTES),
        ..limits
    }
}

/// The same for connections of health checks alone.
pub fn health_transport(config: &Config) -> Limits {
    let all = transport(config, HEALTH_CONNECTIONS);
    Limits { max_streams: HEALTH_STREAMS.min(all.max_streams), ..all }
}

/// Whether other nodes come by the listener of callers.
pub fn nodes_come_with_callers(config: &Config) -> bool {
    !config.cluster.advertise.is_empty() && config.cluster.listen.is_none()
}

/// What requests are held to.
pub fn edge(config: &Config) -> EdgeLimits {
    let limits = &config.server.limits;
    EdgeLimits { body_timeout: limits.body_timeout, max_health_calls: limits.max_health_calls }
}

/// What callers may ask for.
pub fn policy(config: &Config) -> anyhow::Result<Policy> {
    let policy = config.policy.clone();
    let cwd_roots = Roots::open(&policy.cwd_roots).map_err(|(path, error)| {
        anyhow::Error::new(error).context(format!("policy.cwd_roots: cannot use {path}"))
    })?;
    Ok(Policy {
        permission_modes: policy.permission_modes,
        cwd_roots,
        mcp_servers: policy.mcp_servers,
        settings: policy.settings,
        agents: policy.agents,
        tool_servers: policy.tool_servers,
        env: policy.env,
        setting_sources: policy.setting_sources,
        max_prompt_bytes: policy.max_prompt_bytes,
        slash_commands: policy.slash_commands,
        file_mentions: policy.file_mentions.allowed(policy.slash_commands),
    })
}

/// The CLI's own bound of the time in which an MCP server has to be up, in milliseconds.
const MCP_TIMEOUT: &str = "MCP_TIMEOUT";

/// The CLI's own bound of a call of an MCP tool, in milliseconds. Its default is more than a day.
const MCP_TOOL_TIMEOUT: &str = "MCP_TOOL_TIMEOUT";

/// How much later than the service's own bound of such a call that one is.
const BEHIND_OWN_BOUND: Duration = Duration::from_secs(10);

/// Has the CLI send nothing but what its turns need: no figures, no reports of errors.
const QUIET: &str = "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC";

/// Has the CLI keep no notes of its own beside a conversation, which later sessions in the same
/// folder would be told as if their caller had said them.
const NO_NOTES: &str = "CLAUDE_CODE_DISABLE_AUTO_MEMORY";

/// That bound by default; the CLI's own default.
const LONGEST_MCP_TIMEOUT: Duration = Duration::from_secs(30);

/// How every CLI is started.
pub fn launch(config: &Config, sandbox: Sandbox, installed: Installed) -> LaunchSettings {
    let mut env = config.cli.env.clone();
    // The CLI waits for its servers before it takes up the first prompt, and says nothing
    // meanwhile. It has to give up on them before it is given up on.
    let limit = (config.pool.stream_first_chunk_timeout * 4 / 5).min(LONGEST_MCP_TIMEOUT);
    let traces = &config.traces;
    let telemetry = traces.cli_telemetry.then(|| telemetry::variables(&traces.otlp_endpoint));
    // The service's own bound of calls to callers' tools comes first, and says more.
    let of_call = config.policy.tool_call_timeout + BEHIND_OWN_BOUND;
    let by_default = [
        (MCP_TIMEOUT, limit.as_millis().to_string()),
        (MCP_TOOL_TIMEOUT, of_call.as_millis().to_string()),
        (QUIET, "1".to_owned()),
        (NO_NOTES, "1".to_owned()),
    ];
    for (name, value) in by_default.into_iter().chain(telemetry.into_iter().flatten()) {
        if !sets_variable(config, name) {
            env.insert(name.to_owned(), value);
        }
    }
    LaunchSettings {
        program: config.cli.path.clone(),
        extra_args: config.cli.extra_args.clone(),
        env,
        env_files: EnvFiles(config.cli.variables_in_files().collect()),
        env_passthrough: config.cli.env_passthrough.clone(),
        state_dir: config.state_dir.clone(),
        sandbox,
        installed,
        rules: config.policy.rule.iter().map(operator_rule).collect(),
        limits: OfEach {
            file_bytes: workspace_bytes(config),
            open_files: unless_zero(config.cli.max_open_files).map(|files| files as u64),
        },
        groups: None,
    }
}

/// What the control group of each session is held to. It may have some more tasks than the service
/// ends it for, so that it is told why.
pub fn groups(config: &Config) -> Bounds {
    let tasks = unless_zero(config.cli.max_tasks).map(|tasks| tasks as u64);
    Bounds {
        memory: Some(config.cli.memory_limit).filter(|bytes| *bytes > 0),
        tasks: tasks.map(|tasks| tasks.saturating_add(tasks / 4)),
        cpu_weight: config.cli.cpu_weight as u64,
    }
}

/// Bytes of a session's files, if they are bounded.
fn workspace_bytes(config: &Config) -> Option<u64> {
    Some(config.policy.max_workspace_bytes).filter(|bytes| *bytes > 0)
}

fn operator_rule(rule: &RuleConfig) -> OperatorRule {
    let RuleConfig { decision, rule, tenant } = rule;
    // Its name was checked when the configuration was read.
    OperatorRule { decision: *decision, rule: rule.clone(), tenant: TenantId::parse(tenant).ok() }
}

/// Where it is recorded who did what.
pub fn audit(config: &Config) -> anyhow::Result<Audit> {
    let Some(file) = &config.audit.file else { return Ok(Audit::default()) };
    let place = match config.audit.files() {
        Some(path) => Place::Files { path: path.clone(), most: config.audit.max_files },
        None => Place::Stdout,
    };
    Audit::open(&place).with_context(|| format!("audit.file: {}", file.display()))
}

/// What exports spans, if anything does.
pub fn traces(config: &Config) -> Option<traces::Settings> {
    let traces = config.traces.clone();
    traces.are_exported().then(|| traces::Settings {
        endpoint: traces.otlp_endpoint,
        headers_file: traces.headers_file,
        ca: traces.ca,
        service_name: traces.service_name,
        instance: config.cluster.node.clone(),
        sample_ratio: traces.sample_ratio,
        interval: traces.export_interval,
        timeout: traces.export_timeout,
        max_queued: traces.max_queued_spans,
    })
}

/// The bounds of the supply.
pub fn limits(config: &Config) -> SupplyLimits {
    SupplyLimits {
        max_processes: config.pool.max_processes,
        max_processes_of_a_tenant: unless_zero(config.policy.tenant_max_processes),
        start_concurrency: config.pool.start_concurrency,
        connect_timeout: config.pool.connect_timeout,
        max_frame_bytes: config.cli.max_frame_bytes,
        usage: Allowed {
            memory: Some(config.cli.memory_limit).filter(|limit| *limit > 0),
            processes: unless_zero(config.policy.max_processes_per_session).map(|it| it as u64),
            tasks: unless_zero(config.cli.max_tasks).map(|tasks| tasks as u64),
            files: workspace_bytes(config),
        },
    }
}

/// The classes of spares. Those of callers that are not told apart are kept from the start.
pub fn spares(config: &Config) -> anyhow::Result<SpareSettings> {
    let plain = SpareClass { options: Options::default(), count: config.pool.spares, tenant: None };
    let mut classes = vec![plain];
    for class in &config.spare {
        classes.push(spare_class(class)?);
    }
    classes.retain(|class| class.count > 0);
    let told_apart = config.auth.tokens_file.is_some() || config.tls.client_ca.is_some();
    Ok(SpareSettings {
        classes,
        max_age: config.pool.spare_max_age,
        first: (!told_apart).then(TenantId::default),
    })
}

fn spare_class(config: &SpareConfig) -> anyhow::Result<SpareClass> {
    let SpareConfig {
        count,
        tenant,
        fallback_model,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        add_dirs,
        settings,
        setting_sources,
        betas,
    } = config.clone();
    let tenant = match tenant.as_str() {
        "" => None,
        name => Some(TenantId::parse(name).with_context(|| format!("spare: tenant {name:?}"))?),
    };
    let real = |path: &String| {
        let real = std::fs::canonicalize(path);
        let real = real.with_context(|| format!("spare: add_dirs: {path:?}"))?;
        Ok(real.to_string_lossy().into_owned())
    };
    let options = Options {
        fallback_model,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        add_dirs: add_dirs.iter().map(real).collect::<anyhow::Result<_>>()?,
        settings: settings.map(Redacted),
        setting_sources,
        betas,
        ..Options::default()
    };
    Ok(SpareClass { options: options.at_start(), count, tenant })
}

/// A quota of 0 is none.
fn unless_zero(limit: usize) -> Option<usize> {
    Some(limit).filter(|limit| *limit > 0)
}

/// What each tenant may have.
pub fn quotas(config: &Config) -> Quotas {
    let policy = &config.policy;
    Quotas {
        sessions: unless_zero(policy.tenant_max_sessions),
        processes: unless_zero(policy.tenant_max_processes),
        queued_turns: unless_zero(policy.tenant_max_queued_turns),
        streams: unless_zero(policy.tenant_max_streams),
        cost_usd_per_day: Some(policy.tenant_max_cost_usd_per_day).filter(|cost| *cost > 0.0),
    }
}

/// What the pool is told.
pub fn pool_settings(config: &Config) -> PoolSettings {
    PoolSettings {
        enabled: config.pool.enabled,
        max_sessions: config.pool.max_sessions,
        session_ttl: config.pool.session_ttl,
        idle_threshold: config.pool.idle_threshold,
        cleanup_interval: config.pool.cleanup_interval,
        retention: config.store.retention,
        background_grace: config.pool.background_grace,
    }
}

/// What the logs of all turns share. The budget of memory is that of requests too.
pub fn storage_settings(config: &Config) -> StorageSettings {
    let (pool, policy) = (&config.pool, &config.policy);
    let unless_zero = |limit: u64| Some(limit).filter(|limit| *limit > 0);
    StorageSettings {
        buffer_bytes: pool.turn_buffer_bytes,
        spill_bytes: pool.turn_spill_bytes.min(pool.spill_bytes),
        spill_folder: config.state_dir.join("spill"),
        disk_reserve: pool.disk_reserve,
        memory: Budget::new(budget::Bounds {
            key: "pool.memory_budget",
            total: pool.memory_budget,
            tenant_key: "policy.tenant_max_memory",
            of_tenant: unless_zero(policy.tenant_max_memory),
        }),
        disk: Budget::new(budget::Bounds {
            key: "pool.spill_bytes",
            total: pool.spill_bytes,
            tenant_key: "policy.tenant_max_spill",
            of_tenant: unless_zero(policy.tenant_max_spill),
        }),
    }
}

/// Whether the operator says what a variable of every CLI is.
fn sets_variable(config: &Config, name: &str) -> bool {
    let CliConfig { env, env_passthrough, .. } = &config.cli;
    let in_file = config.cli.variables_in_files().any(|(known, _)| known == name);
    in_file || env.contains_key(name) || env_passthrough.iter().any(|known| known == name)
}

/// What every session is told.
pub fn session_settings(config: &Config) -> Settings {
    let pool = &config.pool;
    let unless_zero = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
    Settings {
        session_ttl: pool.session_ttl,
        connection_recovery: pool.connection_recovery,
        first_chunk_timeout: pool.stream_first_chunk_timeout,
        ongoing_timeout: pool.stream_ongoing_timeout,
        stall_timeout: unless_zero(pool.stream_stall_timeout),
        stuck_threshold: unless_zero(pool.stuck_threshold),
        interrupt_timeout: pool.stream_interrupt_timeout,
        max_queued_turns: pool.max_queued_turns,
        turn_retention: pool.turn_retention,
        named_turn_retention: config.store.turn_retention,
        hibernate_after: unless_zero(pool.hibernate_after),
        commit_timeout: config.store.commit_timeout,
        prompt_timeout: unless_zero(config.policy.prompt_timeout),
        background_max_age: unless_zero(config.pool.background_max_age),
        background_timeout: config.pool.background_timeout,
        // An operator who has set the variable wants that.
        tells_trace: !sets_variable(config, traces::VARIABLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_spares_has_all_options_of_the_start_but_the_session_s_folder() {
        let text = |text: &str| vec![text.to_owned()];
        let class = SpareConfig {
            count: 1,
            tenant: "t".into(),
            fallback_model: Some("m".into()),
            allowed_tools: text("Read"),
            disallowed_tools: text("Write"),
            tools: text("Bash"),
            max_turns: Some(1),
            max_budget_usd: Some(1.0),
            add_dirs: text("/"),
            settings: Some("{}".into()),
            setting_sources: text("user"),
            betas: text("b"),
        };
        let class = spare_class(&class).expect("a class");
        for name in Options::names() {
            let wanted = Options::is_for_start(name) && name != "cwd";
            assert_eq!(class.options.says(name), wanted, "{name}");
        }
    }
}
