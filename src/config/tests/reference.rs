//! `docs/configuration.md` is made from the code: a row for each key of the table in `fields`,
//! with what the comment on its place in [`Config`] says. `UPDATE_DOCS=1 cargo test reference`
//! writes the file anew.

use std::{collections::BTreeMap, env, fs, path::Path};

use super::{
    super::{
        fields::{Slot, fields},
        units::{parse_bytes, parse_duration},
    },
    *,
};

const SECTIONS: [&str; 7] = [
    include_str!("../sections.rs"),
    include_str!("../audit.rs"),
    include_str!("../cluster.rs"),
    include_str!("../gateway.rs"),
    include_str!("../policy.rs"),
    include_str!("../sandbox.rs"),
    include_str!("../traces.rs"),
];

const HEAD: &str = "# Configuration

<!-- Made from the code by `UPDATE_DOCS=1 cargo test --features test-tools --lib reference`. -->

A TOML file (`--config`, `SESSION_POOL_CONFIG`), the environment (`SESSION_POOL__POOL__MAX_SESSIONS=5`), and flags
(`--set pool.max_sessions=5`): flags beat the environment, which beats the file. A wrong key or value stops the start and says
which, where it came from, and its bounds. `session-pool config print` shows what is in force, `session-pool config check` only
checks.

Durations are written as `90s`, `10m` or `1h 30m`, sizes as `16 MiB` or as a number of bytes.

What callers may ask for is closed by default, and each `policy.*` key opens one thing. [SECURITY.md](../SECURITY.md) says what
each of them gives away. `bypassPermissions` cannot be allowed in this version.

";

/// The comments on the fields of each structure: name of the structure, of the field, comment.
fn comments() -> BTreeMap<(String, String), String> {
    let (mut found, mut within, mut comment) = (BTreeMap::new(), String::new(), Vec::new());
    for line in SECTIONS.iter().flat_map(|text| text.lines()) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            within = name.trim_end_matches(" {").to_owned();
        }
        match line.trim().strip_prefix("///") {
            Some(text) => comment.push(text.trim()),
            None => {
                let name = line.strip_prefix("    pub ").and_then(|rest| rest.split(':').next());
                if let Some(name) = name.filter(|_| line.ends_with(',')) {
                    found.insert((within.clone(), name.to_owned()), comment.join(" "));
                }
                comment.clear();
            }
        }
    }
    found
}

/// What stands before the default, and the default with its bounds.
fn meaning_and_default(key: &str) -> (String, String) {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let structure = match section {
        "" => "Config",
        "server" => "ServerConfig",
        "server.limits" => "LimitsConfig",
        "pool" => "PoolConfig",
        "cli" => "CliConfig",
        "policy" => "PolicyConfig",
        "store" => "StoreConfig",
        "auth" => "AuthConfig",
        "tls" => "TlsConfig",
        "cluster" => "ClusterConfig",
        "log" => "LogConfig",
        "metrics" => "MetricsConfig",
        "traces" => "TracesConfig",
        "gateway" => "GatewayConfig",
        "sandbox" => "SandboxConfig",
        "audit" => "AuditConfig",
        other => panic!("a section without a structure: {other}"),
    };
    let comments = comments();
    let comment = comments.get(&(structure.to_owned(), name.to_owned()));
    let comment = comment.unwrap_or_else(|| panic!("{key} has no comment"));
    let (meaning, default) = comment
        .split_once("Default ")
        .unwrap_or_else(|| panic!("the comment of {key} does not say the default: {comment}"));
    assert!(!meaning.is_empty() && default.ends_with('.'), "{key}: {comment}");
    (meaning.trim_end().to_owned(), default.trim_end_matches('.').to_owned())
}

fn reference() -> String {
    let mut text = HEAD.to_owned();
    text += "| key | meaning | default and bounds |\n|---|---|---|\n";
    for field in fields(&mut Config::defaults(|_| None)) {
        let (meaning, default) = meaning_and_default(field.key);
        let key = match field.key {
            "spare" => "[[spare]]",
            "policy.rule" => "[[policy.rule]]",
            "gateway.tenant" => "[[gateway.tenant]]",
            "gateway.price" => "[[gateway.price]]",
            key => key,
        };
        text += &format!("| `{key}` | {} | {} |\n", meaning, default.replace('|', "\\|"));
    }
    text
}

#[test]
fn the_reference_of_the_keys_is_what_the_code_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let made = reference();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &made).expect("written");
    }
    let kept = fs::read_to_string(&file).expect("docs/configuration.md");
    assert!(kept == made, "docs/configuration.md is not what the code says: write it anew");
}

#[test]
fn the_defaults_that_the_comments_name_are_in_force() {
    let mut compared = 0;
    for field in fields(&mut Config::defaults(|_| None)) {
        let (_, default) = meaning_and_default(field.key);
        let said = default.split([',', ';']).next().unwrap_or_default();
        let as_said = match field.slot {
            Slot::Flag(place) => said == place.to_string(),
            // Some depend on the machine, or on other keys.
            Slot::Count(place, _) if said.starts_with(|c: char| c.is_ascii_digit()) => {
                said == place.to_string()
            }
            Slot::Bytes(place, _) => parse_bytes(said) == Ok(*place as u64),
            Slot::LargeBytes(place, _) if said.starts_with(|c: char| c.is_ascii_digit()) => {
                parse_bytes(said) == Ok(*place)
            }
            Slot::Duration(place, _) | Slot::DurationOrOff(place, _) => {
                parse_duration(said) == Ok(*place)
            }
            Slot::Texts(place, _) if said == "none" => place.is_empty(),
            Slot::Sandbox(place) => said == format!("`{}`", place.as_str()),
            Slot::Cgroups(place) => said == format!("`{}`", place.as_str()),
            Slot::Store(place) => said == format!("`{}`", place.as_str()),
            Slot::Format(place) => said == format!("`{}`", place.as_str()),
            Slot::McpServers(place) => said == format!("`{}`", place.as_str()),
            Slot::FileMentions(place) => said == format!("`{}`", place.as_str()),
            Slot::Egress(_) => said == "`open`",
            _ => continue,
        };
        assert!(as_said, "{}: {default}", field.key);
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
}
