//! A small process that holds one child and answers for everything that descends from
//! it. Knows processes and signals; nothing of the service, of sessions or of the CLI.
//!
//! ```text
//! supervisor ─▶ session-pool serve ─▶ supervisor ─▶ claude ─▶ its shells, and what is left
//!                                  └▶ bwrap ─▶ supervisor --first ─▶ claude …
//! ```
//!
//! In the sandbox `bubblewrap` it is the first process of the session's namespace, which nothing
//! in there can look into or change.
//!
//! A supervisor is a subreaper: what loses its parent below it becomes its child, whatever
//! session or group or environment it gave itself. When the supervisor's child has ended, or
//! [`END_NOW`] comes, it kills whatever descends from it until nothing is left, and then
//! ends as its child ended. Whether anything is left is not a matter of looking: a process that
//! adopts whatever loses its parent has descendants exactly while it has children, and the kernel
//! says whether it has. The child itself is killed by the kernel when its supervisor dies.
//! Every other signal that asks a process to end or to do something is passed on to the
//! child. There are no threads, and no waiting but for signals.

mod ending;
mod start;

use std::{io, process::Command, time::Duration};

use tokio::time::Instant;

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process, wait},
};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};

pub use ending::Ending;
pub use start::{
    ANNOUNCE, CANNOT_RUN, FIRST, LISTEN, SUBCOMMAND, bind_to_parent, kept_as, mark_as_kept,
    run_subcommand,
};

use crate::os::{
    killing,
    procfs::{self, Look},
};

/// The signal that has a supervisor kill everything at once. It is also what a session's
/// supervisor gets from the kernel when the service dies.
pub const END_NOW: Signal = Signal::USR1;

/// What is passed on to the child.
const PASSED_ON: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2];

/// How long strays are killed before signals are heard again. Those that are left are
/// found when the next of them ends.
const KILLING: Duration = Duration::from_millis(100);

/// The wait before looking again for what cannot be found yet.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What becomes of a process that lost its parent and fell to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strays {
    /// It lives on, as it would without a supervisor, until the child ends.
    Live,
    /// It is killed: whoever was responsible for it is gone.
    Die,
}

/// A child and what is known of its end.
#[derive(Debug)]
struct Supervisor {
    child: Pid,
    ended: Option<Ending>,
}

/// Starts a command and keeps it to its end. `started` is called with its process id.
///
/// Before anything is started, it is made sure that descendants can be found and will
/// fall to this process: an error is that they cannot, or that the command cannot start.
pub fn keep(
    command: &mut Command,
    strays: Strays,
    started: impl FnOnce(u32),
) -> io::Result<Ending> {
    rustix::process::set_child_subreaper(Some(getpid()))?;
    // Its own entry tells as much as a look at all of them, which takes the longer the more
    // sessions there are.
    if procfs::has_ended(std::process::id()) {
        return Err(io::Error::other("/proc does not show processes"));
    }
    let ignored = ignored_signals();
    let taken = PASSED_ON.into_iter().filter(|signal| !ignored.contains(signal));
    // Taken before there is a child: none of its signals is lost.
    let mut signals = Signals::new(taken.chain([SIGCHLD, SIGUSR1]))?;
    let child = start::spawn(command)?;
    started(child.as_raw_nonzero().get().unsigned_abs());
    let mut supervisor = Supervisor { child, ended: None };
    for signal in signals.forever() {
        match signal {
            SIGCHLD => {
                let adopted = supervisor.reap();
                if supervisor.ended.is_none() && adopted && strays == Strays::Die {
                    supervisor.kill_all(Some(child));
                }
            }
            SIGUSR1 => supervisor.kill_all(None),
            signal => supervisor.pass_on(signal),
        }
        if let Some(ending) = supervisor.ended {
            supervisor.kill_all(None);
            return Ok(ending);
        }
    }
    Err(io::Error::other("no signals any more"))
}

impl Supervisor {
    fn pass_on(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // Once it has been waited for, this is not called any more.
            kill_process(self.child, signal).ok();
        }
    }

    /// Whether nothing descends from here, not even what has ended: that is waited for.
    fn has_no_children(&mut self) -> bool {
        loop {
            match self.wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(error) => return error == Errno::CHILD,
            }
        }
    }

    /// Waits for what has ended already. Returns whether something else than the child had.
    fn reap(&mut self) -> bool {
        let mut adopted = false;
        while let Ok(Some(pid)) = self.wait(WaitOptions::NOHANG) {
            adopted |= pid != self.child;
        }
        adopted
    }

    fn wait(&mut self, options: WaitOptions) -> rustix::io::Result<Option<Pid>> {
        let ended = wait(options)?;
        if let Some((pid, status)) = ended
            && pid == self.child
        {
            self.ended = Some(Ending::from(status));
        }
        Ok(ended.map(|(pid, _)| pid))
    }

    /// Kills and waits for everything that descends from here, until nothing is left; or
    /// everything but a child and its own descendants, for a while: whatever forks as fast as
    /// it is killed must not keep signals from that child.
    fn kill_all(&mut self, spared: Option<Pid>) {
        let spared = spared.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let began = Instant::now();
        while spared.is_none() || began.elapsed() < KILLING {
            // Nobody is looked for where the kernel says that there is nobody.
            if self.has_no_children() {
                return;
            }
            let Ok(look) = Look::take() else { return };
            let found = look.descendants(std::process::id(), spared);
            let killed = killing::kill(&look, &found);
            if killed == 0 && !found.is_empty() {
                // They run as somebody else: not ours to end.
                return;
            }
            // Whatever was killed ends, and what falls to us by that is seen in the next
            // round. With nothing killed there are at most zombies to wait for.
            let options = if killed > 0 { WaitOptions::empty() } else { WaitOptions::NOHANG };
            match self.wait(options) {
                Ok(Some(_)) => drop(self.reap()),
                Err(Errno::INTR) => {}
                // Something came to us just now, and is found by looking again.
                Ok(None) if spared.is_none() => std::thread::sleep(LOOK_AGAIN),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// Signals that we were started with being deaf to, such as SIGHUP under `nohup`.
fn ignored_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).filter(|signal| mask & (1 << (signal - 1)) != 0).collect()
}
