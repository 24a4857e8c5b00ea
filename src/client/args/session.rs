//! What a session is to be: one argument for each of the contract's `SessionOptions`.

use std::sync::LazyLock;

use clap::{Args, builder::PossibleValuesParser};

use crate::{
    client::proto_json,
    proto::{Hook, SessionOptions},
};

/// The options that are no part of a session, which has nothing to reset of them.
const NOT_KEPT: [&str; 4] = ["include_partial_messages", "resume", "fork_session", "reset_options"];

/// The names of all others, as the contract has them.
static KEPT: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut names = proto_json::fields("SessionOptions");
    names.retain(|name| !NOT_KEPT.contains(&name.as_str()));
    names
});

/// Options of a session, as far as the service's policy allows them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Session options")]
pub struct OptionArgs {
    /// Model alias or name.
    #[arg(long)]
    pub model: Option<String>,
    /// Model to use when the first is overloaded.
    #[arg(long, value_name = "MODEL")]
    pub fallback_model: Option<String>,
    /// Replaces the CLI's system prompt.
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Is added to the CLI's system prompt.
    #[arg(long, value_name = "TEXT")]
    pub append_system_prompt: Option<String>,
    /// Permission mode: default, plan, acceptEdits, dontAsk, …
    #[arg(long, value_name = "MODE")]
    pub permission_mode: Option<String>,
    /// A tool that runs without asking, for example 'Bash(git:*)'. Can be given more than
    /// once, as all options for one of many.
    #[arg(long, value_name = "RULE", alias = "allowed-tool")]
    pub allow: Vec<String>,
    /// A tool that is refused.
    #[arg(long, value_name = "RULE", alias = "disallowed-tool")]
    pub disallow: Vec<String>,
    /// A built-in tool that exists; an empty one alone means that none does.
    #[arg(long, value_name = "TOOL")]
    pub tool: Vec<String>,
    /// Rounds with the model after which a turn ends.
    #[arg(long, value_name = "N")]
    pub max_turns: Option<u32>,
    /// Cost in US dollars at which the session's turns end.
    #[arg(long, value_name = "USD")]
    pub max_budget_usd: Option<f64>,
    /// Tokens for thinking; 0 asks for none.
    #[arg(long, value_name = "N")]
    pub max_thinking_tokens: Option<u32>,
    /// Effort: low, medium, high, xhigh or max.
    #[arg(long, value_name = "LEVEL")]
    pub effort: Option<String>,
    /// Working folder, on the service's machine.
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// A further folder that tools may reach.
    #[arg(long, value_name = "PATH")]
    pub add_dir: Vec<String>,
    /// MCP servers, as the JSON object that --mcp-config of the CLI takes.
    #[arg(long, value_name = "JSON")]
    pub mcp_servers: Option<String>,
    /// A tool server that somebody offers by ServeTools.
    #[arg(long, value_name = "NAME")]
    pub tool_server: Vec<String>,
    /// A hook, of whose calls those who follow a turn are asked: PreToolUse, PostToolUse, Stop, …
    #[arg(long, value_name = "EVENT[=MATCHER]", value_parser = hook)]
    pub hook: Vec<Hook>,
    /// Subagents by name, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub agents: Option<String>,
    /// JSON schema of the structured output.
    #[arg(long, value_name = "JSON")]
    pub json_schema: Option<String>,
    /// Settings of the CLI, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub settings: Option<String>,
    /// A settings file that the CLI loads: user, project or local.
    #[arg(long, value_name = "SOURCE")]
    pub setting_source: Vec<String>,
    /// An environment variable of the CLI.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// A beta header of the API.
    #[arg(long, value_name = "NAME")]
    pub beta: Vec<String>,
    /// A CLI session id to start from; only for a new session.
    #[arg(long, value_name = "UUID")]
    pub resume: Option<String>,
    /// Start a copy of the conversation to resume.
    #[arg(long, requires = "resume")]
    pub fork_session: bool,
    /// An option that goes back to its default, by its name in the contract.
    #[arg(long, value_name = "NAME", value_parser = kept())]
    pub reset: Vec<String>,
}

impl OptionArgs {
    /// The message; what is not said stays unset.
    pub fn into_message(self) -> SessionOptions {
        SessionOptions {
            model: self.model,
            fallback_model: self.fallback_model,
            system_prompt: self.system_prompt,
            append_system_prompt: self.append_system_prompt,
            permission_mode: self.permission_mode,
            allowed_tools: self.allow,
            disallowed_tools: self.disallow,
            tools: self.tool,
            max_turns: self.max_turns,
            max_budget_usd: self.max_budget_usd,
            max_thinking_tokens: self.max_thinking_tokens,
            effort: self.effort,
            cwd: self.cwd,
            add_dirs: self.add_dir,
            mcp_servers: self.mcp_servers,
            agents: self.agents,
            json_schema: self.json_schema,
            settings: self.settings,
            setting_sources: self.setting_source,
            include_partial_messages: None,
            env: self.env.into_iter().collect(),
            betas: self.beta,
            resume: self.resume,
            fork_session: self.fork_session.then_some(true),
            reset_options: self.reset,
            tool_servers: self.tool_server,
            hooks: self.hook,
        }
    }
}

fn kept() -> PossibleValuesParser {
    PossibleValuesParser::new(KEPT.iter().map(String::as_str))
}

/// How long calls wait is left to the service.
fn hook(text: &str) -> Result<Hook, String> {
    let (event, matcher) = text.split_once('=').unwrap_or((text, ""));
    match event {
        "" => Err("must have the form EVENT or EVENT=MATCHER".into()),
        _ => Ok(Hook { event: event.into(), matcher: matcher.into(), timeout: None }),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("must have the form NAME=VALUE".into()),
    }
}
