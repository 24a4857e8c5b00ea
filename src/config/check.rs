//! Rules that one key's type cannot say: about the form of texts, and those that
//! join several keys.

mod cluster;
mod gateway;
mod policy;
mod store;
mod traces;

pub use store::problem_of_url;

use std::{
    path::{Component, Path},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Config, TlsConfig, Violation, env_files,
    fields::ENV_TABLE,
    secrets::{HIDDEN, is_secret},
    source::Settings,
    units::{show_bytes, show_duration},
};
use crate::policy::variables::is_name;

/// Arguments of the CLI that the service sets itself, or that would take the
/// process out of its protocol or out of its session.
const OWN_ARGUMENTS: [&str; 30] = [
    "--allow-dangerously-skip-permissions",
    "--await-claim",
    "--background",
    "--bg",
    "--chrome",
    "--continue",
    "--dangerously-skip-permissions",
    "--debug-to-stderr",
    "--fork-session",
    "--from-pr",
    "--help",
    "--ide",
    "--include-partial-messages",
    "--init-only",
    "--input-format",
    "--no-session-persistence",
    "--output-format",
    "--permission-mode",
    "--permission-prompt-tool",
    "--print",
    "--remote",
    "--replay-user-messages",
    "--resume",
    "--sdk-url",
    "--session-id",
    "--session-mirror",
    "--teleport",
    "--verbose",
    "--version",
    "--worktree",
];

/// Processes and threads that a session has at least: the CLI has about 30, a tool that it runs
/// some more.
const FEWEST_TASKS: usize = 64;

/// Open files that a CLI may have while it starts.
const FEWEST_FILES: usize = 256;

/// Processes of a CLI, what encloses it and a command of its own.
const FEWEST_PROCESSES: usize = 16;

/// Bytes of a workspace below which nothing useful can be done.
const LEAST_WORKSPACE: u64 = 1 << 20;

/// Names that the service uses to know its own processes by.
const OWN_VARIABLES: &str = "SESSION_POOL";

/// Checks what the types leave open. Keys that failed before are left out, since
/// their values here are not the ones that were asked for.
pub fn check(config: &Config, settings: &Settings, failed: &[Violation]) -> Vec<Violation> {
    let mut findings = Findings { settings, failed, violations: Vec::new() };
    check_timeouts(config, &mut findings);
    check_spill(config, &mut findings);
    check_memory(config, &mut findings);
    check_spares(config, &mut findings);
    check_listen(config, &mut findings);
    check_tls(config, &mut findings);
    cluster::check(config, &mut findings);
    check_state_dir(config, &mut findings);
    check_limits(config, &mut findings);
    check_sandbox_paths(config, &mut findings);
    check_audit(config, &mut findings);
    check_arguments(&config.cli.extra_args, &mut findings);
    check_variables(config, &mut findings);
    policy::check(config, &mut findings);
    gateway::check(config, &mut findings);
    check_level(&config.log.level, &mut findings);
    store::check(config, &mut findings);
    traces::check(config, &mut findings);
    findings.violations
}

struct Findings<'a> {
    settings: &'a Settings,
    failed: &'a [Violation],
    violations: Vec<Violation>,
}

impl Findings<'_> {
    fn is_sound(&self, key: &str) -> bool {
        self.failed.iter().all(|violation| violation.key != key)
    }

    fn refuse(&mut self, key: &str, value: impl Into<String>, problem: impl Into<String>) {
        if self.is_sound(key) {
            self.violations.push(Violation {
                key: key.into(),
                value: Some(value.into()),
                problem: problem.into(),
                origin: self.settings.origin(key),
            });
        }
    }
}

fn check_timeouts(config: &Config, findings: &mut Findings<'_>) {
    let pool = &config.pool;
    let first_chunk = ("pool.stream_first_chunk_timeout", pool.stream_first_chunk_timeout);
    let ongoing = ("pool.stream_ongoing_timeout", pool.stream_ongoing_timeout);
    let ttl = ("pool.session_ttl", pool.session_ttl);
    check_less(ongoing, ttl, findings);
    check_less(first_chunk, ongoing, findings);
}

