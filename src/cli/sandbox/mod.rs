//! What a CLI process is enclosed in, so that nothing of it is left when it ends or when
//! the service does. Knows commands and processes; nothing of sessions.
//!
//! - `process-tree`: under a [`supervisor`], which ends whatever descends from
//!   the CLI. It sees and can touch whatever the service's user can.
//! - `bubblewrap`: in namespaces of its own, which the kernel ends as a whole. It sees its
//!   own processes and folders. The first process in there is a [`supervisor`], too: one that a
//!   session cannot touch, since the namespace ends with it and with the service by way of it.

mod argv;
mod devices;
mod mount_plan;
mod pinned_dir;
mod probe;
mod sandboxed_process;
mod syscalls;

use std::{
    fs, io,
    os::fd::{OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::Signal,
};

pub use mount_plan::{MountPlan, View};
pub use pinned_dir::PinnedDir;
pub use probe::{Tried, Unsupported, bubblewrap, process_tree, sweep_trials};
pub use sandboxed_process::SandboxedProcess;

use super::command::{Folders, LaunchCommand};
use crate::os::{launch::Launch, supervisor};

/// File descriptors that the command which encloses a CLI works with.
#[derive(Debug, Default)]
pub struct Open {
    /// The folders that the session may write to.
    pub folders: Vec<PinnedDir>,
    /// What an operator has placed in its folders in memory: for reading.
    pub placed: Vec<PinnedDir>,
    /// The filter of its system calls.
    pub filter: Option<OwnedFd>,
    /// The program that is the first process in it.
    pub supervisor: Option<OwnedFd>,
    /// On which the socket is handed over that leads out of its network.
    pub listen: Option<OwnedFd>,
}

impl Open {
    fn for_bubblewrap(
        plan: &MountPlan,
        folders: &Folders,
        listen: Option<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            listen,
            folders: PinnedDir::all(folders)?,
            placed: PinnedDir::placed(folders)?,
            filter: Some(syscalls::filter()?),
            supervisor: Some(fs::File::open(&plan.supervisor)?.into()),
        })
    }

    /// All of them, to be handed over.
    pub fn into_fds(self) -> impl Iterator<Item = OwnedFd> {
        let pinned = self.folders.into_iter().chain(self.placed).map(|pinned| pinned.fd);
        pinned.chain(self.filter).chain(self.supervisor).chain(self.listen)
    }
}

/// What CLI processes are enclosed in.
#[derive(Debug, Clone)]
pub enum Sandbox {
    /// A supervisor each. This is the program that has the supervisor as a subcommand.
    ProcessTree(PathBuf),
    /// Namespaces each.
    Bubblewrap(Arc<MountPlan>),
}

impl Sandbox {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ProcessTree(_) => "process-tree",
            Self::Bubblewrap(_) => "bubblewrap",
        }
    }

    /// Whether sessions are kept from each other's files and processes, and from the
    /// service's own.
    pub fn is_wall(&self) -> bool {
        match self {
            Self::ProcessTree(_) => false,
            Self::Bubblewrap(_) => true,
        }
    }

    /// Whether the death signal does not reach all that there is of it at its start.
    pub fn needs_watch(&self) -> bool {
        match self {
            Self::ProcessTree(_) => false,
            Self::Bubblewrap(_) => true,
        }
    }

    /// The program that has the supervisor as a subcommand, and the watch.
    pub fn program(&self) -> &Path {
        match self {
            Self::ProcessTree(program) => program,
            Self::Bubblewrap(plan) => &plan.supervisor,
        }
    }

    /// File systems in memory that the process of a session has for itself.
    pub fn in_memory(&self, folders: &Folders) -> Vec<PathBuf> {
        match self {
            Self::ProcessTree(_) => Vec::new(),
            Self::Bubblewrap(plan) => {
                let own = folders.in_memory().map(Path::to_owned);
                plan.in_memory().into_iter().chain(own).collect()
            }
        }
    }

    /// Whether sessions have a network of their own, which leads nowhere by itself.
    pub fn has_own_network(&self) -> bool {
        match self {
            Self::ProcessTree(_) => false,
            Self::Bubblewrap(plan) => plan.own_network,
        }
    }

    /// What has to be open for [`Self::enclose`], and inherited by what it starts. On `listen` the
    /// socket is handed over that leads out of a network of its own.
    pub(super) fn open(
        &self,
        command: &LaunchCommand,
        listen: Option<OwnedFd>,
    ) -> io::Result<Open> {
        match self {
            Self::ProcessTree(_) => Ok(Open::default()),
            Self::Bubblewrap(plan) => Open::for_bubblewrap(plan, &command.folders, listen),
        }
    }

    /// The command that runs a CLI enclosed. What runs it says on `announce` what it has
    /// started; it has to inherit that, and what is `open`.
    pub(super) fn enclose(&self, command: &LaunchCommand, open: &Open, announce: RawFd) -> Launch {
        let mut enclosed = match self {
            Self::ProcessTree(program) => {
                let mut enclosed = Launch::new(program, SUPERVISOR_NAME);
                enclosed.args(supervisor_arguments(announce));
                enclosed
            }
            Self::Bubblewrap(plan) => {
                let mut enclosed = Launch::new(&plan.bwrap, mount_plan::BWRAP);
                enclosed.args(argv::arguments(plan, open, &command.folders, announce));
                devices::protect_in(&mut enclosed);
                enclosed
            }
        };
        enclosed.args(["--"]).args([&command.program]).args(&command.args);
        enclosed
    }

    /// What it gets from the kernel when the service dies.
    pub(super) fn death_signal(&self) -> Signal {
        match self {
            Self::ProcessTree(_) => supervisor::END_NOW,
            Self::Bubblewrap(_) => Signal::KILL,
        }
    }
}

/// A pipe on which what encloses a CLI says what it has started: reader and writer.
pub(super) fn announcement() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// What the first process in bubblewrap says when it cannot run the command that it keeps, if
/// that is what it said: the same errors that a start without it has.
pub fn cannot_run(stderr: &str) -> Option<&str> {
    stderr.lines().find(|line| line.starts_with(supervisor::CANNOT_RUN))
}

/// What a supervisor is called by.
const SUPERVISOR_NAME: &str = "session-pool";

/// Its arguments before `--` and the command that it keeps.
fn supervisor_arguments(announce: RawFd) -> [String; 2] {
    [supervisor::SUBCOMMAND.to_owned(), format!("{}{announce}", supervisor::ANNOUNCE)]
}
