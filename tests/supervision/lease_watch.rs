//! The watch of a lease alone: what it ends, when, and when it does not. The service is a shell,
//! below which there are processes as CLIs have them; its input is the watch's.

use std::time::Duration;

use rustix::process::Signal;
use session_pool::internals::os::{clock::boot_time, lease_watch::SUBCOMMAND, procfs::Look};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
};

use crate::support::{
    eventually,
    processes::{self, lives, signal, words},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");

const HOUR: Duration = Duration::from_secs(3600);

/// A service with its watch.
struct Watched {
    service: Child,
    deadlines: Option<ChildStdin>,
    mark: TempDir,
}

impl Watched {
    /// One that has started two processes, of which one has left its session and started another,
    /// and the watch.
    async fn start() -> Self {
        let mark = TempDir::new().expect("a folder");
        let script = format!(
            "sleep 1000 & setsid sh -c 'sleep 1000 & wait' & \
             exec 3<&0; {PROGRAM} {SUBCOMMAND} <&3 & wait"
        );
        let mut service = Command::new("sh")
            .args(["-c", &script])
            .env("SESSION_POOL_STATE", mark.path())
            .stdin(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let deadlines = service.stdin.take();
        let watched = Self { service, deadlines, mark };
        eventually("all of it runs", async || {
            (watched.sleepers().len() == 2 && watched.find_watch().is_some()).then_some(())
        })
        .await;
        watched
    }

    fn id(&self) -> u32 {
        self.service.id().expect("it runs")
    }

    fn find_watch(&self) -> Option<u32> {
        let all = processes::of_state(self.mark.path()).into_iter();
        all.filter(|pid| lives(*pid))
            .find(|pid| words(*pid).get(1).is_some_and(|word| word == SUBCOMMAND))
    }

    fn watch(&self) -> u32 {
        self.find_watch().expect("it runs")
    }

    fn sleepers(&self) -> Vec<u32> {
        let mut found = processes::of_state(self.mark.path());
        found.retain(|pid| lives(*pid) && words(*pid) == ["sleep", "1000"]);
        found
    }

    async fn put_forward(&mut self, deadlines: &[Duration]) {
        let bytes: Vec<u8> = deadlines
            .iter()
            .flat_map(|it| u64::try_from(it.as_nanos()).expect("centuries").to_ne_bytes())
            .collect();
        let pipe = self.deadlines.as_mut().expect("open");
        pipe.write_all(&bytes).await.expect("written");
    }

    /// Waits until the timer of the watch is set, so that it has read what was written; or is not
    /// set, so that a deadline has passed.
    async fn is_armed(&self, wanted: bool) {
        let watch = self.watch();
        eventually("its timer is so", async || {
            (3..10).find_map(|fd| {
                let info = std::fs::read_to_string(format!("/proc/{watch}/fdinfo/{fd}")).ok()?;
                let value = info.lines().find_map(|line| line.strip_prefix("it_value: ("))?;
                (value.starts_with("0, 0") != wanted).then_some(())
            })
        })
        .await;
    }

    async fn all_are_ended(&self) {
        let ended = async || self.sleepers().is_empty().then_some(());
        eventually("what it started is ended", ended).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for pid in self.sleepers() {
            signal(pid, Signal::KILL);
        }
    }
}

#[tokio::test]
async fn what_a_stopped_service_has_started_ends_when_its_deadline_has_passed() {
    let mut watched = Watched::start().await;
    signal(watched.id(), Signal::STOP);
    watched.put_forward(&[boot_time() + Duration::from_millis(50)]).await;
    watched.all_are_ended().await;
    assert!(lives(watched.id()), "the service itself is left alone");
    let started = Look::take().expect("/proc").descendants(watched.id(), None);
    assert_eq!(started, [watched.watch()], "the watch goes on");
}

#[tokio::test]
async fn a_deadline_counts_until_there_is_a_later_one() {
    let mut watched = Watched::start().await;
    watched.put_forward(&[Duration::from_nanos(1), boot_time() + HOUR]).await;
    watched.is_armed(true).await;
    assert_eq!(watched.sleepers().len(), 2, "a service that lives keeps what it has");
    watched.put_forward(&[boot_time()]).await;
    watched.all_are_ended().await;
}

#[tokio::test]
async fn it_ends_with_its_service_and_at_nobody_else_s_word() {
    let mut watched = Watched::start().await;
    let watch = watched.watch();
    watched.put_forward(&[boot_time() + HOUR]).await;
    watched.is_armed(true).await;
    for wanted in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        signal(watch, wanted);
    }
    // It reads on, so it has not ended by them.
    watched.put_forward(&[boot_time()]).await;
    watched.all_are_ended().await;
    drop(watched.deadlines.take());
    eventually("it ends", async || (!lives(watch)).then_some(())).await;
}

#[tokio::test]
async fn of_a_service_that_is_gone_it_ends_nothing() {
    let mut watched = Watched::start().await;
    let (watch, sleepers) = (watched.watch(), watched.sleepers());
    watched.put_forward(&[boot_time() + HOUR]).await;
    watched.is_armed(true).await;
    watched.service.kill().await.expect("killed");
    // What had it as a parent may be anybody's child by now.
    watched.put_forward(&[boot_time()]).await;
    watched.is_armed(false).await;
    // It reads on when it has done what it does about a deadline that has passed.
    watched.put_forward(&[boot_time() + HOUR]).await;
    watched.is_armed(true).await;
    assert_eq!(watched.sleepers(), sleepers);
    drop(watched.deadlines.take());
    eventually("it ends", async || (!lives(watch)).then_some(())).await;
    assert_eq!(watched.sleepers(), sleepers);
}
