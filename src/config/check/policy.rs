//! Rules of what callers may be allowed: what would give the service away is refused
//! here, with the reason.

use std::path::Path;

use super::{Config, Findings};
use crate::policy::{SETTING_SOURCES, folders::is_plain, variables::check_pattern};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let policy = &config.policy;
    check_permission_modes(&policy.permission_modes, findings);
    for root in &policy.cwd_roots {
        if let Err(problem) = check_root(root, &config.state_dir) {
            findings.refuse("policy.cwd_roots", format!("{root:?}"), problem);
        }
    }
    for pattern in &policy.env {
        if let Err(problem) = check_pattern(pattern) {
            findings.refuse("policy.env", format!("{pattern:?}"), problem);
        }
    }
    for source in &policy.setting_sources {
        if !SETTING_SOURCES.contains(&source.as_str()) {
            let problem = format!("each item must be one of {}", SETTING_SOURCES.join(", "));
            findings.refuse("policy.setting_sources", format!("{source:?}"), problem);
        }
    }
    let has = |wanted: &str| config.cli.extra_args.iter().any(|argument| flag(argument) == wanted);
    for own in ["--settings", "--managed-settings"].into_iter().filter(|own| has(own)) {
        if !policy.rule.is_empty() {
            let problem = "must be none while cli.extra_args has {own}: the CLI takes one";
            findings.refuse("policy.rule", "not empty", problem.replace("{own}", own));
        }
    }
    if policy.settings && has("--settings") {
        let problem = "must be false while cli.extra_args has --settings: the CLI takes one";
        findings.refuse("policy.settings", "true", problem);
    }
}

fn flag(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(flag, _)| flag)
}

fn check_permission_modes(modes: &[String], findings: &mut Findings<'_>) {
    for mode in modes {
        let problem = if mode == "bypassPermissions" {
            "not in this version: it lets every caller run any command on this host, and the CLI \
             takes it only where it was started for it, and never as root"
        } else if mode.is_empty() || !mode.chars().all(|c| c.is_ascii_alphanumeric()) {
            "each item must be the name of a permission mode, like plan"
        } else {
            continue;
        };
        findings.refuse("policy.permission_modes", format!("{mode:?}"), problem);
    }
}

/// A root is a folder that is there. What callers may reach in it must not be the
/// service's own: the state folder holds every session's files.
fn check_root(root: &str, state: &Path) -> Result<(), String> {
    if !is_plain(Path::new(root)) {
        return Err("each item must be an absolute path without ..".into());
    }
    let real =
        Path::new(root).canonicalize().map_err(|error| format!("cannot be used: {error}"))?;
    if !real.is_dir() {
        return Err("is not a folder".into());
    }
    let state = real_or_planned(state);
    if real.starts_with(&state) || state.starts_with(&real) {
        return Err(format!(
            "must neither hold nor be in state_dir = {}, where every session's files are",
            state.display()
        ));
    }
    Ok(())
}

/// The real path of a folder, or what it will be once the missing end of it is made.
fn real_or_planned(path: &Path) -> std::path::PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for parent in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (parent.canonicalize(), path.strip_prefix(parent)) {
            return real.join(rest);
        }
    }
    path
}
