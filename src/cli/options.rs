//! What a conversation can be asked to be, in the words of the official Agent SDKs,
//! and when the CLI can take each option on. Knows nothing of who may ask for what.

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use table::TABLE;

/// A value that shows itself to nobody by accident: it may hold credentials.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Options of a conversation. `None` and an empty list mean "not said". Each has a row in
/// `table`, which says by which name it goes and what can be done with any of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Model alias or full name.
    pub model: Option<String>,
    /// Model to use when the first is overloaded.
    pub fallback_model: Option<String>,
    /// Replaces the CLI's system prompt.
    pub system_prompt: Option<String>,
    /// Added to the CLI's system prompt.
    pub append_system_prompt: Option<String>,
    /// Permission mode, as the CLI calls it.
    pub permission_mode: Option<String>,
    /// Rules of tools that run without asking.
    pub allowed_tools: Vec<String>,
    /// Rules of tools that are refused.
    pub disallowed_tools: Vec<String>,
    /// The built-in tools that exist; one empty string means none.
    pub tools: Vec<String>,
    /// Rounds with the model after which a turn ends.
    pub max_turns: Option<u32>,
    /// Cost in US dollars at which turns end.
    pub max_budget_usd: Option<f64>,
    /// Tokens for thinking.
    pub max_thinking_tokens: Option<u32>,
    /// Effort level.
    pub effort: Option<String>,
    /// Working folder, as a real path. `None`: the session's own.
    pub cwd: Option<String>,
    /// Further folders that tools may reach, as real paths.
    pub add_dirs: Vec<String>,
    /// MCP servers, as the JSON object that `--mcp-config` takes.
    pub mcp_servers: Option<Hidden<String>>,
    /// Subagents by name, as a JSON object.
    pub agents: Option<String>,
    /// JSON schema of the structured output, as a JSON object.
    pub json_schema: Option<String>,
    /// Settings, as a JSON object.
    pub settings: Option<Hidden<String>>,
    /// Settings files to load: `user`, `project`, `local`.
    pub setting_sources: Vec<String>,
    /// Environment variables beside the operator's, by name.
    pub env: Hidden<BTreeMap<String, String>>,
    /// Beta headers.
    pub betas: Vec<String>,
    /// Names of options that go back to their default. Only ever wanted: what a session has
    /// resets nothing. Of a process it is wanted that it takes nothing of the kind over from
    /// its conversation.
    #[serde(skip)]
    pub reset: BTreeSet<&'static str>,
}

/// An option's name in the contract.
pub const MODEL: &str = "model";
/// An option's name in the contract.
pub const PERMISSION_MODE: &str = "permission_mode";

/// An option that a running process can take on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveChange {
    /// `set_model`.
    Model(String),
    /// `set_permission_mode`.
    PermissionMode(String),
    /// `set_max_thinking_tokens`.
    MaxThinkingTokens(u32),
    /// `apply_flag_settings` with an effort level.
    Effort(String),
}

impl LiveChange {
    /// Options that say this and nothing else.
    pub fn as_options(&self) -> Options {
        let mut options = Options::default();
        match self.clone() {
            Self::Model(model) => options.model = Some(model),
            Self::PermissionMode(mode) => options.permission_mode = Some(mode),
            Self::MaxThinkingTokens(tokens) => options.max_thinking_tokens = Some(tokens),
            Self::Effort(level) => options.effort = Some(level),
        }
        options
    }

    /// The option's name in the contract.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Model(_) => MODEL,
            Self::PermissionMode(_) => PERMISSION_MODE,
            Self::MaxThinkingTokens(_) => "max_thinking_tokens",
            Self::Effort(_) => "effort",
        }
    }
}

/// How wanted options differ from those in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a running process can take on.
    pub live: Vec<LiveChange>,
    /// Names of the options that only another process can have.
    pub fixed: Vec<&'static str>,
}

impl Options {
    /// The names of the MCP servers.
    pub fn mcp_server_names(&self) -> Vec<String> {
        let servers = self.mcp_servers.as_ref().map(|servers| servers.0.as_str());
        let servers: serde_json::Value =
            servers.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let named = servers["mcpServers"].as_object().into_iter().flatten();
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Whether this is to go back to its default.
    pub fn resets(&self, name: &str) -> bool {
        self.reset.contains(name)
    }

    /// What has to change for `wanted` to hold; what it does not say stays.
    pub fn difference(&self, wanted: &Self) -> Difference {
        let mut difference = Difference::default();
        for option in TABLE.iter().filter(|option| option.differs(self, wanted)) {
            match wanted.live(option.name()) {
                Some(change) => difference.live.push(change),
                None => difference.fixed.push(option.name()),
            }
        }
        difference
    }

    /// How a running process takes on what is wanted of this option. Most it cannot, and
    /// none can it lose: `set_model` without a model brings one that neither the settings
    /// nor `ANTHROPIC_MODEL` have a say in, and for the others there is no such request.
    fn live(&self, name: &str) -> Option<LiveChange> {
        match name {
            MODEL => self.model.clone().map(LiveChange::Model),
            PERMISSION_MODE => self.permission_mode.clone().map(LiveChange::PermissionMode),
            "max_thinking_tokens" => self.max_thinking_tokens.map(LiveChange::MaxThinkingTokens),
            "effort" => self.effort.clone().map(LiveChange::Effort),
            _ => None,
        }
    }

    /// The part of them that only the start of a process can give it.
    pub fn at_start(&self) -> Self {
        let bypass = |mode: &String| mode == "bypassPermissions";
        Self {
            fallback_model: self.fallback_model.clone(),
            permission_mode: self.permission_mode.clone().filter(bypass),
            allowed_tools: self.allowed_tools.clone(),
            disallowed_tools: self.disallowed_tools.clone(),
            tools: self.tools.clone(),
            max_turns: self.max_turns,
            max_budget_usd: self.max_budget_usd,
            cwd: self.cwd.clone(),
            add_dirs: self.add_dirs.clone(),
            settings: self.settings.clone(),
            setting_sources: self.setting_sources.clone(),
            betas: self.betas.clone(),
            ..Self::default()
        }
    }

    /// These options, with what `wanted` says in place of what was said before, and without
    /// what it resets.
    pub fn updated(&self, wanted: &Self) -> Self {
        let mut updated = self.clone();
        for option in TABLE {
            option.update(&mut updated, wanted);
        }
        updated.reset.clear();
        updated
    }

    /// The name that an option goes by in the contract, if there is one.
    pub fn named(name: &str) -> Option<&'static str> {
        Self::names().find(|known| *known == name)
    }

    /// The names of all options that a session keeps.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(table::Row::name)
    }

    /// Whether something is said of the option of this name, other than its reset.
    pub fn says(&self, name: &str) -> bool {
        TABLE.iter().any(|option| option.name() == name && option.is_said(self))
    }
}
