//! File descriptors: how many this process may have, what they are enough for, and who
//! inherits them. The soft limit is raised to the hard one at the start; programs that are
//! started get the limit that this process was started with, because some scan all descriptors
//! up to it. What this process inherited itself is passed on to nobody.

use std::{
    fs, io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    sync::OnceLock,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::launch::Prepare;

/// Descriptors of one CLI process: three pipes, a descriptor of the process itself, and,
/// while it starts, its announcement and the folders that are held open for it; and a
/// spilled log for the turn that runs and one that is retained.
const OF_A_PROCESS: u64 = 8;
/// Descriptors that the service itself has: the runtime, database, listeners, watched
/// files, locks, and what is opened for a moment.
const OF_THE_SERVICE: u64 = 96;

/// The limit that this process was started with, once it has been raised.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Keeps descriptors that this process inherited from the programs that it starts: whoever
/// started it may have left a directory open, which would lead past every wall. Standard
/// input, output and error are given to each program anew.
///
/// To be called before anything is opened that is to be inherited.
pub fn keep_to_ourselves() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = number.filter(|fd| *fd > 2) {
            mark(fd)?;
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "an inherited file descriptor is only a number")]
fn mark(fd: RawFd) -> io::Result<()> {
    // SAFETY: it was open a moment ago, and nothing closes it meanwhile: there is one thread.
    // One that is not open any more is an error of the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

/// Raises the soft limit to the hard one. Returns the limit in force.
pub fn raise() -> io::Result<u64> {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    if original.current != original.maximum {
        setrlimit(Resource::Nofile, raised)?;
    }
    ORIGINAL.get_or_init(|| original);
    Ok(limit())
}

/// The limit in force; one that there is not is taken for the largest number.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Gives the process of a command the limit that this process was started with.
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn restore_in(command: &mut impl Prepare) {
    let Some(original) = ORIGINAL.get().copied() else { return };
    let prepare = move || Ok(setrlimit(Resource::Nofile, original)?);
    // SAFETY: one system call that is safe between fork and exec, no allocation.
    unsafe {
        command.prepare(prepare);
    }
}

/// Lets the process of a command, and no other, inherit a file descriptor.
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn hand_over(command: &mut impl Prepare, fd: OwnedFd) {
    let prepare = move || Ok(fcntl_setfd(&fd, FdFlags::empty())?);
    // SAFETY: one system call that is safe between fork and exec, no allocation.
    unsafe {
        command.prepare(prepare);
    }
}

/// How many CLI processes a limit carries beside so many connections.
pub fn processes_carried(limit: u64, connections: u64) -> u64 {
    limit.saturating_sub(OF_THE_SERVICE).saturating_sub(connections) / OF_A_PROCESS
}

/// Connections that a limit has room for: all that are wanted, but not more than half.
pub fn connections_carried(limit: u64, wanted: usize) -> usize {
    let half = limit.saturating_sub(OF_THE_SERVICE) / 2;
    usize::try_from(half).unwrap_or(usize::MAX).clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_limit_carries_connections_and_processes_together() {
        assert_eq!(processes_carried(20_000, 1000), (20_000 - 96 - 1000) / 8);
        assert_eq!(processes_carried(64, 1000), 0);
        assert_eq!(connections_carried(u64::MAX, 1000), 1000);
        assert_eq!(connections_carried(1024, 1000), (1024 - 96) / 2);
        assert_eq!(connections_carried(10, 1000), 1);
    }

    #[test]
    fn c4_a_program_that_is_started_gets_the_original_limit() {
        let before = getrlimit(Resource::Nofile);
        raise().expect("raised");
        assert_eq!(limit(), before.maximum.unwrap_or(u64::MAX));
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn; ulimit -Hn"]);
        restore_in(&mut command);
        let output = command.output().expect("a shell");
        let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
        let wanted = format!("{}\n{}\n", shown(before.current), shown(before.maximum));
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
    }
}
