//! The configuration as the rest of the program sees it. `docs/configuration.md` is made from
//! the comments on its fields, each of which ends with the default and the bounds.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    AuditConfig, ClusterConfig, GatewayConfig, PolicyConfig, SandboxConfig, SpareConfig,
    TracesConfig,
    choices::{CgroupMode, LogFormat, SandboxMode, StoreKind},
};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The gRPC server.
    pub server: ServerConfig,
    /// Sessions, turns and processes.
    pub pool: PoolConfig,
    /// Tables, each a class of processes kept ready for new sessions with options that only
    /// a start can give: `count` of them, optionally for one `tenant`, with `allowed_tools`,
    /// `disallowed_tools`, `tools`, `fallback_model`, `max_turns`, `max_budget_usd`,
    /// `add_dirs`, `settings`, `setting_sources`, `betas` as in `SessionOptions`. Default none,
    /// at most 32 tables.
    pub spare: Vec<SpareConfig>,
    /// How the CLI is started.
    pub cli: CliConfig,
    /// What sessions see of the machine.
    pub sandbox: SandboxConfig,
    /// The way of CLIs to the API.
    pub gateway: GatewayConfig,
    /// What callers may ask for.
    pub policy: PolicyConfig,
    /// Where conversations are kept.
    pub store: StoreConfig,
    /// The services that share a store, and how they reach and recognise each other.
    pub cluster: ClusterConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// What is recorded of who did what.
    pub audit: AuditConfig,
    /// Connections over TLS.
    pub tls: TlsConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Figures for Prometheus.
    pub metrics: MetricsConfig,
    /// Traces for OpenTelemetry.
    pub traces: TracesConfig,
    /// Folder for work folders, CLI configuration, spilled turn logs and the database. A
    /// relative path counts from the working folder at the start. Default
    /// `$XDG_STATE_HOME/session-pool`, else `$HOME/.local/state/session-pool`.
    pub state_dir: PathBuf,
}

/// The gRPC server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// IP address and port of gRPC. Port 0 picks one, and the log event `listening` says
    /// which. Outside loopback only with `auth.tokens_file`, with `tls.client_ca`, or with
    /// `auth.insecure`. Default `127.0.0.1:50051`.
    pub listen: SocketAddr,
    /// How long running turns may go on after SIGTERM, before everything ends. Default 30 s, over 0, at
    /// most 1 day.
    pub drain_timeout: Duration,
    /// Whether the server describes its contract to tools such as grpcurl.
    /// Default true.
    pub reflection: bool,
    /// IP address and port where health checks, and nothing else, are answered in plain
    /// text. Default none.
    pub health_listen: Option<SocketAddr>,
    /// IP address and port of figures for Prometheus (`/metrics`) and of health checks over HTTP
    /// (`/livez`, `/readyz`), in plain text and for whoever asks. Default none.
    pub metrics_listen: Option<SocketAddr>,
    /// What connections are held to, with TLS and without.
    pub limits: LimitsConfig,
}

/// Figures for Prometheus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Whether tenants are told apart, by a label `tenant`: each makes series of its own.
    /// Default false.
    pub tenant_label: bool,
    /// Whether `server.metrics_listen` shows a status page (`/`) with the sessions of all tenants, to
    /// whoever reaches it. Default false.
    pub status_page: bool,
}

/// What connections are held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections at once. When all are taken, the oldest on which no call has been let
    /// in gives way. Default 1000, 1 to 100 000; never more than half of the file
    /// descriptors.
    pub max_connections: usize,
    /// Calls at once on one connection; clients are told. Default 1024, 1 to 100 000.
    pub max_streams: usize,
    /// From accepting a connection to the end of the TLS handshake and of what every
    /// HTTP/2 connection begins with (preface and SETTINGS). Default 10 s, over 0, at most
    /// 5 min.
    pub handshake_timeout: Duration,
    /// From the headers of a request to the end of its message. Default 1 min, over 0, at
    /// most 1 h.
    pub body_timeout: Duration,
    /// How long a connection may be without calls. It is closed with GOAWAY, and clients
    /// connect again with their next call. Default 30 min, 0 is for ever, at most
    /// 30 days.
    pub idle_timeout: Duration,
    /// Bytes of a request's metadata, as HTTP/2 counts them; clients are told. Default
    /// 16 KiB, 4 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Health checks at once, `Watch` included; the oldest gives way. Default 256, 1 to
    /// 100 000.
    pub max_health_calls: usize,
}

