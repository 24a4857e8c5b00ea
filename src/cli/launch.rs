//! Makes the command line and the environment of a CLI process. Pure: the same
//! input gives the same command, which is what its tests rely on.
//!
//! Every value travels as `--flag=value`, one each: the CLI takes a value that
//! begins with a dash for a flag in several other forms (`--resume X`, the second
//! value of a list). The environment is built from nothing, never inherited.

mod flags;
mod rules;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    command::{Folders, LaunchCommand},
    env_files::EnvFiles,
    sandbox::Sandbox,
    scratch,
    versions::Installed,
};
use crate::domain::ids::{CliSessionId, ClientId, TenantId};
use crate::domain::{operator_rule::OperatorRule, options::Options};
use crate::os::{cgroup::Delegated, limits::OfEach};
use flags::{option_args, withheld_tools};
use rules::rule_args;

/// Carries the [`ClientId`] in the environment of a process and of all that it
/// starts, so that what it leaves behind can be told from anything else.
pub const MARK_VARIABLE: &str = "SESSION_POOL_CLIENT";

/// Carries the state folder, so that a later life of the service can tell what an
/// earlier one left.
pub const STATE_VARIABLE: &str = "SESSION_POOL_STATE";

/// Variables of the service that every CLI gets, if they are set.
const PASSED_ON: [&str; 5] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"];

/// Where a process's conversation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversationOrigin {
    /// It begins.
    New(CliSessionId),
    /// It goes on.
    Resume(CliSessionId),
    /// It begins as a copy of another.
    Fork {
        /// The other.
        from: CliSessionId,
        /// The copy's own id.
        to: CliSessionId,
    },
}

impl ConversationOrigin {
    /// The id that the process will know its conversation by.
    pub fn cli_session_id(&self) -> CliSessionId {
        match *self {
            Self::New(id) | Self::Resume(id) | Self::Fork { to: id, .. } => id,
        }
    }
}

/// What the operator says about every CLI process.
#[derive(Debug, Clone)]
pub struct LaunchSettings {
    /// The executable.
    pub program: PathBuf,
    /// Arguments added to ours.
    pub extra_args: Vec<String>,
    /// Variables set, over those passed on.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are in files, over those that are set.
    pub env_files: EnvFiles,
    /// Names of the service's own variables that are passed on.
    pub env_passthrough: Vec<String>,
    /// The state folder.
    pub state_dir: PathBuf,
    /// What every CLI is enclosed in.
    pub sandbox: Sandbox,
    /// The version of the executable.
    pub installed: Installed,
    /// Permission rules that hold whatever callers say.
    pub rules: Vec<OperatorRule>,
    /// What each process is held to by itself.
    pub limits: OfEach,
    /// Where each process gets a control group, with all that it starts.
    pub groups: Option<Delegated>,
}

impl LaunchSettings {
    /// The command of one process. `inherited` is the service's own environment.
    pub fn command(
        &self,
        tenant: &TenantId,
        origin: ConversationOrigin,
        options: &Options,
        folders: &Folders,
        mark: ClientId,
        inherited: impl Fn(&str) -> Option<String>,
    ) -> LaunchCommand {
        let scratch = (!self.sandbox.is_wall()).then(|| scratch::path(&self.state_dir, mark));
        let env = self.environment(options, folders, scratch.as_deref(), mark, &inherited);
        let mut args = fixed_args();
        args.extend(origin_args(origin));
        args.extend(option_args(origin, options, &env));
        args.extend(withheld_tools(options, self.installed.version()));
        args.extend(rule_args(&self.rules, tenant, options, self.installed.version()));
        args.extend(self.extra_args.iter().cloned());
        LaunchCommand {
            program: self.program.clone(),
            args,
            env,
            cwd: folders.work.clone(),
            folders: folders.clone(),
            scratch,
            limits: self.limits,
            groups: self.groups.clone(),
            mark,
            secrets: self.secrets(options, &inherited),
        }
    }

    /// The same, with variables whose values have been read.
    pub fn with_variables(&self, values: BTreeMap<String, String>) -> Self {
        let mut settings = self.clone();
        settings.env.extend(values);
        settings
    }

    fn secrets(
        &self,
        options: &Options,
        inherited: impl Fn(&str) -> Option<String>,
    ) -> Vec<String> {
        let passed_on = self.env_passthrough.iter().filter_map(|name| inherited(name));
        passed_on.chain(self.env.values().chain(options.env.0.values()).cloned()).collect()
    }

