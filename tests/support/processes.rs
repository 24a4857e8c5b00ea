//! Which processes a service has, found by the mark that it gives them.

use std::{fs, path::Path};

use session_pool::internals::os::procfs::Look;

/// Processes that carry a state folder's mark: CLIs and all that they started, without
/// what encloses them.
pub fn of_state(state: &Path) -> Vec<u32> {
    let mark = format!("SESSION_POOL_STATE={}", state.display());
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has(*pid, mark.as_bytes()) && !is_supervisor(*pid) && !is_bubblewrap(*pid))
        .collect();
    found.sort_unstable();
    found
}

/// The words of a command line.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect()
}

/// The process of the service itself: below the supervisor that was started, if it is one. That says
/// so in the environment of what it keeps. A command line would say less: until it is its program, what
/// a service starts has the service's own.
pub fn service_below(started: u32) -> u32 {
    let kept_by = format!("SESSION_POOL_KEPT={started}:");
    let is_kept = |pid: &u32| has_entry(*pid, |entry| entry.starts_with(kept_by.as_bytes()));
    let children = Look::take().expect("/proc").children(started);
    children.into_iter().find(is_kept).unwrap_or(started)
}

/// Whether a process does nothing but to keep another.
pub fn is_supervisor(pid: u32) -> bool {
    words(pid).get(1).is_some_and(|word| word == "keep")
}

fn is_bubblewrap(pid: u32) -> bool {
    words(pid).first().is_some_and(|word| word == "bwrap")
}

fn has(pid: u32, mark: &[u8]) -> bool {
    has_entry(pid, |entry| entry == mark)
}

/// Whether a process was started with such a variable.
fn has_entry(pid: u32, is_it: impl Fn(&[u8]) -> bool) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(is_it))
}

/// Whether a process lives; a zombie does not.
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(!stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(false)
}

/// Kills a process unless it has ended by itself.
pub fn kill_if_there(pid: u32) {
    let pid = pid.try_into().ok().and_then(rustix::process::Pid::from_raw);
    let signal = rustix::process::Signal::KILL;
    let outcome = rustix::process::kill_process(pid.expect("a process id"), signal);
    assert!(matches!(outcome, Ok(()) | Err(rustix::io::Errno::SRCH)), "{outcome:?}");
}

/// Kills a process.
pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a process a signal.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a process id"));
    rustix::process::kill_process(pid.expect("not 0"), signal).expect("sent");
}
