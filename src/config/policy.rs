//! What callers may ask for, as the configuration says it.

use std::time::Duration;

use super::{EgressConfig, FileMentions, McpServers, RuleConfig};

/// What callers may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyConfig {
    /// Permission modes that callers may set. Default `default`, `plan`,
    /// `acceptEdits`, `dontAsk`; never `bypassPermissions`.
    pub permission_modes: Vec<String>,
    /// Folders below which callers may have sessions work (`cwd`) and reach further
    /// folders (`add_dirs`). They have to exist, and must neither hold the state folder
    /// nor be in it. Default none: each session has a folder of its own. At most 64.
    pub cwd_roots: Vec<String>,
    /// MCP servers that callers may name: `none`, `remote` (over HTTP) or `any`, which
    /// lets callers run commands. Default `none`.
    pub mcp_servers: McpServers,
    /// Whether callers may give settings, which can hold hooks: lets callers run
    /// commands. Default false.
    pub settings: bool,
    /// Whether callers may define subagents. Default false.
    pub agents: bool,
    /// Whether callers may offer tools to the sessions of their tenant, and sessions use them
    /// ([tools.md](tools.md)). Default false.
    pub tool_servers: bool,
    /// How long a call of such a tool may take; one of any other MCP tool may take 10 s longer,
    /// unless `cli.env` sets `MCP_TOOL_TIMEOUT`. Default 5 min, over 0, at most 1 day.
    pub tool_call_timeout: Duration,
    /// Environment variables that callers may set: names, or beginnings with a trailing
    /// `*`. Never those that the service relies on or that change what is executed.
    /// Default none, at most 256.
    pub env: Vec<String>,
    /// Settings files that callers may have loaded: `user`, `project`, `local`. Those of
    /// a working folder can hold hooks, and an agent can write them. Default none.
    pub setting_sources: Vec<String>,
    /// A permission rule that callers cannot loosen, as a table: `decision` is `allow`, `deny` or
    /// `ask`, `rule` is one of the CLI's, such as `Bash(git:*)`, and `tenant` says whose sessions
    /// it is for (left out: all). A refusal goes before all else, a question before what is
    /// allowed ([access.md](access.md)). Default none, at most 500 rules of 1000 characters, and
    /// 32 KiB in all.
    pub rule: Vec<RuleConfig>,
    /// Where sessions may connect to: `open` (wherever the machine can), `gateway` (the API
    /// gateway only), or a list of hosts, such as `["pypi.org", "*.example.com:443", "10.1.2.0/24"]`
    /// ([gateway.md](gateway.md)). In bubblewrap each session has a network of its own then; in
    /// process-tree only programs heed it that go by `HTTPS_PROXY`. Default `open`; at most 1000
    /// hosts.
    pub egress: EgressConfig,
    /// Bytes in one prompt. Default 10 MiB, 1 B to 1 GiB.
    pub max_prompt_bytes: usize,
    /// Whether a prompt may be a slash command of the CLI. Default true.
    pub slash_commands: bool,
    /// Whether a prompt may name files with `@PATH`, which the CLI reads into the prompt
    /// without a permission: `on` (whatever the sandbox shows), `below` (relative paths that
    /// do not go up), `off`, or `auto`, which is `below` where a prompt may be a slash command
    /// and else `off`. Default `auto`.
    pub file_mentions: FileMentions,
    /// How long a prompt of the CLI waits for an answer; then it is refused, and the turn goes
    /// on. Default 10 minutes, at most 30 days; 0 is for ever.
    pub prompt_timeout: Duration,
    /// Sessions of one tenant, at all nodes together. Default three quarters of `pool.max_sessions` with
    /// `auth.tokens_file` or `tls.client_ca`, else 0, which is no limit of its own; at most
    /// 1 000 000.
    pub tenant_max_sessions: usize,
    /// Live processes of one tenant at a node; more are waited for. Default likewise three quarters of
    /// `pool.max_processes` or 0; at most 100 000.
    pub tenant_max_processes: usize,
    /// Turns that wait, in all sessions of one tenant at a node. Default likewise 256 or 0; at most
    /// 1 000 000.
    pub tenant_max_queued_turns: usize,
    /// Open streams of one tenant at a node, of all rpcs that stream. Default likewise 1000 or 0; at
    /// most 1 000 000.
    pub tenant_max_streams: usize,
    /// Bytes of `pool.memory_budget` that one tenant may hold. Default likewise three quarters
    /// of it or 0; at most 1 TiB.
    pub tenant_max_memory: u64,
    /// Bytes of `pool.spill_bytes` that one tenant may hold. Default likewise three quarters of
    /// it or 0; at most 1 PiB.
    pub tenant_max_spill: u64,
    /// US dollars that one tenant may spend in a day (UTC) at all nodes together, as the gateway
    /// counts them, or without it the CLI estimates them; past it no turn begins, also after a restart ([costs.md](costs.md)).
    /// Default 0, which is no limit; at most 1 000 000 000.
    pub tenant_max_cost_usd_per_day: f64,
    /// Tokens that one tenant may use in a minute at a node, those that come from the prompt cache
    /// not counted; past it the API gateway refuses requests for as long as the CLI then waits.
    /// Needs `gateway.enabled`. Default 0, which is no limit; at most 1 000 000 000 000.
    pub tenant_max_tokens_per_minute: usize,
    /// Processes of one session at which its turn is ended and its process replaced, threads not
    /// counted (`cli.max_tasks` counts them). Default 0, which is no bound of its own; 16 to 1 000 000.
    pub max_processes_per_session: usize,
    /// Bytes of one session's files on disk: in its working folder, unless its caller chose that, its
    /// `HOME` and, in process-tree, its temporary directory; each name counts 1 KiB, and a file
    /// that was removed as long as it is open. Past it its turn is ended and its process
    /// replaced; a single file can have no more. Measured when the disk holds an eighth
    /// of it more than before. Default 16 GiB, 1 MiB to 1 PiB; 0 is no bound.
    pub max_workspace_bytes: u64,
}