    fn environment(
        &self,
        options: &Options,
        folders: &Folders,
        scratch: Option<&Path>,
        mark: ClientId,
        inherited: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let passed_on =
            PASSED_ON.into_iter().chain(self.env_passthrough.iter().map(String::as_str));
        let mut env: BTreeMap<String, String> = passed_on
            .filter_map(|name| inherited(name).map(|value| (name.to_owned(), value)))
            .collect();
        env.insert("HOME".into(), path(&folders.home));
        env.insert("CLAUDE_CONFIG_DIR".into(), path(&folders.config));
        let variables = scratch
            .into_iter()
            .flat_map(|scratch| scratch::VARIABLES.map(|name| (name.to_owned(), path(scratch))));
        env.extend(variables);
        env.insert("CLAUDE_CODE_ENTRYPOINT".into(), "session-pool".into());
        // An executable that replaces itself under running sessions is no use here.
        env.insert("DISABLE_AUTOUPDATER".into(), "1".into());
        env.extend(self.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        env.extend(options.env.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        // What the protocol and the supervision rely on is nobody's to change.
        env.insert("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS".into(), "1".into());
        env.insert(MARK_VARIABLE.into(), mark.to_string());
        env.insert(STATE_VARIABLE.into(), path(&self.state_dir));
        env
    }
}

fn fixed_args() -> Vec<String> {
    [
        "--print",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        // Whether anybody sees them is each caller's choice, in every turn anew.
        "--include-partial-messages",
        // Permission prompts become control requests on the same pipes.
        "--permission-prompt-tool=stdio",
        // Says when a prompt is taken up, in versions that say so in no other way.
        "--replay-user-messages",
        // Tells what is added to the transcript before the result of the turn.
        "--session-mirror",
        // MCP servers in a session's folder would be commands of its author's choice.
        "--strict-mcp-config",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn origin_args(origin: ConversationOrigin) -> Vec<String> {
    match origin {
        ConversationOrigin::New(id) => vec![format!("--session-id={id}")],
        ConversationOrigin::Resume(id) => vec![format!("--resume={id}")],
        ConversationOrigin::Fork { from, to } => vec![
            format!("--resume={from}"),
            "--fork-session".to_owned(),
            format!("--session-id={to}"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> LaunchSettings {
        LaunchSettings {
            program: "/usr/bin/claude".into(),
            extra_args: vec!["--debug-file=/tmp/log".into()],
            env: [("ANTHROPIC_BASE_URL".to_owned(), "http://127.0.0.1:1".to_owned())].into(),
            env_files: EnvFiles::default(),
            env_passthrough: vec!["HTTPS_PROXY".into(), "NOT_SET".into()],
            state_dir: "/state".into(),
            sandbox: Sandbox::ProcessTree("session-pool".into()),
            installed: Installed::default(),
            rules: Vec::new(),
            limits: OfEach::default(),
            groups: None,
        }
    }

    fn folders() -> Folders {
        Folders { work: "/w".into(), config: "/c".into(), home: "/h".into(), extra: vec![] }
    }

    fn command(origin: ConversationOrigin, options: &Options) -> LaunchCommand {
        let (tenant, mark) = (TenantId::default(), ClientId::fresh());
        settings().command(&tenant, origin, options, &folders(), mark, |name| match name {
            "PATH" => Some("/bin".into()),
            "HTTPS_PROXY" => Some("http://proxy".into()),
            "ANTHROPIC_API_KEY" | "AWS_SECRET_ACCESS_KEY" => Some("secret".into()),
            _ => None,
        })
    }

    #[test]
    fn the_environment_is_an_allow_list() {
        let command = command(ConversationOrigin::New(CliSessionId::fresh()), &Options::default());
        let names: Vec<&str> = command.env.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "ANTHROPIC_BASE_URL",
                "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
                "CLAUDE_CODE_ENTRYPOINT",
                "CLAUDE_CODE_TMPDIR",
                "CLAUDE_CONFIG_DIR",
                "DISABLE_AUTOUPDATER",
                "HOME",
                "HTTPS_PROXY",
                "PATH",
                "SESSION_POOL_CLIENT",
                "SESSION_POOL_STATE",
                "TEMP",
                "TMP",
                "TMPDIR",
            ]
        );
        assert!(!format!("{command:?}").contains("http://proxy"));
        assert_eq!(command.secrets, ["http://proxy", "http://127.0.0.1:1"]);
    }

    #[test]
    fn every_value_is_bound_to_its_flag() {
        let options = Options {
            model: Some("--dangerously-skip-permissions".into()),
            allowed_tools: vec!["-x".into(), "Bash(git log:*)".into()],
            tools: vec![String::new()],
            max_turns: Some(3),
            ..Options::default()
        };
        let id = CliSessionId::fresh();
        let command = command(ConversationOrigin::Resume(id), &options);
        for wanted in [
            format!("--resume={id}"),
            "--model=--dangerously-skip-permissions".to_owned(),
            "--allowedTools=-x".to_owned(),
            "--allowedTools=Bash(git log:*)".to_owned(),
            "--tools=".to_owned(),
            "--max-turns=3".to_owned(),
            "--setting-sources=".to_owned(),
        ] {
            assert!(command.args.contains(&wanted), "{wanted} in {:?}", command.args);
        }
        assert!(command.args.iter().all(|arg| arg.starts_with("--")), "{:?}", command.args);
        assert!(!command.args.contains(&"--dangerously-skip-permissions".to_owned()));
        assert_eq!(command.args.last().map(String::as_str), Some("--debug-file=/tmp/log"));
    }

    #[test]
    fn a_conversation_begins_goes_on_or_is_copied() {
        let (from, to) = (CliSessionId::fresh(), CliSessionId::fresh());
        assert_eq!(origin_args(ConversationOrigin::New(to)), [format!("--session-id={to}")]);
        assert_eq!(origin_args(ConversationOrigin::Resume(to)), [format!("--resume={to}")]);
        assert_eq!(
            origin_args(ConversationOrigin::Fork { from, to }),
            [format!("--resume={from}"), "--fork-session".into(), format!("--session-id={to}")]
        );
    }
}
