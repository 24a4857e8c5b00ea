//! A full disk: a turn that cannot be kept fails, nothing that was kept is lost, and with
//! room again everything goes on. The disk is a small one in memory that bubblewrap mounts.

use std::{fs, io::Write as _, path::PathBuf};

use session_pool::{
    internals::os::procfs::Look,
    proto::{GetStatsRequest, GetStatsResponse},
};
use tempfile::TempDir;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    second::Second,
    support::{
        daemon::Daemon,
        eventually, failure,
        processes::{lives, words},
        retry_after,
        service::{query, script},
        turn::Turn,
    },
};

/// Bytes of the disk.
const SIZE: &str = "6000000";

struct Bed {
    daemon: Daemon,
    /// The program itself, below bubblewrap.
    service: u32,
    /// The disk, as the program sees it.
    disk: PathBuf,
}

impl Bed {
    async fn start() -> Self {
        let state = TempDir::new().expect("a folder");
        let path = state.path().display().to_string();
        let by = ["bwrap", "--dev-bind", "/", "/", "--size", SIZE, "--tmpfs", &path, "--"];
        let daemon = Daemon::start_by(&by, state, &[]).await;
        let service = innermost(daemon.started());
        let disk = PathBuf::from(format!("/proc/{service}/root{path}"));
        Self { daemon, service, disk }
    }

    async fn run(&self, session: &str, lines: &[&str]) -> Turn {
        let mut turn = self.daemon.open(query(session, &script(lines))).await;
        turn.finish().await;
        turn
    }

    /// What was said so far, a word a turn.
    async fn recite(&self, session: &str) -> Vec<String> {
        let turn = self.run(session, &["recite"]).await;
        let text = turn.result().result.clone();
        text.lines().filter_map(|line| Some(line.rsplit_once("\\nsay ")?.1.to_owned())).collect()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = fs::File::create(self.disk.join("filler")).expect("made");
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.disk.join("filler")).expect("removed");
    }

    async fn stats(&self) -> GetStatsResponse {
        let request = GetStatsRequest::default();
        self.daemon.client.clone().get_stats(request).await.expect("answered").into_inner()
    }

    /// Whether health checks say SERVING.
    async fn serves(&self) -> bool {
        let channel = Channel::from_shared(self.daemon.address.clone()).expect("an address");
        let mut client = HealthClient::new(channel.connect().await.expect("connected"));
        let request = HealthCheckRequest { service: String::new() };
        let answer = client.check(request).await.expect("answered").into_inner();
        answer.status() == ServingStatus::Serving
    }

    /// A process beside the service that has the database open, too.
    fn second(&self) -> Second {
        Second::beside(self.service, &self.daemon.state.path().join("session-pool.db"))
    }

    async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.service.cast_signed()).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        assert_eq!(self.daemon.ended().await.code(), Some(0));
        assert!(!lives(self.service));
    }
}

/// The supervisor of the service, which bubblewrap has started.
fn innermost(started: u32) -> u32 {
    let look = Look::take().expect("/proc");
    let mut pid = started;
    while words(pid).first().is_some_and(|word| word == "bwrap") {
        pid = *look.children(pid).first().expect("bubblewrap has a child");
    }
    pid
}

#[tokio::test]
async fn a_full_disk_fails_turns_and_loses_nothing_that_was_told() {
    let bed = Bed::start().await;
    let mut told = Vec::new();
    for word in ["one", "two", "three"] {
        bed.run("a", &[&format!("say {word}")]).await.result();
        told.push(word.to_owned());
    }
    bed.fill();
    // Some of it may still fit in what the database has room for already.
    let long = "x".repeat(2000);
    let failed = loop {
        let turn = bed.run("a", &[&format!("say {long}")]).await;
        match turn.end {
            Some(Ok(())) => told.push(long.clone()),
            _ => break turn,
        }
        assert!(told.len() < 3000, "the disk is never full");
    };
    failure(failed.error(), Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(retry_after(failed.error()).is_some(), "{:?}", failed.error());
    // A session that begins needs a folder and a record.
    let begun = bed.run("b", &["say begun"]).await;
    failure(begun.error(), Code::Unavailable, "STORE_UNAVAILABLE");

    bed.make_room();
    let again = bed.recite("a").await;
    assert_eq!(again[..told.len()], told, "nothing that was told is lost");
    bed.run("a", &["say four"]).await.result();
    bed.run("b", &["say begun again"]).await.result();
    let now = bed.recite("a").await;
    assert_eq!(now[..told.len()], told);
    assert_eq!(now.last().map(String::as_str), Some("four"));
    bed.stop().await;
}

#[tokio::test]
async fn a1_commits_that_failed_on_a_full_disk_swallow_no_later_ones() {
    let bed = Bed::start().await;
    bed.run("a", &["say first"]).await.result();
    eventually("it serves", async || bed.serves().await.then_some(())).await;
    bed.fill();
    let long = "x".repeat(20_000);
    // Turns end at the same time, so that one transaction has more than one of them.
    for _ in 0..3 {
        let words = format!("say {long}");
        let lines = [words.as_str()];
        let (a, b, c) =
            tokio::join!(bed.run("a", &lines), bed.run("b", &lines), bed.run("c", &lines));
        for turn in [a, b, c] {
            failure(turn.error(), Code::Unavailable, "STORE_UNAVAILABLE");
        }
    }
    eventually("it says so", async || (!bed.serves().await).then_some(())).await;
    let stats = bed.stats().await;
    let store = stats.store.expect("always there");
    assert!(store.failing_since.is_some() && store.reason.contains("full"), "{store:?}");
    assert!(stats.not_ready_reasons[0].starts_with("store: "), "{:?}", stats.not_ready_reasons);

    bed.make_room();
    eventually("well by itself", async || bed.serves().await.then_some(())).await;
    let mut second = bed.second();
    for session in ["a", "b", "c"] {
        for round in 0..3 {
            let word = format!("{session}-{round}");
            bed.run(session, &[&format!("say {word}")]).await.result();
            assert!(second.finds(&word).await, "{word} was told and is not in the file");
        }
    }
    assert_eq!(bed.stats().await.store.expect("there").failing_since, None);
    bed.stop().await;
}
