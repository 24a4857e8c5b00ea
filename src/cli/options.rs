//! What a conversation can be asked to be, in the words of the official Agent SDKs,
//! and when the CLI can take each option on. Knows nothing of who may ask for what.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A value that shows itself to nobody by accident: it may hold credentials.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Options of a conversation. `None` and an empty list mean "not said".
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
    /// JSON schema of the structured output, as a JSON object; empty takes it away.
    pub json_schema: Option<String>,
    /// Settings, as a JSON object.
    pub settings: Option<Hidden<String>>,
    /// Settings files to load: `user`, `project`, `local`.
    pub setting_sources: Vec<String>,
    /// Environment variables beside the operator's, by name.
    pub env: Hidden<BTreeMap<String, String>>,
    /// Beta headers.
    pub betas: Vec<String>,
}

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
            Self::Model(_) => "model",
            Self::PermissionMode(_) => "permission_mode",
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

    /// What has to change for `wanted` to hold; what it does not say stays.
    pub fn difference(&self, wanted: &Self) -> Difference {
        let mut difference = Difference::default();
        let live = &mut difference.live;
        live.extend(changed(&self.model, &wanted.model).map(LiveChange::Model));
        live.extend(
            changed(&self.permission_mode, &wanted.permission_mode).map(LiveChange::PermissionMode),
        );
        live.extend(
            changed(&self.max_thinking_tokens, &wanted.max_thinking_tokens)
                .map(LiveChange::MaxThinkingTokens),
        );
        live.extend(changed(&self.effort, &wanted.effort).map(LiveChange::Effort));
        let fixed = [
            ("fallback_model", changed(&self.fallback_model, &wanted.fallback_model).is_some()),
            ("system_prompt", changed(&self.system_prompt, &wanted.system_prompt).is_some()),
            (
                "append_system_prompt",
                changed(&self.append_system_prompt, &wanted.append_system_prompt).is_some(),
            ),
            ("allowed_tools", list_changed(&self.allowed_tools, &wanted.allowed_tools)),
            ("disallowed_tools", list_changed(&self.disallowed_tools, &wanted.disallowed_tools)),
            ("tools", list_changed(&self.tools, &wanted.tools)),
            ("max_turns", changed(&self.max_turns, &wanted.max_turns).is_some()),
            ("max_budget_usd", changed(&self.max_budget_usd, &wanted.max_budget_usd).is_some()),
            ("cwd", changed(&self.cwd, &wanted.cwd).is_some()),
            ("add_dirs", list_changed(&self.add_dirs, &wanted.add_dirs)),
            ("mcp_servers", changed(&self.mcp_servers, &wanted.mcp_servers).is_some()),
            ("agents", changed(&self.agents, &wanted.agents).is_some()),
            ("json_schema", self.schema_changed(wanted)),
            ("settings", changed(&self.settings, &wanted.settings).is_some()),
            ("setting_sources", list_changed(&self.setting_sources, &wanted.setting_sources)),
            ("env", !wanted.env.0.is_empty() && self.env != wanted.env),
            ("betas", list_changed(&self.betas, &wanted.betas)),
        ];
        difference.fixed =
            fixed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
        difference
    }

    /// An empty schema is none.
    fn schema_changed(&self, wanted: &Self) -> bool {
        let current = self.json_schema.as_deref().unwrap_or_default();
        wanted.json_schema.as_deref().is_some_and(|wanted| wanted != current)
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

    /// These options, with what `wanted` says in place of what was said before.
    pub fn updated(&self, wanted: &Self) -> Self {
        fn value<T: Clone>(old: &Option<T>, new: &Option<T>) -> Option<T> {
            new.clone().or_else(|| old.clone())
        }
        fn list(old: &[String], new: &[String]) -> Vec<String> {
            if new.is_empty() { old.to_vec() } else { new.to_vec() }
        }
        Self {
            model: value(&self.model, &wanted.model),
            fallback_model: value(&self.fallback_model, &wanted.fallback_model),
            system_prompt: value(&self.system_prompt, &wanted.system_prompt),
            append_system_prompt: value(&self.append_system_prompt, &wanted.append_system_prompt),
            permission_mode: value(&self.permission_mode, &wanted.permission_mode),
            allowed_tools: list(&self.allowed_tools, &wanted.allowed_tools),
            disallowed_tools: list(&self.disallowed_tools, &wanted.disallowed_tools),
            tools: list(&self.tools, &wanted.tools),
            max_turns: value(&self.max_turns, &wanted.max_turns),
            max_budget_usd: value(&self.max_budget_usd, &wanted.max_budget_usd),
            max_thinking_tokens: value(&self.max_thinking_tokens, &wanted.max_thinking_tokens),
            effort: value(&self.effort, &wanted.effort),
            cwd: value(&self.cwd, &wanted.cwd),
            add_dirs: list(&self.add_dirs, &wanted.add_dirs),
            mcp_servers: value(&self.mcp_servers, &wanted.mcp_servers),
            agents: value(&self.agents, &wanted.agents),
            json_schema: value(&self.json_schema, &wanted.json_schema)
                .filter(|schema| !schema.is_empty()),
            settings: value(&self.settings, &wanted.settings),
            setting_sources: list(&self.setting_sources, &wanted.setting_sources),
            env: if wanted.env.0.is_empty() { self.env.clone() } else { wanted.env.clone() },
            betas: list(&self.betas, &wanted.betas),
        }
    }
}

