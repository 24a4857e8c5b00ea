//! The options that a process is born with, as flags.
//!
//! A process that takes up a conversation begins with the model that it had (2.1.197 and
//! 2.1.332), and in plan mode where it was in that (2.1.332), if no flag says another.
//! Where they were reset a flag says what a process without options begins with. The mode is
//! never left open: 2.1.300 begins in `auto`, in which a model judges what may run, and no
//! policy has allowed that.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ConversationOrigin;
use crate::{
    cli::versions::Version,
    domain::options::{MODEL, Options, PERMISSION_MODE},
};

/// The flags of the options that a process is born with. System prompts, JSON schema
/// and agents are not among them: they go into `initialize`.
pub(super) fn option_args(
    origin: ConversationOrigin,
    options: &Options,
    env: &BTreeMap<String, String>,
) -> Vec<String> {
    // An option that is added and forgotten here does not compile.
    let Options {
        model,
        fallback_model,
        permission_mode,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        add_dirs,
        mcp_servers,
        settings,
        setting_sources,
        betas,
        // In `initialize`.
        system_prompt: _,
        append_system_prompt: _,
        agents: _,
        json_schema: _,
        tool_servers: _,
        hooks: _,
        // Of the process, not of the command line.
        cwd: _,
        env: _,
        // Looked up by name.
        reset: _,
    } = options;
    let begins = matches!(origin, ConversationOrigin::New(_));
    let own_model = || own_model(options, env).filter(|_| !begins);
    let own_mode = || own_mode(options);
    let mut args = Vec::new();
    let mut flag = |name: &str, value: Option<String>| {
        args.extend(value.map(|value| format!("--{name}={value}")));
    };
    flag("model", model.clone().or_else(own_model));
    flag("fallback-model", fallback_model.clone());
    flag("permission-mode", permission_mode.clone().or_else(own_mode));
    flag("max-turns", max_turns.map(|turns| turns.to_string()));
    flag("max-budget-usd", max_budget_usd.map(|budget| budget.to_string()));
    flag("max-thinking-tokens", max_thinking_tokens.map(|tokens| tokens.to_string()));
    flag("effort", effort.clone());
    flag("setting-sources", Some(setting_sources.join(",")));
    flag("mcp-config", mcp_servers.as_ref().map(|servers| servers.0.clone()));
    flag("settings", settings.as_ref().map(|settings| settings.0.clone()));
    for (name, values) in [
        ("add-dir", add_dirs),
        ("allowedTools", allowed_tools),
        ("disallowedTools", disallowed_tools),
        ("tools", tools),
        ("betas", betas),
    ] {
        for value in values {
            flag(name, Some(value.clone()));
        }
    }
    args
}

/// The tools that start subagents, by the names that versions have for them.
const SUBAGENT_TOOLS: [&str; 2] = ["Agent", "Task"];

/// Flags that withhold subagents from a session with a budget, where the CLI neither holds them
/// to it nor says in time what they have spent: they could spend many times the budget within
/// one turn. Nothing is withheld as long as the version is not known.
pub(super) fn withheld_tools(options: &Options, version: Option<Version>) -> Vec<String> {
    let unbounded = version.is_some_and(|version| !version.tells_cost());
    let withheld = SUBAGENT_TOOLS.iter().filter(|_| unbounded && options.max_budget_usd.is_some());
    withheld.map(|tool| format!("--disallowedTools={tool}")).collect()
}

/// The model of a process that was asked for none, where the conversation must not say it.
fn own_model(options: &Options, env: &BTreeMap<String, String>) -> Option<String> {
    // The variable goes before what the conversation had; settings do not.
    let said = env.get("ANTHROPIC_MODEL").is_some_and(|model| !model.is_empty());
    // The CLI does not start with a model that is its own fallback.
    let setting =
        || setting(options, "/model").filter(|m| Some(m) != options.fallback_model.as_ref());
    let own = || setting().unwrap_or_else(|| "default".to_owned());
    (options.resets(MODEL) && !said).then(own)
}

/// The permission mode of a process that was asked for none. One of the settings is the CLI's to
/// judge, and files of settings may name one.
fn own_mode(options: &Options) -> Option<String> {
    let said = setting(options, "/permissions/defaultMode").is_some();
    let own = options.resets(PERMISSION_MODE) || options.setting_sources.is_empty();
    (own && !said).then(|| "default".to_owned())
}

