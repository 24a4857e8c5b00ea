//! The bounds of a session's options. Which of them a caller may have is for the policy to say.

use std::collections::BTreeSet;

use super::{
    check::{Check, MAX_TEXT, shown},
    surroundings, tools as tool_servers,
};
use crate::{
    cli::schema,
    domain::{ids::CliSessionId, options::Options},
    policy::SETTING_SOURCES,
    session::command::ResumeFrom,
};

const MAX_RULES: usize = 256;
const MAX_RULE: usize = 1024;
const MAX_BETAS: usize = 32;
const MAX_BETA: usize = 128;
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];
const MAX_SOURCES: usize = 8;

/// Holds each option to its bounds. One that is added and forgotten here does not compile.
pub(super) fn check_bounds(check: &mut Check, options: &Options) {
    let Options {
        model,
        fallback_model,
        system_prompt,
        append_system_prompt,
        // One of the policy's names.
        permission_mode: _,
        allowed_tools,
        disallowed_tools,
        tools,
        max_turns,
        max_budget_usd,
        max_thinking_tokens,
        effort,
        cwd,
        add_dirs,
        mcp_servers,
        agents,
        json_schema,
        settings,
        setting_sources,
        env,
        betas,
        // With their neighbours.
        tool_servers: _,
        // In the form that they came in.
        hooks: _,
        reset: _,
    } = options;
    check.optional_word("options.model", model.as_ref());
    check.optional_word("options.fallback_model", fallback_model.as_ref());
    for (field, text) in [
        ("options.system_prompt", system_prompt),
        ("options.append_system_prompt", append_system_prompt),
    ] {
        if let Some(text) = text {
            check.text(field, text, MAX_TEXT);
        }
    }
    surroundings::cwd(check, "options.cwd", cwd.as_deref());
    surroundings::add_dirs(check, "options.add_dirs", add_dirs);
    surroundings::mcp_servers(check, "options.mcp_servers", mcp_servers.as_ref());
    surroundings::agents(check, "options.agents", agents.as_deref());
    surroundings::settings(check, "options.settings", settings.as_ref());
    surroundings::env(check, "options.env", env);
    check.words("options.allowed_tools", allowed_tools, MAX_RULES, MAX_RULE, false);
    check.words("options.disallowed_tools", disallowed_tools, MAX_RULES, MAX_RULE, false);
    let no_tools = tools.len() == 1;
    check.words("options.tools", tools, MAX_RULES, MAX_RULE, no_tools);
    check.words("options.betas", betas, MAX_BETAS, MAX_BETA, false);
    check_sources(check, "options.setting_sources", setting_sources);
    tool_servers::servers(check, "options.tool_servers", options);
    if let Some(effort) = effort {
        check.one_of("options.effort", effort, &EFFORTS);
    }
    check_numbers(check, *max_turns, *max_budget_usd, *max_thinking_tokens);
    check_schema(check, "options.json_schema", json_schema.as_deref().unwrap_or_default());
}

/// The names of options that go back to their default: each once, and none that the request
/// sets.
pub(super) fn reset_of(
    check: &mut Check,
    names: &[String],
    set: &Options,
) -> BTreeSet<&'static str> {
    let field = "options.reset_options";
    let known: Vec<_> = Options::names().collect();
    if names.len() > known.len() {
        let most = known.len();
        check.bad(field, format!("must have at most {most} entries, has {}", names.len()));
    }
    let mut reset = BTreeSet::new();
    for (index, name) in names.iter().enumerate().take(known.len()) {
        let field = format!("{field}[{index}]");
        let Some(name) = Options::named(name) else {
            check.one_of(&field, name, &known);
            continue;
        };
        let kind = if set.says(name) {
            "that the request does not set"
        } else if !reset.insert(name) {
            "that is not named before"
        } else {
            continue;
        };
        check.bad(&field, format!("must be an option {kind}, is {}", shown(name)));
    }
    reset
}

/// An empty text takes the schema away.
fn check_schema(check: &mut Check, field: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    if let Some(schema) = check.json_map(field, text, MAX_TEXT)
        && let Some(problem) = schema::problem(&schema)
    {
        check.bad(field, format!("{problem} (the CLI would ignore the schema)"));
    }
}

fn check_sources(check: &mut Check, field: &str, sources: &[String]) {
    if sources.len() > MAX_SOURCES {
        check.bad(field, format!("must have at most {MAX_SOURCES} entries, has {}", sources.len()));
    }
    for (index, source) in sources.iter().enumerate().take(MAX_SOURCES) {
        check.one_of(&format!("{field}[{index}]"), source, &SETTING_SOURCES);
    }
}

fn check_numbers(
    check: &mut Check,
    max_turns: Option<u32>,
    max_budget_usd: Option<f64>,
    max_thinking_tokens: Option<u32>,
) {
    if let Some(turns) = max_turns.filter(|turns| !(1..=10_000).contains(turns)) {
        check.bad("options.max_turns", format!("must be 1 to 10000, is {turns}"));
    }
    if let Some(budget) = max_budget_usd.filter(|budget| !(budget.is_finite() && *budget > 0.0)) {
        check.bad("options.max_budget_usd", format!("must be over 0, is {budget}"));
    }
    if let Some(tokens) = max_thinking_tokens.filter(|tokens| *tokens > 1_000_000) {
        let problem = format!("must be 0 to 1000000, is {tokens}");
        check.bad("options.max_thinking_tokens", problem);
    }
}

/// The conversation to start from.
pub(super) fn resume_of(
    check: &mut Check,
    resume: Option<String>,
    fork_session: Option<bool>,
) -> Option<ResumeFrom> {
    let fork = fork_session.unwrap_or_default();
    let Some(text) = resume else {
        if fork {
            check.bad("options.fork_session", "needs resume");
        }
        return None;
    };
    let id = CliSessionId::parse(&text);
    if id.is_none() {
        // The CLI would also take a title or the path of a file.
        check.bad("options.resume", format!("must be a UUID, is {}", shown(&text)));
    }
    id.map(|id| ResumeFrom { id, fork })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto, rpc::decode::query::options_of};

    fn decoded(options: proto::SessionOptions) -> Result<Options, tonic::Status> {
        let mut check = Check::default();
        let (options, _) = options_of(&mut check, options);
        check.finish(options)
    }

    #[test]
    fn d6_an_empty_schema_takes_the_schema_away() {
        let schema = |text: &str| {
            let json_schema = Some(text.to_owned());
            decoded(proto::SessionOptions { json_schema, ..proto::SessionOptions::default() })
        };
        let (with, without) =
            (schema(r#"{"type":"object"}"#).expect("taken"), schema("").expect("taken"));
        assert_eq!(with.difference(&without).fixed, ["json_schema"]);
        assert_eq!(with.updated(&without), Options::default());
        assert_eq!(without.updated(&with), with);
    }

    #[test]
    fn d6_the_contract_knows_what_can_be_reset() {
        let names: Vec<_> = Options::names().map(str::to_owned).collect();
        let all =
            proto::SessionOptions { reset_options: names, ..proto::SessionOptions::default() };
        assert_eq!(decoded(all).expect("taken").reset, Options::names().collect());
    }
}
