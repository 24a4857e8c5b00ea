//! What JSON from callers may say: MCP servers, subagents, permission updates. Judges
//! what is there, and lets pass only what it knows: a newer CLI may take a key that is
//! new here for a command.

use serde_json::{Map, Value};

use super::{Denial, McpServers, Policy, listed};

/// Keys of an MCP server that is reached over HTTP. Others run commands: `command`,
/// `headersHelper`.
const REMOTE_KEYS: [&str; 3] = ["type", "url", "headers"];

/// Keys of a subagent that say what it is told and which of the session's tools it has.
/// Others bring hooks, MCP servers or files of their own.
const AGENT_KEYS: [&str; 11] = [
    "background",
    "color",
    "description",
    "disallowedTools",
    "effort",
    "initialPrompt",
    "maxTurns",
    "model",
    "permissionMode",
    "prompt",
    "tools",
];

/// Folders in a permission update, as many as `add_dirs` takes.
const MOST_FOLDERS: usize = 32;

/// Kinds of permission updates.
const UPDATES: [&str; 6] =
    ["addDirectories", "addRules", "removeDirectories", "removeRules", "replaceRules", "setMode"];

impl Policy {
    /// What is not allowed of `{"mcpServers": {NAME: SERVER}}`. Another key would be one that
    /// nobody has judged.
    pub(super) fn judge_mcp_config(&self, config: &Map<String, Value>) -> Vec<Denial> {
        match config.get("mcpServers") {
            Some(Value::Object(servers)) if config.len() == 1 => self.judge_mcp_servers(servers),
            _ => vec![Denial::new("", "{\"mcpServers\": {NAME: SERVER, ...}} and nothing else")],
        }
    }

    fn judge_mcp_servers(&self, servers: &Map<String, Value>) -> Vec<Denial> {
        match self.mcp_servers {
            McpServers::None => vec![Denial::new("", "none (policy.mcp_servers = \"none\")")],
            McpServers::Any => Vec::new(),
            McpServers::Remote => servers
                .iter()
                .filter(|(_, server)| !is_remote(server))
                .map(|(name, _)| {
                    let allowed = "servers of type http or sse, with url and headers only and \
                                   without ${…} (policy.mcp_servers = \"remote\")";
                    Denial::new(at(name), allowed)
                })
                .collect(),
        }
    }

    /// What is not allowed of `{NAME: AGENT}`.
    pub(super) fn judge_agents(&self, agents: &Map<String, Value>) -> Vec<Denial> {
        if !self.agents {
            return vec![Denial::new("", "none (policy.agents = false)")];
        }
        let mut denials = Vec::new();
        for (name, agent) in agents {
            for (key, value) in agent.as_object().into_iter().flatten() {
                let at = format!("{}{}", at(name), self::at(key));
                if !AGENT_KEYS.contains(&key.as_str()) {
                    denials.push(Denial::new(at, format!("the keys {}", AGENT_KEYS.join(", "))));
                } else if key == "permissionMode" && !self.allows_mode(value) {
                    denials.push(Denial::new(at, self.allowed_modes()));
                }
            }
        }
        denials
    }

    /// What is not allowed of the permission updates in an answer to the CLI: they must
    /// not reach past the session, nor to modes and folders that an option could not have.
    /// May look at the file system.
    pub fn judge_permission_updates(&self, updates: &[Value]) -> Vec<Denial> {
        let mut denials = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            let text = |key: &str| update.get(key).and_then(Value::as_str);
            let mut deny = |key: &str, allowed: String| {
                denials.push(Denial::new(format!("[{index}].{key}"), allowed));
            };
            if !text("type").is_some_and(|kind| UPDATES.contains(&kind)) {
                deny("type", UPDATES.join(", "));
            }
            // Every other destination is a file that later sessions read.
            if update.get("destination").is_some_and(|place| place != "session") {
                deny("destination", "session".into());
            }
            if update.get("mode").is_some_and(|mode| !self.allows_mode(mode)) {
                deny("mode", self.allowed_modes());
            }
            if update.get("directories").is_some_and(|folders| !self.allows_folders(folders)) {
                let folders = self.cwd_roots.allowed();
                deny("directories", format!("at most {MOST_FOLDERS} real paths of {folders}"));
            }
        }
        denials
    }

    /// Whether all of them are folders that `add_dirs` could name, by their real paths: the
    /// CLI follows links of its own.
    fn allows_folders(&self, folders: &Value) -> bool {
        let is_allowed = |folder: &Value| {
            let path = folder.as_str();
            path.is_some_and(|path| self.cwd_roots.resolve(path).as_deref() == Some(path))
        };
        let folders = folders.as_array().filter(|folders| folders.len() <= MOST_FOLDERS);
        folders.is_some_and(|folders| folders.iter().all(is_allowed))
    }

    fn allows_mode(&self, mode: &Value) -> bool {
        mode.as_str().is_some_and(|mode| self.permission_modes.iter().any(|known| known == mode))
    }

    /// The permission modes that callers may choose, in words.
    pub(super) fn allowed_modes(&self) -> String {
        format!("{} (policy.permission_modes)", listed(&self.permission_modes))
    }
}

