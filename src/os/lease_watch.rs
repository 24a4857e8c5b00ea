//! A small process that ends whatever the service has started when the service does not prove in
//! time that its lease still holds. It is for a service that cannot do that itself: one that is
//! stopped, swapped out or stuck, while others take its sessions over.
//!
//! ```text
//! session-pool serve ─▶ session-pool watch-lease
//!                    └▶ supervisor ─▶ claude …
//! ```
//!
//! The service writes deadlines to the standard input of it, each as eight bytes: nanoseconds of
//! the clock that goes on while the machine is suspended (`CLOCK_BOOTTIME`). When a deadline has
//! passed and no later one has come, every descendant of the service but the watch itself is
//! killed, once; the next deadline arms the watch again. It ends when the service has closed its
//! input, so also when the service is gone; signals that ask a process to end are ignored, because
//! the service needs the watch until it has ended itself.
//!
//! Invariant: whoever keeps a deadline that is earlier than the end of its lease has no process
//! that outlives the lease, unless the watch is stopped as well. Knows nothing of leases, stores
//! and sessions.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    process::{Pid, getpid, getppid},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{killing, limits, procfs::Look};

/// The hidden subcommand of the program, which takes no arguments.
pub const SUBCOMMAND: &str = "watch-lease";

/// Bytes of a deadline.
const DEADLINE: usize = size_of::<u64>();

/// Deadlines that are read at once. Only the last one counts.
const AT_ONCE: usize = 64;

/// Between two looks for what is left to be killed.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The watch, as the service has it. Dropping this ends it.
#[derive(Debug)]
pub struct LeaseWatch {
    process: Child,
    deadlines: Option<ChildStdin>,
}

impl LeaseWatch {
    /// Starts `program`, which has the watch as a subcommand, with this first deadline.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(program: &Path, deadline: Duration) -> io::Result<Self> {
        let mut process = Command::new(program)
            .arg0("session-pool")
            .arg(SUBCOMMAND)
            .env_clear()
            // What is sent to the group of the service, such as by a terminal, is not for it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let deadlines = process.stdin.take();
        let mut watch = Self { process, deadlines };
        if let Some(pipe) = &watch.deadlines {
            // A watch that reads no more must not hold up the service.
            ioctl_fionbio(pipe, true)?;
        }
        watch.put_forward(deadline)?;
        Ok(watch)
    }

    /// Gives it a later deadline.
    ///
    /// # Errors
    ///
    /// It is gone, or reads no more: another one has to be started.
    pub fn put_forward(&mut self, deadline: Duration) -> io::Result<()> {
        let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        // So few bytes are written to a pipe as a whole or not at all.
        let pipe = self.deadlines.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(&nanoseconds.to_ne_bytes())
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        drop(self.deadlines.take());
        // It may be stopped, and so not see that its input has ended.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Runs the hidden subcommand, to its end.
pub fn run_subcommand() -> ExitCode {
    rustix::thread::set_name(c"lease-watch").ok();
    limits::no_cores();
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default()).ok();
    }
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits for deadlines, and for them to pass.
fn watch() -> io::Result<()> {
    let service = getppid();
    let mut deadlines = io::stdin().lock();
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
    loop {
        let mut ready =
            [PollFd::new(&deadlines, PollFlags::IN), PollFd::new(&timer, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            done => done?,
        };
        let [told, passed] = ready.map(|it| !it.revents().is_empty());
        // A deadline that has come too late for the last one still counts: the service lives, and
        // sees to its processes itself.
        if told {
            let Some(deadline) = last_of(&mut deadlines)? else { return Ok(()) };
            let once_at = |it_value| Itimerspec { it_interval: Timespec::default(), it_value };
            timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once_at(timespec(deadline)))?;
        } else if passed {
            // Not again before there is another one.
            let never =
                Itimerspec { it_interval: Timespec::default(), it_value: Timespec::default() };
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &never)?;
            end_what_it_started(service, &deadlines)?;
        }
    }
}

/// The last deadline that has been written; `None` if the service has closed its end.
fn last_of(deadlines: &mut io::StdinLock<'_>) -> io::Result<Option<Duration>> {
    // Each was written as a whole, so a multiple of their size is read.
    let mut read = [0; DEADLINE * AT_ONCE];
    let count = loop {
        match rustix::io::read(deadlines.as_fd(), &mut read) {
            Err(Errno::INTR) => {}
            done => break done?,
        }
    };
    let last = read[..count].chunks_exact(DEADLINE).next_back();
    let last = last.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    Ok(last.map(Duration::from_nanos))
}

fn timespec(deadline: Duration) -> Timespec {
    Timespec {
        tv_sec: deadline.as_secs().try_into().unwrap_or(i64::MAX),
        // One of all zeroes would disarm the timer.
        tv_nsec: deadline.subsec_nanos().max(1).into(),
    }
}

/// Kills until nothing is left that can be killed, the service is gone, or it writes again: then
/// it sees to its processes itself, and starts others.
fn end_what_it_started(service: Option<Pid>, deadlines: &io::StdinLock<'_>) -> io::Result<()> {
    let Some(service) = service else { return Ok(()) };
    let id = |pid: Pid| pid.as_raw_nonzero().get().unsigned_abs();
    let myself = id(getpid());
    while getppid() == Some(service) {
        let look = Look::take()?;
        let found = look.descendants(id(service), Some(myself));
        // After the look: what is started from now on is not in it.
        let mut writes = [PollFd::new(deadlines, PollFlags::IN)];
        if poll(&mut writes, Some(&Timespec::default())) != Ok(0) {
            return Ok(());
        }
        if killing::kill(&look, &found) == 0 {
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