/// The wanted value, if one is wanted and it is another.
fn changed<T: Clone + PartialEq>(current: &Option<T>, wanted: &Option<T>) -> Option<T> {
    wanted.clone().filter(|wanted| current.as_ref() != Some(wanted))
}

fn list_changed(current: &[String], wanted: &[String]) -> bool {
    !wanted.is_empty() && current != wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_said_stay_as_they_are() {
        let current = Options {
            model: Some("sonnet".into()),
            tools: vec!["Bash".into()],
            ..Options::default()
        };
        assert_eq!(current.difference(&Options::default()), Difference::default());
        assert_eq!(current.updated(&Options::default()), current);
    }

    #[test]
    fn d6_an_empty_schema_takes_the_schema_away() {
        let schema = |text: &str| Options { json_schema: Some(text.into()), ..Options::default() };
        let with = schema("{}");
        assert_eq!(with.difference(&schema("")).fixed, ["json_schema"]);
        assert_eq!(with.updated(&schema("")), Options::default());
        assert_eq!(Options::default().difference(&schema("")), Difference::default());
        assert_eq!(Options::default().updated(&schema("")), Options::default());
        assert_eq!(with.updated(&Options::default()), with);
    }

    #[test]
    fn a_running_process_takes_on_model_mode_thinking_and_effort_only() {
        let wanted = Options {
            model: Some("opus".into()),
            permission_mode: Some("plan".into()),
            max_thinking_tokens: Some(0),
            effort: Some("low".into()),
            system_prompt: Some("Be brief.".into()),
            allowed_tools: vec!["Bash".into()],
            ..Options::default()
        };
        let difference = Options::default().difference(&wanted);
        let live: Vec<_> = difference.live.iter().map(LiveChange::option).collect();
        assert_eq!(live, ["model", "permission_mode", "max_thinking_tokens", "effort"]);
        assert_eq!(difference.fixed, ["system_prompt", "allowed_tools"]);
        assert_eq!(Options::default().updated(&wanted), wanted);
        assert_eq!(wanted.difference(&wanted), Difference::default());
    }

    #[test]
    fn what_is_fixed_at_the_start_of_a_process_differs_by_name_and_never_by_value() {
        let env = |value: &str| Hidden([("A".to_owned(), value.to_owned())].into());
        let hidden = |text: &str| Some(Hidden(text.to_owned()));
        let wanted = Options {
            cwd: Some("/w".into()),
            add_dirs: vec!["/d".into()],
            mcp_servers: hidden("{\"secret\":1}"),
            agents: Some("{}".into()),
            settings: hidden("{\"secret\":2}"),
            env: env("secret"),
            ..Options::default()
        };
        let names = ["cwd", "add_dirs", "mcp_servers", "agents", "settings", "env"];
        assert_eq!(Options::default().difference(&wanted).fixed, names);
        assert_eq!(Options::default().updated(&wanted), wanted);
        assert_eq!(wanted.updated(&Options::default()), wanted);
        assert_eq!(wanted.difference(&Options::default()), Difference::default());
        let other = Options { env: env("other"), ..Options::default() };
        assert_eq!(wanted.difference(&other).fixed, ["env"]);
        assert!(!format!("{wanted:?}").contains("secret"), "{wanted:?}");
    }
}
