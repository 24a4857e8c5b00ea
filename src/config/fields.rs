//! The table of keys: for each its place in [`Config`], its type and its bounds.

use std::{
    collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use super::{
    AuditConfig, AuthConfig, CgroupMode, CliConfig, ClusterConfig, Config, EgressConfig,
    FileMentions, LimitsConfig, LogConfig, LogFormat, PoolConfig, PriceConfig, RuleConfig,
    SandboxConfig, SandboxMode, ServerConfig, SpareConfig, StoreConfig, StoreKind,
    TenantCredential, TlsConfig, spares::MOST_SPARES,
};
use crate::policy::McpServers;

/// The one key whose value is a table of names that the operator chooses.
pub const ENV_TABLE: &str = "cli.env";

mod gateway;
mod policy;
mod traces;

const NANOSECOND: Duration = Duration::from_nanos(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;

/// One key and the place of its value.
pub struct Field<'a> {
    /// The key, with dots.
    pub key: &'static str,
    /// Its place.
    pub slot: Slot<'a>,
}

/// The place of a value, which says what values it takes.
pub enum Slot<'a> {
    /// Yes or no.
    Flag(&'a mut bool),
    /// A number of things.
    Count(&'a mut usize, RangeInclusive<usize>),
    /// A number of bytes that fits in memory.
    Bytes(&'a mut usize, RangeInclusive<u64>),
    /// A number of bytes that need not.
    LargeBytes(&'a mut u64, RangeInclusive<u64>),
    /// A time within bounds.
    Duration(&'a mut Duration, RangeInclusive<Duration>),
    /// A time within bounds, or 0 for off.
    DurationOrOff(&'a mut Duration, RangeInclusive<Duration>),
    /// An IP address and a port.
    Address(&'a mut SocketAddr),
    /// A path.
    Path(&'a mut PathBuf),
    /// A path, or none.
    OptionalPath(&'a mut Option<PathBuf>),
    /// An address to listen on, or none.
    OptionalAddress(&'a mut Option<SocketAddr>),
    /// Any text.
    Text(&'a mut String),
    /// A connection string, which may hold a password.
    Url(&'a mut String),
    /// A list of texts, at most so many.
    Texts(&'a mut Vec<String>, usize),
    /// A number with a fraction.
    Amount(&'a mut f64, RangeInclusive<f64>),
    /// One of the log formats.
    Format(&'a mut LogFormat),
    /// One of the sandboxes.
    Sandbox(&'a mut SandboxMode),
    /// Whether there are control groups.
    Cgroups(&'a mut CgroupMode),
    /// One of the kinds of store.
    Store(&'a mut StoreKind),
    /// Which MCP servers callers may name.
    McpServers(&'a mut McpServers),
    /// Whether prompts may name files.
    FileMentions(&'a mut FileMentions),
    /// Classes of spares.
    Spares(&'a mut Vec<SpareConfig>),
    /// Permission rules.
    Rules(&'a mut Vec<RuleConfig>),
    /// Where sessions may connect to.
    Egress(&'a mut EgressConfig),
    /// Credentials of tenants.
    TenantCredentials(&'a mut Vec<TenantCredential>),
    /// Prices of models.
    Prices(&'a mut Vec<PriceConfig>),
    /// A table of texts, at most so many.
    Variables(&'a mut BTreeMap<String, String>, usize),
}

/// How a text from the environment or the command line is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As it stands, quotes around it being optional.
    Text,
    /// As a TOML value if it is one.
    Toml,
}

/// How the text of this key is taken.
pub fn reading_of(key: &str) -> Reading {
    if key.strip_prefix(ENV_TABLE).is_some_and(|rest| rest.starts_with('.')) {
        return Reading::Text;
    }
    let mut config = Config::defaults(|_| None);
    match fields(&mut config).into_iter().find(|field| field.key == key).map(|field| field.slot) {
        Some(
            Slot::Path(_)
            | Slot::OptionalPath(_)
            | Slot::Text(_)
            | Slot::Url(_)
            | Slot::Address(_)
            | Slot::OptionalAddress(_)
            | Slot::Format(_)
            | Slot::McpServers(_)
            | Slot::Sandbox(_)
            | Slot::Cgroups(_)
            | Slot::Store(_),
        ) => Reading::Text,
        _ => Reading::Toml,
    }
}

/// Every key, in the order in which they are documented.
pub fn fields(config: &mut Config) -> Vec<Field<'_>> {
    let Config {
        server,
        pool,
        spare,
        cli,
        sandbox,
        gateway,
        policy,
        store,
        cluster,
        auth,
        audit,
        tls,
        log,
        metrics,
        traces,
        state_dir,
    } = config;
    let mut fields =
        vec![field("state_dir", Slot::Path(state_dir)), field("spare", Slot::Spares(spare))];
    fields.extend(server_fields(server));
    fields.extend(pool_fields(pool));
    fields.extend(cli_fields(cli));
    let SandboxConfig { readable, hidden } = sandbox;
    fields.push(field("sandbox.readable", Slot::Texts(readable, 64)));
    fields.push(field("sandbox.hidden", Slot::Texts(hidden, 64)));
    fields.extend(gateway::fields(gateway));
    fields.extend(policy::fields(policy));
    fields.extend(store_fields(store));
    fields.extend(cluster_fields(cluster));
    let AuthConfig { insecure, tokens_file } = auth;
    fields.push(field("auth.insecure", Slot::Flag(insecure)));
    fields.push(field("auth.tokens_file", Slot::OptionalPath(tokens_file)));
    let AuditConfig { file, max_files } = audit;
    fields.push(field("audit.file", Slot::OptionalPath(file)));
    fields.push(field("audit.max_files", Slot::Count(max_files, 2..=10_000)));
    let TlsConfig { cert, key, client_ca } = tls;
    fields.push(field("tls.cert", Slot::OptionalPath(cert)));
    fields.push(field("tls.key", Slot::OptionalPath(key)));
    fields.push(field("tls.client_ca", Slot::OptionalPath(client_ca)));
    let LogConfig { format, level } = log;
    fields.push(field("log.format", Slot::Format(format)));
    fields.push(field("log.level", Slot::Text(level)));
    fields.push(field("metrics.tenant_label", Slot::Flag(&mut metrics.tenant_label)));
    fields.push(field("metrics.status_page", Slot::Flag(&mut metrics.status_page)));
    fields.extend(traces::fields(traces));
    fields
}

fn field<'a>(key: &'static str, slot: Slot<'a>) -> Field<'a> {
    Field { key, slot }
}

fn duration<'a>(key: &'static str, place: &'a mut Duration, max: Duration) -> Field<'a> {
    field(key, Slot::Duration(place, NANOSECOND..=max))
}

fn duration_or_off<'a>(key: &'static str, place: &'a mut Duration) -> Field<'a> {
    field(key, Slot::DurationOrOff(place, NANOSECOND..=MONTH))
}

fn cluster_fields(cluster: &mut ClusterConfig) -> Vec<Field<'_>> {
    let ClusterConfig { node, heartbeat, lease, advertise, listen, ca, cert, key, token_file } =
        cluster;
    vec![
        field("cluster.node", Slot::Text(node)),
        duration("cluster.heartbeat", heartbeat, MINUTE),
        duration("cluster.lease", lease, HOUR),
        field("cluster.advertise", Slot::Text(advertise)),
        field("cluster.listen", Slot::OptionalAddress(listen)),
        field("cluster.ca", Slot::OptionalPath(ca)),
        field("cluster.cert", Slot::OptionalPath(cert)),
        field("cluster.key", Slot::OptionalPath(key)),
        field("cluster.token_file", Slot::OptionalPath(token_file)),
    ]
}

fn store_fields(store: &mut StoreConfig) -> impl IntoIterator<Item = Field<'_>> {
    let StoreConfig {
        kind,
        url,
        url_file,
        max_connections,
        acquire_timeout,
        statement_timeout,
        retention,
        turn_retention,
        commit_timeout,
        allow_empty,
    } = store;
    [
        field("store.kind", Slot::Store(kind)),
        field("store.url", Slot::Url(url)),
        field("store.url_file", Slot::OptionalPath(url_file)),
        field("store.max_connections", Slot::Count(max_connections, 2..=1000)),
        duration("store.acquire_timeout", acquire_timeout, MINUTE),
        duration("store.statement_timeout", statement_timeout, HOUR),
        duration("store.retention", retention, 3650 * DAY),
        duration("store.turn_retention", turn_retention, 30 * DAY),
        duration("store.commit_timeout", commit_timeout, Duration::from_secs(600)),
        field("store.allow_empty", Slot::Flag(allow_empty)),
    ]
}

fn server_fields(server: &mut ServerConfig) -> impl IntoIterator<Item = Field<'_>> {
    let ServerConfig { listen, drain_timeout, reflection, health_listen, metrics_listen, limits } =
        server;
    let LimitsConfig {
        max_connections,
        max_streams,
        handshake_timeout,
        body_timeout,
        idle_timeout,
        max_header_bytes,
        max_health_calls,
    } = limits;
    [
        field("server.listen", Slot::Address(listen)),
        duration("server.drain_timeout", drain_timeout, DAY),
        field("server.reflection", Slot::Flag(reflection)),
        field("server.health_listen", Slot::OptionalAddress(health_listen)),
        field("server.metrics_listen", Slot::OptionalAddress(metrics_listen)),
        field("server.limits.max_connections", Slot::Count(max_connections, 1..=100_000)),
        field("server.limits.max_streams", Slot::Count(max_streams, 1..=100_000)),
        duration("server.limits.handshake_timeout", handshake_timeout, 5 * MINUTE),
        duration("server.limits.body_timeout", body_timeout, HOUR),
        duration_or_off("server.limits.idle_timeout", idle_timeout),
        field("server.limits.max_header_bytes", Slot::Bytes(max_header_bytes, 4 * KIB..=MIB)),
        field("server.limits.max_health_calls", Slot::Count(max_health_calls, 1..=100_000)),
    ]
}

fn pool_fields(pool: &mut PoolConfig) -> impl IntoIterator<Item = Field<'_>> {
    let PoolConfig {
        enabled,
        max_sessions,
        max_processes,
        session_ttl,
        idle_threshold,
        hibernate_after,
        background_max_age,
        background_timeout,
        cleanup_interval,
        connection_recovery,
        stuck_threshold,
        stream_first_chunk_timeout,
        stream_ongoing_timeout,
        stream_stall_timeout,
        stream_interrupt_timeout,
        connect_timeout,
        max_queued_turns,
        turn_buffer_bytes,
        turn_spill_bytes,
        turn_retention,
        background_grace,
        memory_budget,
        spill_bytes,
        disk_reserve,
        spares,
        spare_max_age,
        start_concurrency,
    } = pool;
    [
        field("pool.enabled", Slot::Flag(enabled)),
        field("pool.max_sessions", Slot::Count(max_sessions, 1..=1_000_000)),
        field("pool.max_processes", Slot::Count(max_processes, 1..=100_000)),
        duration("pool.session_ttl", session_ttl, MONTH),
        duration("pool.idle_threshold", idle_threshold, MONTH),
        duration_or_off("pool.hibernate_after", hibernate_after),
        duration_or_off("pool.background_max_age", background_max_age),
        duration("pool.background_timeout", background_timeout, MONTH),
        duration("pool.cleanup_interval", cleanup_interval, DAY),
        field("pool.connection_recovery", Slot::Flag(connection_recovery)),
        duration_or_off("pool.stuck_threshold", stuck_threshold),
        duration("pool.stream_first_chunk_timeout", stream_first_chunk_timeout, MONTH),
        duration("pool.stream_ongoing_timeout", stream_ongoing_timeout, MONTH),
        duration_or_off("pool.stream_stall_timeout", stream_stall_timeout),
        duration("pool.stream_interrupt_timeout", stream_interrupt_timeout, HOUR),
        duration("pool.connect_timeout", connect_timeout, HOUR),
        field("pool.max_queued_turns", Slot::Count(max_queued_turns, 1..=10_000)),
        field("pool.turn_buffer_bytes", Slot::Bytes(turn_buffer_bytes, KIB..=GIB)),
        field("pool.turn_spill_bytes", Slot::LargeBytes(turn_spill_bytes, 0..=TIB)),
        duration("pool.turn_retention", turn_retention, DAY),
        duration_or_off("pool.background_grace", background_grace),
        field("pool.memory_budget", Slot::LargeBytes(memory_budget, MIB..=TIB)),
        field("pool.spill_bytes", Slot::LargeBytes(spill_bytes, 0..=PIB)),
        field("pool.disk_reserve", Slot::LargeBytes(disk_reserve, 0..=TIB)),
        field("pool.spares", Slot::Count(spares, 0..=MOST_SPARES)),
        duration("pool.spare_max_age", spare_max_age, DAY),
        field("pool.start_concurrency", Slot::Count(start_concurrency, 1..=1024)),
    ]
}

fn cli_fields(cli: &mut CliConfig) -> impl IntoIterator<Item = Field<'_>> {
    let CliConfig {
        path,
        extra_args,
        env,
        env_files,
        env_passthrough,
        max_frame_bytes,
        sandbox,
        memory_limit,
        max_tasks,
        max_open_files,
        cgroups,
        cpu_weight,
        tmp_limit,
        sandbox_required,
        start_check,
    } = cli;
    [
        field("cli.path", Slot::Path(path)),
        field("cli.extra_args", Slot::Texts(extra_args, 64)),
        field("cli.env_files", Slot::Texts(env_files, 64)),
        field("cli.env_passthrough", Slot::Texts(env_passthrough, 256)),
        field("cli.max_frame_bytes", Slot::Bytes(max_frame_bytes, KIB..=GIB)),
        field("cli.sandbox", Slot::Sandbox(sandbox)),
        field("cli.sandbox_required", Slot::Flag(sandbox_required)),
        field("cli.start_check", Slot::Flag(start_check)),
        field("cli.memory_limit", Slot::LargeBytes(memory_limit, 0..=TIB)),
        field("cli.max_tasks", Slot::Count(max_tasks, 0..=1_000_000)),
        field("cli.max_open_files", Slot::Count(max_open_files, 0..=1_048_576)),
        field("cli.cgroups", Slot::Cgroups(cgroups)),
        field("cli.cpu_weight", Slot::Count(cpu_weight, 1..=10_000)),
        field("cli.tmp_limit", Slot::LargeBytes(tmp_limit, MIB..=TIB)),
        field(ENV_TABLE, Slot::Variables(env, 256)),
    ]
}
