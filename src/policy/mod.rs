//! What callers may ask for: the one place that says no. Closed by default. Knows options,
//! names, paths and JSON; nothing of requests, sessions or the configuration's form.
//!
//! What comes here is within its bounds, which `rpc` checks. Each question has one
//! method of [`Policy`] that answers it, with a [`Denial`] for everything that is not allowed:
//! `admit` and `judge_again` for options, `judge_text` for a text of a prompt, and
//! `judge_permission_updates` for an answer to the CLI.
//!
//! Whoever sets a working folder, an environment variable, an MCP server, settings or a
//! permission mode can run commands as the service's user, or comes near it. So each of
//! these is refused until the operator has opened it.
//!
//! - [`options`]: what a session's options may say, when they are asked for and later.
//! - [`prompts`]: which commands and files a prompt may name.
//! - [`folders`]: which folders of the machine a session may work in.
//! - [`variables`]: which environment variables a caller may set.
//! - [`rules`]: what the operator's permission rules may look like.
//! - [`json`]: what MCP servers, subagents and permission updates may say.

pub mod egress;
pub mod folders;
pub mod json;
pub mod options;
pub mod prompts;
pub mod rules;
pub mod variables;

pub use folders::Roots;
pub use prompts::Mentions;

/// What the server's policy allows. The default allows nothing beyond a prompt.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Permission modes that callers may choose.
    pub permission_modes: Vec<String>,
    /// Folders below which a session may work, and reach further folders.
    pub cwd_roots: Roots,
    /// MCP servers that callers may name.
    pub mcp_servers: McpServers,
    /// Whether callers may give settings of the CLI, hooks among them.
    pub settings: bool,
    /// Whether callers may define subagents.
    pub agents: bool,
    /// Whether callers may offer tools, and sessions use them.
    pub tool_servers: bool,
    /// Names of environment variables that callers may set; a trailing `*` stands for
    /// any ending.
    pub env: Vec<String>,
    /// Kinds of settings files that callers may have loaded.
    pub setting_sources: Vec<String>,
    /// Bytes of a prompt.
    pub max_prompt_bytes: usize,
    /// Whether a prompt may be a slash command of the CLI.
    pub slash_commands: bool,
    /// Which files a prompt may name with `@PATH`.
    pub file_mentions: Mentions,
}

/// Kinds of settings files that the CLI can load.
pub const SETTING_SOURCES: [&str; 3] = ["user", "project", "local"];

/// Which MCP servers callers may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum McpServers {
    /// None.
    #[default]
    None,
    /// Those reached over HTTP, which start no process here.
    Remote,
    /// Any, also those that the CLI starts: a command of the caller's choice.
    Any,
}

impl McpServers {
    /// All of them, in order of what they allow.
    pub const ALL: [Self; 3] = [Self::None, Self::Remote, Self::Any];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Remote => "remote",
            Self::Any => "any",
        }
    }
}

/// Something that was asked for and is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Where in the value, as a continuation of the field's name: empty or `.a.b`. Never
    /// holds a value.
    pub at: String,
    /// What is allowed, in words. Never holds a value that may be secret.
    pub allowed: String,
}

impl Denial {
    fn new(at: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { at: at.into(), allowed: allowed.into() }
    }
}

/// Bytes of a list in a message; an operator's list may be long.
const LONGEST_LIST: usize = 512;

/// Allowed names for a message; `none` without any.
pub fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { joined(names, ", ") }
}

/// As many names as a message has room for, and how many more there are.
pub fn joined(names: &[String], separator: &str) -> String {
    let mut text = String::new();
    for (told, name) in names.iter().enumerate() {
        if told > 0 && text.len() + separator.len() + name.len() > LONGEST_LIST {
            return format!("{text}{separator}and {} more", names.len() - told);
        }
        if told > 0 {
            text.push_str(separator);
        }
        text.push_str(name);
    }
    text
}
