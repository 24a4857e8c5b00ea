//! The process that encloses a CLI, as whoever waits for its end sees it. Knows nothing of what it
//! encloses.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::ExitStatus,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    signal::unix::{Signal as Signals, SignalKind, signal},
};

use crate::{os::group_watch::Watched, tasks::spawn_owned};

/// A child of this process, which leads a process group and is waited for even if whoever has this
/// drops it before.
#[derive(Debug)]
pub struct Outer {
    pid: Pid,
    /// `None` once it has been waited for.
    news: Option<News>,
    /// The same: its number may be another's then.
    watched: Option<Watched>,
    ended: Option<ExitStatus>,
    /// Whether whoever had it has dropped it before its end.
    is_left: bool,
}

/// What tells that it may have ended.
#[derive(Debug)]
enum News {
    /// A descriptor of the process.
    Handle(AsyncFd<OwnedFd>),
    /// Where the kernel has none: that some child has.
    Signals(Signals),
}

impl News {
    fn of(pid: Pid) -> io::Result<Self> {
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(Errno::NOSYS) => Ok(Self::Signals(signal(SignalKind::child())?)),
            handle => Ok(Self::Handle(readable(handle?)?)),
        }
    }
}

impl Outer {
    /// A process that this one has just started, and that nobody else waits for. Where its end
    /// could not be heard of it is killed.
    pub fn of(pid: Pid, watched: Option<Watched>) -> io::Result<Self> {
        match News::of(pid) {
            Ok(news) => Ok(Self { pid, news: Some(news), watched, ended: None, is_left: false }),
            Err(error) => {
                kill_process_group(pid, Signal::KILL).ok();
                while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
                Err(error)
            }
        }
    }

    /// Which process it is, or was.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Kills it, and what it has forked that has not left its group yet: bubblewrap's child waits
    /// for ever for one that is killed alone at the wrong moment.
    pub fn kill(&self) {
        // Once it has been waited for, its id may be another's.
        if self.ended.is_none() {
            kill_process_group(self.pid, Signal::KILL).ok();
        }
    }

    /// Waits for its end. Cancel safe; the same answer every time.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(ended) = self.try_wait()? {
                return Ok(ended);
            }
            match &mut self.news {
                // Readable from its end on, for as long as anybody likes to look.
                Some(News::Handle(handle)) => handle.readable().await?.retain_ready(),
                Some(News::Signals(signals)) => drop(signals.recv().await),
                None => return Err(Errno::CHILD.into()),
            }
        }
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)?
        {
            self.ended = Some(ExitStatus::from_raw(status.as_raw()));
            (self.news, self.watched) = (None, None);
        }
        Ok(self.ended)
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        let Ok(None) = self.try_wait() else { return };
        // What ends after this program is nobody's to wait for: the watch sees to it. A runtime that
        // has ended drops a task when it is given it, and this with it, again and again.
        if self.is_left || Handle::try_current().is_err() {
            return std::mem::forget(self.watched.take());
        }
        let (pid, news, watched) = (self.pid, self.news.take(), self.watched.take());
        let mut left = Self { pid, news, watched, ended: None, is_left: true };
        drop(spawn_owned(async move { drop(left.wait().await) }));
    }
}

/// A descriptor that is to be heard of when it can be read.
#[expect(unsafe_code, reason = "the runtime asks that the file stays the same one")]
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its number until it is dropped, and nobody replaces this.
    unsafe { Ok(AsyncFd::register_with_interest(fd, Interest::READABLE)?) }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt as _,
        process::{Command, Stdio},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;
    use crate::os::procfs;

    fn started(script: &str) -> Outer {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).process_group(0);
        let id = command.spawn().expect("started").id();
        Outer::of(procfs::pid(id).expect("an id"), None).expect("a handle")
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_heard_of_and_told_again() {
        let mut outer = started("sleep 0.05; exit 3");
        // Given up, a wait takes nothing from the next one.
        assert!(timeout(Duration::from_millis(1), outer.wait()).await.is_err());
        for _ in 0..2 {
            assert_eq!(outer.wait().await.expect("ended").code(), Some(3));
        }
        let mut outer = started("exec sleep 100");
        outer.kill();
        assert_eq!(outer.wait().await.expect("ended").signal(), Some(9));
    }

    #[tokio::test]
    async fn what_it_has_forked_is_killed_with_it() {
        let mut outer = started("sleep 100 & exec sleep 100");
        let id = outer.pid().as_raw_nonzero().get().unsigned_abs();
        let forked = loop {
            if let Some(forked) = procfs::first_child(id) {
                break forked;
            }
            tokio::task::yield_now().await;
        };
        outer.kill();
        assert_eq!(outer.wait().await.expect("ended").signal(), Some(9));
        while !procfs::has_ended(forked) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn one_that_outlives_its_runtime_is_left_alone() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let outer = runtime.block_on(async { started("exec sleep 100") });
        let (pid, handle) = (outer.pid(), runtime.handle().clone());
        runtime.shutdown_timeout(Duration::from_secs(10));
        let _entered = handle.enter();
        drop(outer);
        kill_process_group(pid, Signal::KILL).expect("it lives");
        waitpid(Some(pid), WaitOptions::empty()).expect("nobody else has waited for it");
    }

    #[tokio::test]
    async fn without_descriptors_of_processes_signals_tell() {
        let mut outer = started("sleep 0.05; exit 4");
        outer.news = Some(News::Signals(signal(SignalKind::child()).expect("signals")));
        assert_eq!(outer.wait().await.expect("ended").code(), Some(4));
    }

    #[tokio::test]
    async fn a_process_that_nobody_wants_to_know_of_is_no_zombie() {
        let outer = started("exec sleep 100");
        let pid = outer.pid();
        outer.kill();
        drop(outer);
        let id = pid.as_raw_nonzero().get().unsigned_abs();
        while procfs::entry_of(id).is_some() {
            tokio::task::yield_now().await;
        }
    }
}
