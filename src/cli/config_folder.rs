//! What is in the folder that `CLAUDE_CONFIG_DIR` names, and what of it a process gets.
//!
//! The CLI does not only keep things there, it obeys them, and the folder belongs to a tenant:
//! what one session wrote there, every later session would do. Seen on 2.1.110, 2.1.197 and
//! 2.1.332, with `--setting-sources=` and `--strict-mcp-config`:
//!
//! - `env` in `.claude.json`, and in `.config.json`, which comes before it, sets variables over those
//!   that the process was started with: `ANTHROPIC_BASE_URL`, by which a key is sent elsewhere;
//! - `remote-settings.json` has hooks and an `apiKeyHelper`, which are run as commands, unless the
//!   API is at another address than its own;
//! - `projects/…/memory` is put into the prompt, unless that is switched off (`server::settings`).
//!
//! In a sandbox with walls a process has such a folder for itself, in memory and empty, in which
//! lies of the tenant's what is listed here and nothing else: what the next version of the CLI
//! reads, nobody knows. Without walls nothing keeps a session from writing to the files of others;
//! there, what was written is removed before the next start, as far as it is known to be obeyed.
//!
//! Invariant: what a process can write here, no other process obeys. Neighbours: `sandbox` mounts
//! it, `supply::folders` makes it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use crate::os::confined::Folder;

/// What outlives a process: its conversation, the files that it can be taken back to, and what
/// it has planned.
const KEPT: [&str; 5] = ["projects", "file-history", "tasks", "todos", "plans"];

/// What an operator may have put there for callers who may have the settings of `user` loaded. A
/// process reads them, and cannot write them.
const PLACED: [&str; 9] = [
    "settings.json",
    "CLAUDE.md",
    "agents",
    "commands",
    "hooks",
    "output-styles",
    "plugins",
    "rules",
    "skills",
];

/// What the CLI fetches from its vendor and obeys. Nobody else has a reason to write it.
const FETCHED: [&str; 3] =
    ["remote-settings.json", "remote-settings-consent.json", "policy-limits.json"];

/// What the CLI writes about itself. It takes variables from there.
const OWN: [&str; 2] = [".claude.json", ".config.json"];

/// The most that is read of such a file, in bytes. Some kilobytes were seen.
const OWN_BYTES: u64 = 4 << 20;

/// The folders in it that outlive a process.
pub fn kept(config: &Path) -> impl Iterator<Item = PathBuf> {
    KEPT.into_iter().map(|name| config.join(name))
}

/// The files and folders in it that are for reading only, if they are there.
pub fn placed(config: &Path) -> impl Iterator<Item = PathBuf> {
    PLACED.into_iter().map(|name| config.join(name))
}

/// Makes what outlives a process. What is there under such a name and is no folder is removed.
///
/// # Errors
///
/// The disk's. Waits for it: not for a runtime's own threads.
pub fn make(config: &Folder) -> io::Result<()> {
    KEPT.into_iter().try_for_each(|name| config.make_folder(Path::new(name)))
}

/// Removes what the next process would obey, whoever wrote it, and returns its names. For a
/// sandbox without walls: a session that runs at the same time can write it again.
///
/// # Errors
///
/// The disk's. Waits for it: not for a runtime's own threads.
pub fn reset(config: &Folder) -> io::Result<Vec<&'static str>> {
    let mut removed = Vec::new();
    for name in FETCHED {
        if config.exists(Path::new(name)) {
            config.remove_tree(Path::new(name))?;
            removed.push(name);
        }
    }
    for name in OWN {
        if config.exists(Path::new(name)) && !sets_nothing(config, Path::new(name)) {
            config.remove_tree(Path::new(name))?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// The part that the CLI takes variables from.
#[derive(Deserialize)]
struct Own {
    #[serde(default)]
    env: BTreeMap<String, IgnoredAny>,
}

/// Whether a file sets no variables. One that cannot be read in full is not trusted.
fn sets_nothing(config: &Folder, file: &Path) -> bool {
    let content = config.read(file, OWN_BYTES);
    content.is_ok_and(|content| {
        serde_json::from_slice::<Own>(&content).is_ok_and(|own| own.env.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    fn folder() -> (TempDir, Folder) {
        let place = TempDir::new().expect("a folder");
        let config = Folder::open(place.path()).expect("opened");
        (place, config)
    }

    #[test]
    fn what_sets_variables_or_runs_commands_is_removed_and_nothing_else() {
        let (place, config) = folder();
        let at = |name: &str| place.path().join(name);
        for (name, content) in [
            (".claude.json", r#"{"numStartups": 3, "env": {"PATH": "/tmp"}}"#),
            (".config.json", r#"{"env": {}, "projects": {}}"#),
            ("remote-settings.json", r#"{"apiKeyHelper": "touch /tmp/x"}"#),
            ("settings.json", r#"{"env": {"A": "an operator's"}}"#),
        ] {
            fs::write(at(name), content).expect("written");
        }
        fs::create_dir_all(at("policy-limits.json/deep")).expect("made");
        let removed = reset(&config).expect("removed");
        assert_eq!(removed, ["remote-settings.json", "policy-limits.json", ".claude.json"]);
        assert!(at(".config.json").exists() && at("settings.json").exists());
        for name in removed {
            assert!(!at(name).exists(), "{name}");
        }
        assert_eq!(reset(&config).expect("nothing there"), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_in_full_is_not_trusted() {
        let elsewhere = TempDir::new().expect("a folder");
        let other = elsewhere.path().join("other.json");
        fs::write(&other, "{}").expect("written");
        let (place, config) = folder();
        let file = place.path().join(".claude.json");
        for content in [
            r#"{"env": {}, "env": {"PATH": "/tmp"}}"#.to_owned(),
            r#"{"env": ["PATH"]}"#.to_owned(),
            r#"{"numStartups": "#.to_owned(),
            format!("{{}}{}", " ".repeat(OWN_BYTES as usize)),
        ] {
            fs::write(&file, content).expect("written");
            assert_eq!(reset(&config).expect("removed"), [".claude.json"]);
        }
        symlink(&other, &file).expect("linked");
        assert_eq!(reset(&config).expect("removed"), [".claude.json"]);
        assert!(other.exists(), "what a link led to stays");
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, 0o600.into()).expect("a pipe");
        assert_eq!(reset(&config).expect("removed"), [".claude.json"]);
    }

    #[test]
    fn links_in_the_place_of_folders_are_replaced() {
        let elsewhere = TempDir::new().expect("a folder");
        let (place, config) = folder();
        symlink(elsewhere.path(), place.path().join("projects")).expect("linked");
        fs::write(place.path().join("plans"), "").expect("written");
        make(&config).expect("made");
        make(&config).expect("they are there");
        for kept in kept(place.path()) {
            assert!(fs::symlink_metadata(&kept).expect("there").is_dir(), "{kept:?}");
        }
    }
}
