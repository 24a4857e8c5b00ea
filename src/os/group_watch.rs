//! A small process that kills process groups when the service is gone. It is for what encloses a
//! CLI by more than one process: bubblewrap has a child that waits for a word of its own, for ever
//! if bubblewrap is killed before it has said it. The death signal of a process that the service
//! starts is for that process alone; this one reaches whatever that has forked by then.
//!
//! ```text
//! session-pool serve ─▶ session-pool watch-groups
//!                    └▶ bwrap ─▶ bwrap …
//! ```
//!
//! The service writes process groups to the standard input of it, each as four bytes: its number
//! when it begins, which the first process of it does itself before it becomes a program, and the
//! negative number once that process has been waited for. The watch kills what is left of them
//! when its input ends, so when the service does, and ends; signals that ask a process to end are
//! ignored, because the service needs the watch until it has ended itself.
//!
//! Invariants: a number is told from before the group can fork until its first process has been
//! waited for; a watch that somebody has ended is replaced with the next start. Knows nothing of
//! what the groups are. What has left its group is not reached: bubblewrap's child does when it is
//! about to become the CLI's supervisor, and ends then with the CLI, whose input has ended.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use rustix::{
    io::ioctl_fionbio,
    process::{Pid, Signal, getpid, kill_process_group},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{
    launch::{Launch, Prepare as _},
    limits,
};

/// The hidden subcommand of the program, which takes no arguments.
pub const SUBCOMMAND: &str = "watch-groups";

/// Bytes of a number.
const NUMBER: usize = size_of::<i32>();

/// The watch, as the service has it. It ends with the program, or when it and all
/// [`Watched`] are dropped.
#[derive(Debug)]
pub struct GroupWatch {
    process: Child,
    told: Arc<Told>,
}

/// What the watch was told.
#[derive(Debug)]
struct Told {
    /// Whether it is written to the one or to the next watch.
    pipe: Mutex<Arc<OwnedFd>>,
    /// Groups that have not ended, by the order of their starts; 0 before they have begun.
    groups: Mutex<(u64, HashMap<u64, Arc<AtomicI32>>)>,
}

/// A process group that is killed when the service is gone. To be dropped when its first process
/// has been waited for.
#[derive(Debug)]
pub struct Watched {
    told: Arc<Told>,
    key: u64,
    group: Arc<AtomicI32>,
}

impl GroupWatch {
    /// Starts `program`, which has the watch as a subcommand.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (process, pipe) = start(program)?;
        let told = Told { pipe: Mutex::new(pipe), groups: Mutex::default() };
        Ok(Self { process, told: Arc::new(told) })
    }

    /// Starts another one where somebody has ended this, and tells it the groups that there are.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn see_to_it(&mut self, program: &Path) -> io::Result<()> {
        if self.process.try_wait()?.is_none() {
            return Ok(());
        }
        let (process, pipe) = start(program)?;
        self.process = process;
        *lock(&self.told.pipe) = pipe;
        for group in lock(&self.told.groups).1.values() {
            self.told.write(group.load(Ordering::Relaxed));
        }
        Ok(())
    }

    /// Has the process of a program, which leads a group of its own, tell the watch of it.
    #[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
    pub fn watch(&self, program: &mut Launch) -> Watched {
        let group = Arc::<AtomicI32>::default();
        let key = {
            let mut groups = lock(&self.told.groups);
            groups.0 += 1;
            let key = groups.0;
            groups.1.insert(key, Arc::clone(&group));
            key
        };
        let (pipe, begun) = (Arc::clone(&lock(&self.told.pipe)), Arc::clone(&group));
        let tell = move || {
            let number = getpid().as_raw_nonzero().get();
            // The memory is that of the service, which waits meanwhile.
            begun.store(number, Ordering::Relaxed);
            // A watch that is gone or stuck keeps nothing from starting.
            rustix::io::write(&pipe, &number.to_ne_bytes()).ok();
            Ok(())
        };
        // SAFETY: system calls that are safe between fork and exec, no allocation.
        unsafe {
            program.prepare(tell);
        }
        Watched { told: Arc::clone(&self.told), key, group }
    }
}

impl Told {
    /// So few bytes are written to a pipe as a whole or not at all.
    fn write(&self, number: i32) {
        if number != 0 {
            rustix::io::write(&*lock(&self.pipe), &number.to_ne_bytes()).ok();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.told.groups).1.remove(&self.key);
        self.told.write(-self.group.load(Ordering::Relaxed));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(program: &Path) -> io::Result<(Child, Arc<OwnedFd>)> {
    let mut process = Command::new(program)
        .arg0("session-pool")
        .arg(SUBCOMMAND)
        .env_clear()
        // What is sent to the group of the service, such as by a terminal, is not for it.
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pipe = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // A watch that reads no more must not hold up the service.
    ioctl_fionbio(&pipe, true)?;
    Ok((process, Arc::new(pipe.into())))
}

/// Runs the hidden subcommand, to its end.
pub fn run_subcommand() -> ExitCode {
    limits::no_cores();
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default()).ok();
    }
    // Whoever sees the name knows that it is ready.
    rustix::thread::set_name(c"group-watch").ok();
    let groups = left_by(&mut io::stdin().lock());
    // The kernel lets nothing be forked meanwhile: once is enough.
    for group in groups.into_iter().filter(|group| *group > 1).filter_map(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).ok();
    }
    ExitCode::SUCCESS
}

/// Reads to the end which groups begin and end. Returns those that have not ended.
fn left_by(input: &mut impl io::Read) -> HashSet<i32> {
    let (mut groups, mut number) = (HashSet::new(), [0; NUMBER]);
    // Interrupted reads are begun anew by it.
    while input.read_exact(&mut number).is_ok() {
        match i32::from_ne_bytes(number) {
            begun @ 0.. => groups.insert(begun),
            ended => groups.remove(&ended.saturating_neg()),
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_has_ended_is_not_left() {
        let said = [7, 8, -7, 9, -9, 7].map(i32::to_ne_bytes).concat();
        assert_eq!(left_by(&mut &said[..]), HashSet::from([7, 8]));
        // A service that died while it wrote.
        assert_eq!(left_by(&mut &said[..6]), HashSet::from([7]));
    }

    #[test]
    fn a_group_is_told_before_its_program_begins_and_taken_back_once_it_is_dropped() {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let told = Told { pipe: Mutex::new(Arc::new(writer)), groups: Mutex::default() };
        let process = Command::new("true").spawn().expect("started");
        let mut watch = GroupWatch { process, told: Arc::new(told) };
        let mut launch = Launch::new(Path::new("/bin/true"), "true");
        let watched = watch.watch(&mut launch);
        let launched = launch.start().expect("started");
        let pid = launched.pid.as_raw_nonzero().get();
        rustix::process::waitpid(Some(launched.pid), rustix::process::WaitOptions::empty())
            .expect("waited for");
        // One that never begins is not told of.
        drop(watch.watch(&mut Launch::new(Path::new("/bin/true"), "true")));
        drop(watched);
        watch.process.wait().expect("ended");
        drop(watch);
        let mut read = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut read).expect("read");
        assert_eq!(read, [pid, -pid].map(i32::to_ne_bytes).concat());
    }
}
