//! The command of one CLI process and the folders of its session, as `launch` makes them, and as
//! those need them who enclose and spawn the process. Values only.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::config_folder;
use crate::{
    domain::ids::ClientId,
    os::{cgroup::Delegated, limits::OfEach},
};

/// The folders of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// Working folder.
    pub work: PathBuf,
    /// The tenant's `CLAUDE_CONFIG_DIR`.
    pub config: PathBuf,
    /// Its `HOME`.
    pub home: PathBuf,
    /// Further folders that its tools may reach.
    pub extra: Vec<PathBuf>,
}

impl Folders {
    /// Those that its process may write to, where there are walls.
    pub fn writable(&self) -> Vec<PathBuf> {
        let own = [&self.work, &self.home].into_iter().chain(&self.extra).cloned();
        own.chain(config_folder::kept(&self.config)).collect()
    }

    /// Those that it has for itself in memory, where there are walls.
    pub fn in_memory(&self) -> [&Path; 1] {
        [&self.config]
    }
}

/// A command, ready to be spawned.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Its working folder.
    pub cwd: PathBuf,
    /// The folders of its session.
    pub folders: Folders,
    /// Its temporary directory, where the sandbox gives it none.
    pub scratch: Option<PathBuf>,
    /// What it is held to by itself.
    pub limits: OfEach,
    /// Where it gets a control group, with all that it starts.
    pub groups: Option<Delegated>,
    /// The mark that it and all its children carry.
    pub mark: ClientId,
    /// Values of its environment that are the operator's or the caller's own.
    pub secrets: Vec<String>,
}

impl fmt::Debug for LaunchCommand {
    /// Leaves values out, of arguments and environment: credentials are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchCommand")
            .field("program", &self.program)
            .field("args", &self.shown_args())
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .field("mark", &self.mark)
            .finish()
    }
}

impl LaunchCommand {
    /// The folders that are its session's alone. One that its caller chose is not.
    pub fn own_folders(&self) -> Vec<PathBuf> {
        let Folders { work, config, home, .. } = &self.folders;
        let of_tenant = config.parent();
        let is_own = |folder: &&PathBuf| of_tenant.is_some_and(|tenant| folder.starts_with(tenant));
        [work, home].into_iter().filter(is_own).chain(&self.scratch).cloned().collect()
    }

    /// The arguments for a log: flags without their values, which may be a caller's words
    /// or hold credentials.
    pub fn shown_args(&self) -> Vec<&str> {
        let flag = |arg: &'_ String| arg.find('=').unwrap_or(arg.len());
        self.args.iter().map(|arg| &arg[..flag(arg)]).collect()
    }
}
