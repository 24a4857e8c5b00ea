//! Which sandbox the service uses, decided once before anything else is started, and
//! whether the service itself runs under a keeper.

use std::{
    env, fmt, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::Context as _;

use super::state::make_state_folder;
use crate::{
    cli::sandbox::{self, Sandbox, Scene, Unfit},
    config::{Config, SandboxMode, StoreKind},
    keeper::{self, Ending, Strays},
};

/// The program's own file, also after it was replaced by a newer one.
const OURSELVES: &str = "/proc/self/exe";

/// What was decided.
#[derive(Debug, Clone)]
pub struct Enclosure {
    /// What every CLI is enclosed in.
    pub sandbox: Sandbox,
    /// Why it is not one that comes before it; empty if none does.
    pub passed_over: String,
}

impl Enclosure {
    /// The sandbox of `cli.sandbox`, found out by trying. `secrets` are files of the
    /// service's own that no session may read. Waits for processes.
    pub fn choose(config: &Config, secrets: &[PathBuf]) -> anyhow::Result<Self> {
        Self::choose_with(config, secrets, Path::new(OURSELVES))
    }

    /// Likewise, with another program that has the keeper as a subcommand.
    pub fn choose_with(
        config: &Config,
        secrets: &[PathBuf],
        program: &Path,
    ) -> anyhow::Result<Self> {
        make_state_folder(config)?;
        let hidden = hidden_files(config, secrets);
        let namespaces = || sandbox::bubblewrap(&config.state_dir, &hidden, &config.cli.path);
        let tree = || sandbox::process_tree(program);
        let asked = |tried: Result<Sandbox, Unfit>| {
            let mode = config.cli.sandbox.as_str();
            tried.with_context(|| format!("cli.sandbox: {mode} does not work here"))
        };
        let (sandbox, passed_over) = match config.cli.sandbox {
            SandboxMode::Bubblewrap => (asked(namespaces())?, String::new()),
            SandboxMode::ProcessTree => (asked(tree())?, String::new()),
            SandboxMode::Auto => match namespaces() {
                Ok(sandbox) => (sandbox, String::new()),
                Err(why) => {
                    let why = format!("bubblewrap: {why}");
                    let or = || format!("cli.sandbox: nothing works here; {why}; process-tree");
                    (tree().with_context(or)?, why)
                }
            },
        };
        Ok(Self { sandbox, passed_over })
    }

    /// What the keeper that this process runs under has decided.
    pub fn of_keeper(config: &Config, secrets: &[PathBuf]) -> Option<Self> {
        let word = keeper::kept_as()?;
        let (name, passed_over) = word.split_once(' ').unwrap_or((&word, ""));
        let sandbox = if name == SandboxMode::Bubblewrap.as_str() {
            let (state, program) = (&config.state_dir, &config.cli.path);
            let hidden = hidden_files(config, secrets);
            Sandbox::Bubblewrap(Arc::new(Scene::of_this_machine(state, &hidden, program)))
        } else {
            Sandbox::ProcessTree(OURSELVES.into())
        };
        Some(Self { sandbox, passed_over: passed_over.to_owned() })
    }

    /// Whether the service has to run under a keeper: to be outlived by somebody who ends
    /// what it leaves, or as the first process of a container, to which fall all that
    /// lose their parents.
    pub fn needs_keeper(&self) -> bool {
        matches!(self.sandbox, Sandbox::ProcessTree(_)) || std::process::id() == 1
    }

    /// Runs this program once more, with the same arguments, as a child, and keeps it to
    /// its end. No threads may have been started.
    pub fn keep_ourselves(&self) -> io::Result<Ending> {
        let mut arguments = env::args_os();
        let mut command = Command::new(env::current_exe()?);
        command.arg0(arguments.next().unwrap_or_else(|| "session-pool".into()));
        command.args(arguments);
        keeper::mark_as_kept(&mut command, &self.to_string());
        keeper::keep(&mut command, Strays::Die, |_| {})
    }
}

/// The database may lie outside the state folder; tokens and keys do.
fn hidden_files(config: &Config, secrets: &[PathBuf]) -> Vec<PathBuf> {
    let database = (config.store.kind == StoreKind::Sqlite).then(|| config.database_file());
    let credentials = [config.auth.tokens_file.clone(), config.tls.key.clone()];
    secrets.iter().cloned().chain(database).chain(credentials.into_iter().flatten()).collect()
}

impl fmt::Display for Enclosure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sandbox.name(), self.passed_over)
    }
}
