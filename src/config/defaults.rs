//! What every key is when nobody says otherwise.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    thread,
    time::Duration,
};

use super::{
    AuditConfig, ClusterConfig, EgressConfig, GatewayConfig, PolicyConfig, SandboxConfig,
    TracesConfig,
    choices::{CgroupMode, FileMentions, LogFormat, SandboxMode, StoreKind},
    memory,
    sections::{
        AuthConfig, CliConfig, Config, LimitsConfig, LogConfig, MetricsConfig, PoolConfig,
        ServerConfig, StoreConfig, TlsConfig,
    },
};
use crate::policy::McpServers;

const MIB: usize = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Self::defaults(|name| std::env::var(name).ok())
    }
}

impl Config {
    /// The defaults, in an environment given by look-up.
    pub(super) fn defaults(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            server: ServerConfig {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
                drain_timeout: Duration::from_secs(30),
                reflection: true,
                health_listen: None,
                metrics_listen: None,
                limits: LimitsConfig::default(),
            },
            pool: PoolConfig::default(),
            spare: Vec::new(),
            cli: cli(),
            sandbox: SandboxConfig::default(),
            policy: policy(),
            store: StoreConfig {
                kind: StoreKind::Sqlite,
                url: String::new(),
                url_file: None,
                max_connections: 10,
                acquire_timeout: Duration::from_secs(5),
                statement_timeout: Duration::from_secs(3),
                retention: Duration::from_secs(30 * 24 * 3600),
                turn_retention: Duration::from_secs(3600),
                commit_timeout: Duration::from_secs(45),
                allow_empty: false,
            },
            cluster: ClusterConfig {
                node: host_name(),
                heartbeat: Duration::from_secs(1),
                lease: Duration::from_secs(4),
                advertise: String::new(),
                listen: None,
                ca: None,
                cert: None,
                key: None,
                token_file: None,
            },
            auth: AuthConfig { insecure: false, tokens_file: None },
            tls: TlsConfig::default(),
            metrics: MetricsConfig::default(),
            audit: AuditConfig::default(),
            gateway: GatewayConfig::default(),
            traces: TracesConfig::default(),
            log: LogConfig { format: LogFormat::Pretty, level: "info".into() },
            state_dir: default_state_dir(variable),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            max_streams: 1024,
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(1800),
            max_header_bytes: 16 * 1024,
            max_health_calls: 256,
        }
    }
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            headers_file: None,
            ca: None,
            service_name: "session-pool".into(),
            sample_ratio: 1.0,
            export_interval: Duration::from_secs(1),
            export_timeout: Duration::from_secs(10),
            max_queued_spans: 2048,
            cli_telemetry: false,
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_sessions: 1000,
            max_processes: memory::processes_that_fit(),
            session_ttl: Duration::from_secs(3600),
            idle_threshold: Duration::from_secs(600),
            hibernate_after: Duration::from_secs(120),
            background_max_age: Duration::from_secs(3600),
            background_timeout: Duration::from_secs(600),
            cleanup_interval: Duration::from_secs(300),
            connection_recovery: true,
            stuck_threshold: Duration::from_secs(900),
            stream_first_chunk_timeout: Duration::from_secs(10),
            stream_ongoing_timeout: Duration::from_secs(60),
            stream_stall_timeout: Duration::from_secs(600),
            stream_interrupt_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(60),
            max_queued_turns: 16,
            turn_buffer_bytes: 4 * MIB,
            turn_spill_bytes: 1 << 30,
            turn_retention: Duration::from_secs(60),
            background_grace: Duration::from_secs(10),
            memory_budget: memory::budget_that_fits(),
            spill_bytes: 4 << 30,
            disk_reserve: 512 << 20,
            spares: 0,
            spare_max_age: Duration::from_secs(1800),
            start_concurrency: thread::available_parallelism().map_or(1, NonZero::get).min(1024),
        }
    }
}

/// Empty if the machine does not say it; `check` refuses that.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Empty if the environment does not say where; `check` refuses that.
fn default_state_dir(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    // A relative XDG_STATE_HOME is to be ignored, says its specification.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|base| base.join("session-pool"))
        .unwrap_or_default()
}

fn cli() -> CliConfig {
    CliConfig {
        path: "claude".into(),
        extra_args: Vec::new(),
        env: BTreeMap::new(),
        env_files: Vec::new(),
        env_passthrough: Vec::new(),
        max_frame_bytes: 16 * MIB,
        sandbox: SandboxMode::Auto,
        memory_limit: 0,
        max_tasks: 2048,
        max_open_files: 16_384,
        cgroups: CgroupMode::Auto,
        cpu_weight: 100,
        tmp_limit: 256 << 20,
        sandbox_required: false,
        start_check: true,
    }
}

fn policy() -> PolicyConfig {
    PolicyConfig {
        permission_modes: ["default", "plan", "acceptEdits", "dontAsk"].map(String::from).into(),
        cwd_roots: Vec::new(),
        mcp_servers: McpServers::None,
        settings: false,
        agents: false,
        tool_servers: false,
        tool_call_timeout: Duration::from_secs(5 * 60),
        env: Vec::new(),
        setting_sources: Vec::new(),
        rule: Vec::new(),
        max_prompt_bytes: 10 * MIB,
        slash_commands: true,
        file_mentions: FileMentions::Auto,
        prompt_timeout: Duration::from_secs(600),
        tenant_max_sessions: 0,
        tenant_max_processes: 0,
        tenant_max_queued_turns: 0,
        tenant_max_streams: 0,
        tenant_max_memory: 0,
        tenant_max_spill: 0,
        tenant_max_cost_usd_per_day: 0.0,
        tenant_max_tokens_per_minute: 0,
        egress: EgressConfig::Open,
        max_processes_per_session: 0,
        max_workspace_bytes: 16 << 30,
    }
}