fn check_less(low: (&str, Duration), high: (&str, Duration), findings: &mut Findings<'_>) {
    if low.1 < high.1 || !findings.is_sound(high.0) {
        return;
    }
    let origin = findings.settings.origin(high.0);
    let problem = format!("must be less than {} = {} ({origin})", high.0, show_duration(high.1));
    findings.refuse(low.0, show_duration(low.1), problem);
}

fn check_spill(config: &Config, findings: &mut Findings<'_>) {
    let buffer = config.pool.turn_buffer_bytes as u64;
    let spill = config.pool.turn_spill_bytes;
    if spill != 0 && spill < buffer && findings.is_sound("pool.turn_buffer_bytes") {
        let problem = format!(
            "must be 0 or at least pool.turn_buffer_bytes = {} ({})",
            show_bytes(buffer),
            findings.settings.origin("pool.turn_buffer_bytes")
        );
        findings.refuse("pool.turn_spill_bytes", show_bytes(spill), problem);
    }
}

fn check_memory(config: &Config, findings: &mut Findings<'_>) {
    // A request is there twice while it is decoded.
    let needed = (config.policy.max_prompt_bytes as u64).saturating_mul(2);
    let budget = config.pool.memory_budget;
    if budget < needed && findings.is_sound("policy.max_prompt_bytes") {
        let problem = format!(
            "must be at least twice policy.max_prompt_bytes = {} ({})",
            show_bytes(needed / 2),
            findings.settings.origin("policy.max_prompt_bytes")
        );
        findings.refuse("pool.memory_budget", show_bytes(budget), problem);
    }
}

fn check_spares(config: &Config, findings: &mut Findings<'_>) {
    let max = config.pool.max_processes;
    let classes = config.spare.iter().map(|class| class.count).sum::<usize>();
    let all = config.pool.spares + classes;
    if all > max && findings.is_sound("pool.max_processes") {
        let key = if config.pool.spares > 0 { "pool.spares" } else { "spare" };
        let origin = findings.settings.origin("pool.max_processes");
        findings.refuse(
            key,
            all.to_string(),
            format!("must be at most pool.max_processes = {max} ({origin}), [[spare]] included"),
        );
    }
}

fn check_listen(config: &Config, findings: &mut Findings<'_>) {
    let listen = config.server.listen;
    let asks = config.auth.tokens_file.is_some() || config.tls.client_ca.is_some();
    let open = listen.ip().to_canonical().is_loopback() || config.auth.insecure || asks;
    let sound = ["auth.insecure", "auth.tokens_file", "tls.client_ca"];
    if !open && sound.iter().all(|key| findings.is_sound(key)) {
        findings.refuse(
            "server.listen",
            listen.to_string(),
            "is not a loopback address, and no caller is asked who they are: whoever reaches the \
             port runs commands here. Set auth.tokens_file or tls.client_ca, or auth.insecure = \
             true if something else guards it",
        );
    }
}

fn check_tls(config: &Config, findings: &mut Findings<'_>) {
    let TlsConfig { cert, key, client_ca } = &config.tls;
    for (name, set, needs, other) in [
        ("tls.cert", cert.is_some(), "tls.key", key.is_some()),
        ("tls.key", key.is_some(), "tls.cert", cert.is_some()),
        ("tls.client_ca", client_ca.is_some(), "tls.cert", cert.is_some()),
    ] {
        if set && !other && findings.is_sound(needs) {
            findings.refuse(name, "set", format!("needs {needs}"));
        }
    }
}

fn check_state_dir(config: &Config, findings: &mut Findings<'_>) {
    if config.state_dir.as_os_str().is_empty() {
        findings.refuse(
            "state_dir",
            "\"\"",
            "must be set, since neither XDG_STATE_HOME nor HOME is an absolute path",
        );
    }
}

fn check_limits(config: &Config, findings: &mut Findings<'_>) {
    let processes = config.policy.max_processes_per_session;
    for (key, limit, least) in [
        ("cli.max_tasks", config.cli.max_tasks, FEWEST_TASKS),
        ("cli.max_open_files", config.cli.max_open_files, FEWEST_FILES),
        ("policy.max_processes_per_session", processes, FEWEST_PROCESSES),
    ] {
        if limit > 0 && limit < least {
            let problem = format!("must be 0 or at least {least}, which a CLI itself may need");
            findings.refuse(key, limit.to_string(), problem);
        }
    }
    let bytes = config.policy.max_workspace_bytes;
    if bytes > 0 && bytes < LEAST_WORKSPACE {
        let problem = "must be 0 or at least 1 MiB";
        findings.refuse("policy.max_workspace_bytes", bytes.to_string(), problem);
    }
}