/// Sessions, turns and processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Whether new turns are taken at all. Default true.
    pub enabled: bool,
    /// Sessions in the pool; where nodes share a database, of all of them together, as each node
    /// saw the others' last ([cluster.md](cluster.md)). Default 1000, 1 to 1 000 000.
    pub max_sessions: usize,
    /// Live CLI processes. Default (memory of the cgroup or machine - 512 MiB) / 300 MiB,
    /// 1 to 100 000.
    pub max_processes: usize,
    /// Age at which a session is replaced; its conversation goes on. Default 1 h, over 0, at most 30 days.
    pub session_ttl: Duration,
    /// Idle time after which cleanup removes a session. Default 10 min, over 0,
    /// at most 30 days.
    pub idle_threshold: Duration,
    /// Idle time after which a session's process is let go; the next turn resumes it.
    /// Default 2 min, 0 is never, at most 30 days.
    pub hibernate_after: Duration,
    /// How long a subagent, a command in the background or a timer keeps its session's
    /// process; then it is ended. Default 1 h, 0 is for ever, at most 30 days.
    pub background_max_age: Duration,
    /// How long a Query with `on_background` WAIT waits for what its turn has begun in the
    /// background. Default 10 min, over 0, at most 30 days.
    pub background_timeout: Duration,
    /// Time between cleanups. Default 5 min, over 0, at most 1 day.
    pub cleanup_interval: Duration,
    /// Whether a process that was lost is replaced, and the conversation resumed,
    /// within a turn. Default true.
    pub connection_recovery: bool,
    /// Age of a turn at which cleanup interrupts it. Default 15 min, 0 is off, at
    /// most 30 days.
    pub stuck_threshold: Duration,
    /// Time from the prompt to the first frame of a turn. CLIs give up on MCP servers that
    /// are not up after four fifths of it, or 30 s, unless `cli.env` sets `MCP_TIMEOUT`.
    /// Default 10 s, over 0, less than `stream_ongoing_timeout`.
    pub stream_first_chunk_timeout: Duration,
    /// Silence after which a turn is reported as slow and another caller may take the
    /// session. Default 1 min, over 0, less
    /// than `session_ttl`.
    pub stream_ongoing_timeout: Duration,
    /// Silence after which a turn is ended, unless a tool runs or a prompt waits. Default 10 min, 0 is off, at most 30
    /// days.
    pub stream_stall_timeout: Duration,
    /// Time that an interrupt has before the process is ended. Default 10 s, over
    /// 0, at most 1 h.
    pub stream_interrupt_timeout: Duration,
    /// Time that the CLI has to start and answer. Default 1 min, over 0, at most
    /// 1 h.
    pub connect_timeout: Duration,
    /// Turns that may wait in one session. Default 16, 1 to 10 000.
    pub max_queued_turns: usize,
    /// Bytes of a turn's log kept in memory. Default 4 MiB, 1 KiB to 1 GiB.
    pub turn_buffer_bytes: usize,
    /// Bytes of a turn's log kept at all, the rest being on disk. Default 1 GiB, 0
    /// is no disk, else `turn_buffer_bytes` to 1 TiB.
    pub turn_spill_bytes: u64,
    /// How long a turn's log is kept after the turn. Default 1 min, over 0, at
    /// most 1 day.
    pub turn_retention: Duration,
    /// How long a tenant waits for a process while tenants that hold more have sessions
    /// with nothing but background work; then the one of those that was used least recently
    /// loses its process. Default 10 s, 0 is for ever, at most 30 days.
    pub background_grace: Duration,
    /// Bytes of memory for prompts, requests and turns' logs together. Default an eighth
    /// of the memory, from 32 to 96 MiB; at least twice `policy.max_prompt_bytes`, which
    /// raises the default, and 1 MiB to 1 TiB.
    pub memory_budget: u64,
    /// Bytes of all turns' logs on disk together. Default 4 GiB, at most 1 PiB; 0 is no
    /// disk.
    pub spill_bytes: u64,
    /// Bytes of disk that turns' logs leave free for the database, at most a quarter of
    /// the file system. Default 512 MiB, at most 1 TiB; 0 is none.
    pub disk_reserve: u64,
    /// Processes kept ready for new sessions without options that only a start can give.
    /// Default 0, at most 1000; with those of all `[[spare]]` at most `max_processes`.
    pub spares: usize,
    /// Age at which a spare is replaced. Default 30 min, over 0, at most 1 day.
    pub spare_max_age: Duration,
    /// CLI starts at the same time. One that takes longer than 5 s, or than 1 s while another
    /// tenant waits, does not count any more. Default the number of cores, 1 to 1024.
    pub start_concurrency: usize,
}

