//! One enclosed CLI: which process it is, how to end it, what its end was.

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::OnceLock, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::Sandbox;
use crate::{
    cli::{command::Folders, outer::readable, usage::InMemory},
    domain::exit::Exit,
    os::{
        killing,
        procfs::{self, Look},
        supervisor,
    },
};

/// How long the kernel may take to end a namespace: 6 to 80 ms were seen.
const COLLAPSE: Duration = Duration::from_secs(1);

/// Signals that end a CLI and that it does not turn into an exit code itself, as it does
/// with SIGTERM (143), SIGINT and SIGHUP: ILL, TRAP, ABRT, BUS, FPE, KILL, SEGV, XCPU,
/// XFSZ, SYS.
const DEADLY: [i32; 10] = [4, 5, 6, 7, 8, 9, 11, 24, 25, 31];

/// An enclosed CLI.
#[derive(Debug)]
pub struct SandboxedProcess {
    /// The supervisor, or bubblewrap: the process that is waited for.
    outer: Pid,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Kept { cli: u32 },
    Namespace { init: u32, handle: AsyncFd<OwnedFd>, cli: OnceLock<u32>, in_memory: Vec<PathBuf> },
}

impl SandboxedProcess {
    /// Makes sense of what was announced about a new process.
    pub fn announced(
        sandbox: &Sandbox,
        folders: &Folders,
        outer: Pid,
        announcement: &str,
    ) -> io::Result<Self> {
        let unclear = || io::Error::other(format!("no announcement: {announcement:?}"));
        let kind = match sandbox {
            Sandbox::ProcessTree(_) => {
                let line = announcement.trim();
                if let Some(code) = line.strip_prefix("error ") {
                    let code = code.parse().map_err(|_| unclear())?;
                    return Err(io::Error::from_raw_os_error(code));
                }
                Kind::Kept { cli: line.parse().map_err(|_| unclear())? }
            }
            Sandbox::Bubblewrap(_) => {
                let info: serde_json::Value =
                    serde_json::from_str(announcement).map_err(|_| unclear())?;
                let init = info["child-pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                let init = init.ok_or_else(unclear)?;
                let pid = procfs::pid(init).ok_or_else(unclear)?;
                let handle = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
                let handle = readable(handle)?;
                let in_memory = sandbox.in_memory(folders);
                Kind::Namespace { init, handle, cli: OnceLock::new(), in_memory }
            }
        };
        Ok(Self { outer, kind })
    }

    /// The process of the CLI itself; `None` if it has not started yet, or has ended.
    pub fn cli(&self) -> Option<u32> {
        match &self.kind {
            Kind::Kept { cli } => Some(*cli),
            Kind::Namespace { init, cli, .. } => cli.get().copied().or_else(|| {
                // The oldest: what has lost its parent in there becomes a child of it, too.
                let found = procfs::first_child(*init)?;
                Some(*cli.get_or_init(|| found))
            }),
        }
    }

    /// The session's own file systems in memory, which are mounted soon after its start.
    pub fn in_memory(&self) -> Vec<InMemory> {
        match &self.kind {
            Kind::Kept { .. } => Vec::new(),
            Kind::Namespace { init, in_memory, .. } => {
                let reached_at =
                    |place: &PathBuf| format!("/proc/{init}/root{}", place.display()).into();
                let own = in_memory.iter();
                own.map(|place| InMemory { place: place.clone(), reached_at: reached_at(place) })
                    .collect()
            }
        }
    }

    /// The process whose descendants are the CLI and all that it started.
    pub fn root(&self) -> u32 {
        self.outer.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks the CLI to end. Only while the outer process has not been waited for.
    pub fn terminate(&self) {
        let target = match &self.kind {
            // It passes the signal on.
            Kind::Kept { .. } => Some(self.outer),
            Kind::Namespace { init, .. } => self
                .cli()
                .filter(|cli| procfs::entry_of(*cli).is_some_and(|entry| entry.parent == *init))
                .and_then(procfs::pid),
        };
        // It may have ended by itself; then there is nothing to signal.
        target.map(|pid| kill_process(pid, Signal::TERM).ok());
    }

    /// Kills all of it. Only while the outer process has not been waited for.
    pub fn kill(&self) {
        match &self.kind {
            Kind::Kept { .. } => {
                kill_process(self.outer, supervisor::END_NOW).ok();
                // One that its session has stopped hears it only when it goes on.
                kill_process(self.outer, Signal::CONT).ok();
            }
            Kind::Namespace { handle, .. } => {
                pidfd_send_signal(handle.get_ref(), Signal::KILL).ok();
                kill_process(self.outer, Signal::KILL).ok();
            }
        }
    }

    /// Kills what did not end by [`Self::kill`], the outer process included. Reads
    /// `/proc`: not for a runtime's own threads.
    pub fn kill_by_descent(root: u32) -> usize {
        let Ok(look) = Look::take() else { return 0 };
        let found: Vec<u32> = look.descendants(root, None).into_iter().chain([root]).collect();
        killing::kill(&look, &found)
    }

    /// Waits until nothing can be left, after the outer process has ended as told, if it has.
    /// Returns whether that is certain: otherwise what is left has to be looked for.
    pub async fn collapsed(&self, outer: Option<Exit>) -> bool {
        match &self.kind {
            // A supervisor that ends by itself ends last. One that was killed was not asked, nor
            // can it be told from one whose CLI was.
            Kind::Kept { .. } => matches!(outer, Some(Exit::Code(_))),
            Kind::Namespace { handle, .. } => {
                // It would end all the same without us; we only wait to see it.
                pidfd_send_signal(handle.get_ref(), Signal::KILL).ok();
                // The kernel ends the first process of a namespace when all others are gone.
                timeout(COLLAPSE, handle.readable()).await.is_ok() && outer.is_some()
            }
        }
    }

    /// How the CLI ended, by how the outer process did.
    pub fn exit(&self, outer: Exit) -> Exit {
        match (&self.kind, outer) {
            (Kind::Namespace { .. }, Exit::Code(code)) => of_bubblewrap(code),
            _ => outer,
        }
    }
}

/// Bubblewrap ends with 128 + N for a command that signal N ended.
fn of_bubblewrap(code: i32) -> Exit {
    match code - 128 {
        signal if DEADLY.contains(&signal) => Exit::Signal(signal),
        _ => Exit::Code(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_bubblewrap_is_a_signal_if_the_cli_would_not_have_chosen_it() {
        assert_eq!(of_bubblewrap(0), Exit::Code(0));
        assert_eq!(of_bubblewrap(1), Exit::Code(1));
        assert_eq!(of_bubblewrap(127), Exit::Code(127));
        assert_eq!(of_bubblewrap(143), Exit::Code(143), "the CLI's own word for SIGTERM");
        assert_eq!(of_bubblewrap(130), Exit::Code(130));
        assert_eq!(of_bubblewrap(137), Exit::Signal(9));
        assert_eq!(of_bubblewrap(134), Exit::Signal(6));
        assert_eq!(of_bubblewrap(139), Exit::Signal(11));
    }
}
