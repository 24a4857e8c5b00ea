//! Bounds of the options that reach out of a session: folders, servers, settings, variables.
//! Which of them a caller may have is for the policy to say.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::check::{Check, MAX_TEXT, shown};
use crate::{
    domain::redacted::Redacted,
    policy::{folders::is_plain, variables},
};

/// Bytes of a path.
const MAX_PATH: usize = 4096;
const MAX_ADD_DIRS: usize = 32;
/// Bytes of JSON that becomes an argument of a command line; the kernel takes 128 KiB.
const MAX_ARGUMENT: usize = 64 * 1024;
const MAX_SERVERS: usize = 64;
const MAX_SERVER_NAME: usize = 64;
const MAX_AGENTS: usize = 64;
const MAX_VARIABLES: usize = 64;
const MAX_VARIABLE_NAME: usize = 128;
const MAX_VARIABLE: usize = 32 * 1024;
const MAX_ENVIRONMENT: usize = 256 * 1024;

pub(super) fn cwd(check: &mut Check, field: &str, path: Option<&str>) {
    if let Some(path) = path {
        folder(check, field, path);
    }
}

pub(super) fn add_dirs(check: &mut Check, field: &str, paths: &[String]) {
    if paths.len() > MAX_ADD_DIRS {
        check.bad(field, format!("must have at most {MAX_ADD_DIRS} entries, has {}", paths.len()));
    }
    for (index, path) in paths.iter().enumerate().take(MAX_ADD_DIRS) {
        folder(check, &format!("{field}[{index}]"), path);
    }
}

fn folder(check: &mut Check, field: &str, path: &str) {
    check.word(field, path, MAX_PATH);
    if !is_plain(std::path::Path::new(path)) {
        check.bad(field, format!("must be an absolute path without .., is {}", shown(path)));
    }
}

pub(super) fn mcp_servers(check: &mut Check, field: &str, text: Option<&Redacted<String>>) {
    let map = text.and_then(|Redacted(text)| check.json_map(field, text, MAX_ARGUMENT));
    let Some(map) = map else { return };
    let servers = match map.get("mcpServers") {
        Some(Value::Object(servers)) if map.len() == 1 => servers,
        _ => {
            check.bad(field, "must be {\"mcpServers\": {NAME: SERVER, ...}} and nothing else");
            return;
        }
    };
    entries(check, field, servers, MAX_SERVERS, MAX_SERVER_NAME);
    let hosted = |server: &Value| server.get("type").is_some_and(|kind| kind == "sdk");
    for (name, _) in servers.iter().filter(|(_, server)| hosted(server)) {
        // The CLI would wait for ever for answers that nobody gives.
        let problem = format!(
            "type sdk is a server inside of the program that runs the CLI, which tool_servers \
             names: {} must be of type stdio, http or sse",
            shown(name)
        );
        check.bad(field, problem);
    }
}

pub(super) fn agents(check: &mut Check, field: &str, text: Option<&str>) {
    if let Some(agents) = text.and_then(|text| check.json_map(field, text, MAX_TEXT)) {
        entries(check, field, &agents, MAX_AGENTS, MAX_SERVER_NAME);
    }
}

/// A JSON object of named objects.
fn entries(
    check: &mut Check,
    field: &str,
    entries: &Map<String, Value>,
    count: usize,
    length: usize,
) {
    if entries.len() > count {
        check.bad(field, format!("must have at most {count} entries, has {}", entries.len()));
    }
    for (name, entry) in entries.iter().take(count) {
        let known = |c: char| c.is_ascii_alphanumeric() || "_-.: ".contains(c);
        if name.trim().is_empty() || name.len() > length || !name.chars().all(known) {
            let name = shown(name);
            check.bad(
                field,
                format!("must have names of 1 to {length} of A-Za-z0-9_-.: and blanks, has {name}"),
            );
        } else if !entry.is_object() {
            check.bad(&format!("{field}.{name}"), "must be a JSON object");
        }
    }
}

pub(super) fn settings(check: &mut Check, field: &str, text: Option<&Redacted<String>>) {
    if let Some(Redacted(text)) = text {
        check.json_map(field, text, MAX_ARGUMENT);
    }
}

pub(super) fn env(check: &mut Check, field: &str, env: &Redacted<BTreeMap<String, String>>) {
    let Redacted(env) = env;
    if env.len() > MAX_VARIABLES {
        check.bad(field, format!("must have at most {MAX_VARIABLES} entries, has {}", env.len()));
    }
    let size: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_ENVIRONMENT {
        check.bad(field, format!("must have at most {MAX_ENVIRONMENT} bytes in all, has {size}"));
    }
    for (name, value) in env.iter().take(MAX_VARIABLES) {
        if !variables::is_name(name) || name.len() > MAX_VARIABLE_NAME {
            check.bad(field, format!("must have names of variables, has {}", shown(name)));
            continue;
        }
        check.text(&format!("{field}.{name}"), value, MAX_VARIABLE);
    }
}