fn check_sandbox_paths(config: &Config, findings: &mut Findings<'_>) {
    let sandbox = &config.sandbox;
    for (key, paths) in
        [("sandbox.readable", &sandbox.readable), ("sandbox.hidden", &sandbox.hidden)]
    {
        let is_good =
            |path: &str| Path::new(path).is_absolute() && !path.trim_end_matches('/').is_empty();
        for path in paths.iter().filter(|path| !is_good(path)) {
            let problem = "must be an absolute path, and not the root";
            findings.refuse(key, format!("{path:?}"), problem);
        }
    }
}

/// The folder of the audit log is hidden from sessions; the root cannot be.
fn check_audit(config: &Config, findings: &mut Findings<'_>) {
    let Some(path) = config.audit.files() else { return };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let leads_up = absolute.components().any(|part| part == Component::ParentDir);
    let folder = absolute.parent().filter(|folder| folder.parent().is_some());
    if leads_up || folder.is_none() {
        let problem = "must be stdout, or a file in a folder below the root, without `..`: the folder \
                       is hidden from sessions";
        findings.refuse("audit.file", format!("{path:?}"), problem);
    }
}

fn check_arguments(arguments: &[String], findings: &mut Findings<'_>) {
    for argument in arguments {
        // The value may be a secret, the flag's name is not.
        let name = argument.split_once('=').map_or(argument.as_str(), |(name, _)| name);
        let problem = if !argument.starts_with("--") || argument == "--" {
            "each item must have the form --flag or --flag=value"
        } else if argument.contains('\0') {
            "must not contain a NUL byte"
        } else if OWN_ARGUMENTS.contains(&name) {
            "the service sets this itself or cannot work with it"
        } else {
            continue;
        };
        findings.refuse("cli.extra_args", format!("{name:?}"), problem);
    }
}

fn check_variables(config: &Config, findings: &mut Findings<'_>) {
    const RESERVED: &str = "names that begin with SESSION_POOL are the service's own";
    for (name, value) in &config.cli.env {
        if name.starts_with(OWN_VARIABLES) {
            let shown = if is_secret(name) { HIDDEN.into() } else { format!("{value:?}") };
            findings.refuse(&format!("{ENV_TABLE}.{name}"), shown, RESERVED);
        }
    }
    for item in &config.cli.env_files {
        let problem = match env_files::parse(item) {
            Err(problem) => problem,
            Ok((name, _)) if name.starts_with(OWN_VARIABLES) => RESERVED,
            Ok((name, _)) if config.cli.env.contains_key(&name) => "the variable is in cli.env too",
            Ok(_) => continue,
        };
        // Somebody may have written the value itself in the place of its file.
        let shown = item.split_once('=').map_or(HIDDEN.into(), |(name, _)| format!("{name:?}"));
        findings.refuse("cli.env_files", shown, problem);
    }
    for name in &config.cli.env_passthrough {
        let problem = if !is_name(name) {
            "each item must be the name of an environment variable"
        } else if name.starts_with(OWN_VARIABLES) {
            RESERVED
        } else {
            continue;
        };
        findings.refuse("cli.env_passthrough", format!("{name:?}"), problem);
    }
}

fn check_level(level: &str, findings: &mut Findings<'_>) {
    // To the filter a word that is no level is the name of a target, of which there is none:
    // nothing would be logged.
    let unknown = level.split(',').map(str::trim).find(|word| {
        let is_word = !word.is_empty() && word.chars().all(char::is_alphanumeric);
        level.trim().is_empty() || (is_word && word.parse::<LevelFilter>().is_err())
    });
    if let Some(word) = unknown {
        let problem = format!("{word:?} must be off, error, warn, info, debug or trace");
        findings.refuse("log.level", format!("{level:?}"), problem);
    } else if let Err(error) = EnvFilter::builder().parse(level) {
        let problem = format!("must be a filter like info or info,session_pool=debug: {error}");
        findings.refuse("log.level", format!("{level:?}"), problem);
    }
}
