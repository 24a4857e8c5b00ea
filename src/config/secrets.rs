//! What is not shown to anybody: values that look like credentials by their name.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use super::CliConfig;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "<hidden>";

/// Whether what goes by this name should not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}

/// A value as it may be shown: hidden by its name, or because it is an address with a
/// password in it.
pub fn shown_value<'a>(name: &str, value: &'a str) -> &'a str {
    let password = value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
        .is_some_and(|authority| authority.contains('@'));
    if password || is_secret(name) { HIDDEN } else { value }
}

/// An argument as it may be shown. Settings and MCP servers hold credentials.
pub fn shown_argument(argument: &str) -> Cow<'_, str> {
    match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => {
            let delicate = ["--settings", "--mcp-config", "--agents"].contains(&flag);
            let shown = if delicate { HIDDEN } else { shown_value(flag, value) };
            if shown == value { argument.into() } else { format!("{flag}={shown}").into() }
        }
        _ => argument.into(),
    }
}

impl fmt::Debug for CliConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            extra_args,
            env,
            env_files,
            env_passthrough,
            max_frame_bytes,
            sandbox,
            memory_limit,
            max_tasks,
            tmp_limit,
            sandbox_required,
            start_check,
            visible_paths,
        } = self;
        let env: BTreeMap<_, _> =
            env.iter().map(|(name, value)| (name, shown_value(name, value))).collect();
        let extra_args: Vec<_> = extra_args.iter().map(|item| shown_argument(item)).collect();
        f.debug_struct("CliConfig")
            .field("path", path)
            .field("extra_args", &extra_args)
            .field("env", &env)
            .field("env_files", env_files)
            .field("env_passthrough", env_passthrough)
            .field("max_frame_bytes", max_frame_bytes)
            .field("sandbox", sandbox)
            .field("memory_limit", memory_limit)
            .field("max_tasks", max_tasks)
            .field("tmp_limit", tmp_limit)
            .field("sandbox_required", sandbox_required)
            .field("start_check", start_check)
            .field("visible_paths", visible_paths)
            .finish()
    }
}