/// A key's place, for a message: short, and nothing that would break a line.
fn at(key: &str) -> String {
    let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
    format!(".{shown}")
}

fn is_remote(server: &Value) -> bool {
    let Some(server) = server.as_object() else { return false };
    let text = |key: &str| server.get(key).and_then(Value::as_str);
    let url = text("url").unwrap_or_default();
    matches!(text("type"), Some("http" | "sse"))
        && (url.starts_with("https://") || url.starts_with("http://"))
        && server.keys().all(|key| REMOTE_KEYS.contains(&key.as_str()))
        && !server.values().any(names_a_variable)
}

/// The CLI puts values of its own environment, the API key's among them, in the place of
/// `${NAME}`.
fn names_a_variable(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(names_a_variable),
        Value::Object(members) => {
            members.iter().any(|(key, value)| key.contains("${") || names_a_variable(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::folders::Roots;

    fn places(denials: &[Denial]) -> Vec<&str> {
        denials.iter().map(|denial| denial.at.as_str()).collect()
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn remote_servers_start_nothing_and_learn_nothing() {
        let policy = Policy { mcp_servers: McpServers::Remote, ..Policy::default() };
        let servers = map(json!({
            "a": {"type": "http", "url": "https://x/", "headers": {"Authorization": "Bearer y"}},
            "b": {"type": "sse", "url": "http://x/"},
            "c": {"type": "stdio", "command": "sh"},
            "d": {"command": "sh"},
            "e": {"type": "http", "url": "https://x/", "headersHelper": "sh"},
            "f": {"type": "http", "url": "https://x/${ANTHROPIC_API_KEY}"},
            "g": {"type": "http", "url": "https://x/", "headers": {"k": "${A:-b}"}},
            "h": {"type": "http", "url": "file:///etc/passwd"},
            "i": {"type": "http"},
            "j": "http",
        }));
        let denials = policy.judge_mcp_servers(&servers);
        assert_eq!(places(&denials), [".c", ".d", ".e", ".f", ".g", ".h", ".i", ".j"]);
        let closed = Policy::default().judge_mcp_servers(&map(json!({})));
        assert_eq!(places(&closed), [""]);
        let open = Policy { mcp_servers: McpServers::Any, ..Policy::default() };
        assert_eq!(open.judge_mcp_servers(&servers), []);
    }

    #[test]
    fn subagents_bring_no_hooks_servers_or_modes_of_their_own() {
        let policy =
            Policy { agents: true, permission_modes: vec!["plan".into()], ..Policy::default() };
        let agents = map(json!({
            "fine": {"description": "d", "prompt": "p", "permissionMode": "plan"},
            "bad": {
                "hooks": {}, "mcpServers": {}, "permissionMode": "bypassPermissions", "prompt": "p"
            },
        }));
        let denials = policy.judge_agents(&agents);
        assert_eq!(places(&denials), [".bad.hooks", ".bad.mcpServers", ".bad.permissionMode"]);
        assert_eq!(places(&Policy::default().judge_agents(&agents)), [""]);
    }

    #[test]
    fn permission_updates_stay_in_the_session_its_modes_and_its_folders() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().canonicalize().expect("real").display().to_string();
        std::os::unix::fs::symlink("/etc", place.path().join("out")).expect("linked");
        std::os::unix::fs::symlink(&root, place.path().join("in")).expect("linked");
        let policy = Policy {
            permission_modes: vec!["plan".into()],
            cwd_roots: Roots::open(std::slice::from_ref(&root)).expect("opened"),
            ..Policy::default()
        };
        let folders = |folders: Value| json!({"type": "addDirectories", "directories": folders, "destination": "session"});
        let updates = [
            json!({"type": "setMode", "mode": "plan", "destination": "session"}),
            json!({"type": "setMode", "mode": "bypassPermissions"}),
            json!({"type": "addRules", "rules": [], "destination": "userSettings"}),
            json!({"type": "addRules", "destination": 1, "mode": null}),
            json!({"type": "runCommand", "destination": "session"}),
            json!("setMode"),
            folders(json!([root])),
            folders(json!([root, "/etc"])),
            folders(json!([format!("{root}/out")])),
            folders(json!([format!("{root}/in")])),
            folders(json!("/etc")),
        ];
        let denials = policy.judge_permission_updates(&updates);
        let expected = [
            "[1].mode",
            "[2].destination",
            "[3].destination",
            "[3].mode",
            "[4].type",
            "[5].type",
            "[7].directories",
            "[8].directories",
            "[9].directories",
            "[10].directories",
        ];
        assert_eq!(places(&denials), expected);
        assert!(denials[7].allowed.contains(&root), "{denials:?}");
    }
}
