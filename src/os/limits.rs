//! Limits that the kernel holds a program and its descendants to.
//!
//! What it counts for a user it counts for the user in each user namespace as well, since Linux
//! 5.14: a limit that is set in a namespace of its own bounds what is in there, and nothing else
//! of that user. To user 0 of the machine most of these limits do not apply.

use std::{fs, io};

use super::launch::Prepare;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Signals that wait, and timers, of one namespace.
const SIGNALS: u64 = 8192;

/// Bytes in POSIX message queues of one namespace: two of the default size.
const QUEUES: u64 = 200 << 10;

/// The first Linux that counts for each user namespace.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);

/// Whether the kernel counts what a user has for each user namespace.
pub fn counts_by_namespace() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|found| found >= COUNTS_BY_NAMESPACE)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Lets nothing that this process starts leave a core: it would hold what the program had in
/// its memory, such as credentials, in the directory that it worked in.
pub fn no_cores() {
    lower(Resource::Core, 0).ok();
}

/// Bounds the user namespace that this process is in, by limits that all who descend from it
/// inherit: processes and threads to `tasks`, if given, and what else the kernel counts so.
pub fn bound_namespace(tasks: Option<u64>) -> io::Result<()> {
    if let Some(tasks) = tasks {
        lower(Resource::Nproc, tasks)?;
    }
    lower(Resource::Sigpending, SIGNALS)?;
    lower(Resource::Msgqueue, QUEUES)
}

/// Limits of each process by itself, which all who descend from it inherit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfEach {
    /// Bytes of a file that it writes to; a program that goes on gets SIGXFSZ.
    pub file_bytes: Option<u64>,
    /// Files, sockets and the like that it has open.
    pub open_files: Option<u64>,
}

/// Holds the process of a command, and all that it starts, to these limits.
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn lower_in(command: &mut impl Prepare, limits: OfEach) {
    let all = [(Resource::Fsize, limits.file_bytes), (Resource::Nofile, limits.open_files)];
    let prepare = move || {
        all.iter().try_for_each(|(resource, limit)| limit.map_or(Ok(()), |it| lower(*resource, it)))
    };
    // SAFETY: system calls that are safe between fork and exec, no allocation.
    unsafe {
        command.prepare(prepare);
    }
}

/// Lowers a limit for good; one that is lower already stays.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(resource);
    let lowered = |old: Option<u64>| Some(old.map_or(limit, |old| old.min(limit)));
    Ok(setrlimit(resource, Rlimit { current: lowered(current), maximum: lowered(maximum) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b2_a_kernel_that_counts_by_namespace_is_told_by_its_release() {
        for (release, wanted) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.14.0-362.el9.x86_64", Some((5, 14))),
            ("5.4.0", Some((5, 4))),
            ("4.4.0", Some((4, 4))),
            ("6.1", Some((6, 1))),
            ("", None),
            ("unknown", None),
        ] {
            assert_eq!(version(release), wanted, "{release}");
        }
        assert!((5, 14) >= COUNTS_BY_NAMESPACE && (5, 4) < COUNTS_BY_NAMESPACE);
    }
}