/// A text in the settings that the options hold, if it can be a flag's value.
fn setting(options: &Options, pointer: &str) -> Option<String> {
    let settings: Value = serde_json::from_str(&options.settings.as_ref()?.0).ok()?;
    let text = settings.pointer(pointer).and_then(Value::as_str)?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ids::CliSessionId, redacted::Redacted};

    #[test]
    fn d6_a_reset_model_or_mode_is_not_left_to_the_conversation() {
        let flags = |settings: Option<&str>, model: Option<&str>, variable: &str| {
            let options = Options {
                model: model.map(str::to_owned),
                settings: settings.map(|text| Redacted(text.to_owned())),
                reset: [MODEL, PERMISSION_MODE].into(),
                ..Options::default()
            };
            let env = [("ANTHROPIC_MODEL".to_owned(), variable.to_owned())].into();
            let begins =
                option_args(ConversationOrigin::New(CliSessionId::fresh()), &options, &env);
            assert!(!begins.contains(&"--model=default".to_owned()), "{begins:?}");
            let origin = ConversationOrigin::Resume(CliSessionId::fresh());
            let mut args = option_args(origin, &options, &env);
            args.retain(|arg| arg.starts_with("--model=") || arg.starts_with("--permission-mode="));
            args
        };
        let mode = "--permission-mode=default";
        assert_eq!(flags(None, None, ""), ["--model=default", mode]);
        assert_eq!(flags(None, Some("m"), ""), ["--model=m", mode]);
        assert_eq!(flags(None, None, "m"), [mode]);
        assert_eq!(flags(Some(r#"{"model":"m"}"#), None, ""), ["--model=m", mode]);
        assert_eq!(flags(Some(r#"{"model":"\u0000"}"#), None, ""), ["--model=default", mode]);
        let settings = r#"{"permissions":{"defaultMode":"plan"}}"#;
        assert_eq!(flags(Some(settings), None, ""), ["--model=default"]);
        let origin = ConversationOrigin::Resume(CliSessionId::fresh());
        let nothing = option_args(origin, &Options::default(), &BTreeMap::new());
        assert_eq!(nothing, [mode, "--setting-sources="]);
    }

    #[test]
    fn e2_subagents_are_withheld_where_they_could_spend_past_a_budget() {
        let budget = Options { max_budget_usd: Some(1.0), ..Options::default() };
        let withheld = ["--disallowedTools=Agent", "--disallowedTools=Task"];
        for (version, is_withheld) in
            [("2.1.110", true), ("2.1.150", true), ("2.1.197", false), ("2.1.332", false)]
        {
            let version = Version::find(version);
            let wanted = if is_withheld { &withheld[..] } else { &[] };
            assert_eq!(withheld_tools(&budget, version), wanted, "{version:?}");
            assert!(withheld_tools(&Options::default(), version).is_empty());
        }
        assert!(withheld_tools(&budget, None).is_empty());
    }

    #[test]
    fn a_process_begins_in_the_mode_that_asks_unless_another_was_chosen() {
        let mode = |options: &Options| {
            let id = CliSessionId::fresh();
            let args =
                [ConversationOrigin::New(id), ConversationOrigin::Resume(id)].map(|origin| {
                    let args = option_args(origin, options, &BTreeMap::new());
                    args.into_iter().find(|arg| arg.starts_with("--permission-mode="))
                });
            assert_eq!(args[0], args[1]);
            args[0].clone()
        };
        let asks = Some("--permission-mode=default".to_owned());
        assert_eq!(mode(&Options::default()), asks);
        let plan = Options { permission_mode: Some("plan".into()), ..Options::default() };
        assert_eq!(mode(&plan).as_deref(), Some("--permission-mode=plan"));
        let settings = |text: &str| Some(Redacted(text.to_owned()));
        let by_settings = r#"{"permissions":{"defaultMode":"plan"}}"#;
        let chosen = Options { settings: settings(by_settings), ..Options::default() };
        assert_eq!(mode(&chosen), None);
        let other = Options { settings: settings(r#"{"model":"m"}"#), ..Options::default() };
        assert_eq!(mode(&other), asks);
        let files = Options { setting_sources: vec!["project".into()], ..Options::default() };
        assert_eq!(mode(&files), None, "they may name one");
    }
}