/// How the CLI is started.
#[derive(Clone, PartialEq, Eq)]
pub struct CliConfig {
    /// The executable: a name to look up on PATH, or a path. Default `claude`.
    pub path: PathBuf,
    /// Further arguments, in the form `--flag` or `--flag=value`. Default none, at
    /// most 64, none of those that the service sets itself.
    pub extra_args: Vec<String>,
    /// Environment of every CLI process, by name. The environment is built from this, the
    /// other two keys and an allow list; it is never inherited. Default none, at most 256
    /// variables.
    pub env: BTreeMap<String, String>,
    /// Variables of every CLI process whose values are in files, as `NAME=/path`: read again
    /// for each process, so that a key can be rotated, and hidden from sessions. Default none, at most 64.
    pub env_files: Vec<String>,
    /// Variables passed on from the service's own environment, by name. Default none, at
    /// most 256.
    pub env_passthrough: Vec<String>,
    /// Bytes in one line of the CLI's output. Default 16 MiB, 1 KiB to 1 GiB.
    pub max_frame_bytes: usize,
    /// What each CLI is enclosed in: `bubblewrap`, `process-tree`, or `auto`, the first of
    /// the two that works here. Default `auto`.
    pub sandbox: SandboxMode,
    /// Resident bytes of one session's processes (shared pages counted for each) and of its
    /// files in memory at which its turn is ended and its process replaced. Default 0, which is no limit;
    /// at most 1 TiB.
    pub memory_limit: u64,
    /// Processes and threads of one session at which its turn is ended and its process
    /// replaced; a CLI itself has about 30, a large build hundreds. In `bubblewrap` the kernel
    /// refuses more than a quarter above as well, if it is Linux 5.14 or newer and the service
    /// is not user 0. Default 2048, 64 to 1 000 000; 0 is no limit.
    pub max_tasks: usize,
    /// Files, sockets and the like that one process of a session may have open. Default 16384, 256
    /// to 1 048 576; 0 is what the service may have itself.
    pub max_open_files: usize,
    /// Whether each session has a control group (version 2), in which the kernel holds it to
    /// `memory_limit`, to a quarter more than `max_tasks`, and to `cpu_weight`, and ends it as a whole: `auto` (where the
    /// service was given a group to divide, such as by `Delegate=yes` of systemd), `off`, or
    /// `required`, with which the start fails otherwise. Default `auto`.
    pub cgroups: CgroupMode,
    /// Weight of each session for processor time that is scarce, where it has a control group; the service has
    /// 10 000. Default 100, 1 to 10 000.
    pub cpu_weight: usize,
    /// Bytes of each file system in memory that a session has in bubblewrap: `/tmp`,
    /// `/var/tmp`, `/run`, `/dev/shm` and its `CLAUDE_CONFIG_DIR`. Default 256 MiB, 1 MiB to 1 TiB.
    pub tmp_limit: u64,
    /// Whether the start fails where no sandbox works that keeps sessions apart. Default
    /// false.
    pub sandbox_required: bool,
    /// Whether a CLI has to start and answer in its sandbox before the service is ready;
    /// otherwise it only has to say its version. Default true.
    pub start_check: bool,
}

/// Where conversations are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where conversations are kept: `sqlite`, `postgres` ([operations.md](operations.md)), or
    /// `memory`, which ends with the service. Default `sqlite`.
    pub kind: StoreKind,
    /// The database, as `sqlite:PATH` or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, the
    /// latter with libpq's parameters `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`,
    /// `application_name` and `options`; shown without its password. Default empty, which is the
    /// file `session-pool.db` in the state folder.
    pub url: String,
    /// A file whose text is `store.url`, read at the start: with `postgres` exactly one of the
    /// two is needed. Default none.
    pub url_file: Option<PathBuf>,
    /// Connections to PostgreSQL, that of the heartbeat included; a quarter of the others reads.
    /// Default 10, 2 to 1000.
    pub max_connections: usize,
    /// How long one of them is waited for. Default 5 s, over 0, at most 1 minute.
    pub acquire_timeout: Duration,
    /// How long PostgreSQL may take for one statement, and waits for the next one within a
    /// transaction. Default 3 s, over 0, less than `cluster.lease`.
    pub statement_timeout: Duration,
    /// How long a conversation is kept after its last turn. Only time counts in which the
    /// service ran, whatever is made of the clock on the wall. Default 30 days, over 0, at
    /// most 3650 days.
    pub retention: Duration,
    /// How long the name of an ended turn (`turn_id`) is kept with its result, so that it
    /// is not run again; of each session at most 256 turns, and 4 MiB of results. Default 1 h, over 0, at most 30 days.
    pub turn_retention: Duration,
    /// How long what is to be kept waits for another process that has the database, or for a
    /// server that is gone: longer than a backup or a failover takes.
    /// Default 45 s, over 0, at most 10 minutes.
    pub commit_timeout: Duration,
    /// Whether to start without a database where sessions have left their folders. That is
    /// refused otherwise, because the database was lost. Default false.
    pub allow_empty: bool,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Lets the server listen outside loopback, asking nobody. Default false.
    pub insecure: bool,
    /// The file of tokens that are let in (TOML, read again when it changes). Default
    /// none.
    pub tokens_file: Option<PathBuf>,
}

/// TLS. The files are PEM, and read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate chain. Default none, which is plain text.
    pub cert: Option<PathBuf>,
    /// The private key of `tls.cert`. Default none.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates. With it a caller shows a certificate, unless there
    /// is a tokens file and it sends a token. Default none.
    pub client_ca: Option<PathBuf>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Form of a log line: `pretty`, or `json` for machines. Default `pretty`.
    pub format: LogFormat,
    /// What is logged: a level, for the service's own events, or an `EnvFilter` such as
    /// `debug,h2=info`, which names libraries to be heard too
    /// ([log-events.md](log-events.md)). Default `info`.
    pub level: String,
}
