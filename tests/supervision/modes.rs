//! How the sandbox is chosen and told of.

use std::process::{Command, Output};

use rustix::process::{Signal, kill_process};
use session_pool::{
    internals::os::procfs::{Look, entry_of, pid},
    proto::GetStatsRequest,
};
use tempfile::TempDir;

use crate::{
    bed::{Bed, MODES},
    support::{eventually, service::query},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");

/// `serve` where no bubblewrap is to be found, until it ends or listens on a bad address.
fn serve_without_bubblewrap(mode: &str) -> Output {
    let (state, empty) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    Command::new(PROGRAM)
        .args(["serve", "--log-format=json", "--listen=192.0.2.1:1", "--set=auth.insecure=true"])
        .arg(format!("--set=cli.sandbox={mode}"))
        .arg("--state-dir")
        .arg(state.path())
        .env("PATH", empty.path())
        .output()
        .expect("it runs")
}

#[test]
fn a_sandbox_that_is_asked_for_and_does_not_work_stops_the_start() {
    let output = serve_without_bubblewrap("bubblewrap");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{told}");
    assert!(told.contains("cli.sandbox: bubblewrap does not work here: bwrap: "), "{told}");
}

#[test]
fn auto_falls_back_where_there_is_no_bubblewrap() {
    let output = serve_without_bubblewrap("auto");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // It has come as far as its address, which is nobody's.
    assert_eq!(output.status.code(), Some(8), "{told}");
    assert!(told.contains("cannot bind 192.0.2.1:1"), "{told}");
    assert!(!told.contains("cli.sandbox"), "{told}");
}

#[tokio::test]
async fn the_sandbox_in_use_is_told() {
    for mode in [MODES[0], MODES[1], "auto"] {
        let bed = Bed::fake(mode, &[]).await;
        // Where bubblewrap works, and it does where these tests run, it comes first.
        let used = if mode == "auto" { "bubblewrap" } else { mode };
        let stats = bed.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
        assert_eq!(stats.expect("answered").into_inner().sandbox, used);
        bed.run(query("a", "hello")).await.result();
        let address = bed.daemon.address.clone();
        let health = tokio::task::spawn_blocking(move || {
            Command::new(PROGRAM).args(["health", "--verbose", "--address", &address]).output()
        });
        let output = health.await.expect("joined").expect("it runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = told.lines().find(|line| line.starts_with("sandbox ")).expect("a line");
        assert_eq!(line.split_whitespace().nth(1), Some(used), "{told}");
        bed.stop().await;
    }
}

/// Children of a process that have ended and that it has not waited for.
fn zombies(pid: u32) -> Vec<u32> {
    let mut children = Look::take().expect("/proc").children(pid);
    children.retain(|child| entry_of(*child).is_some_and(|entry| entry.ended));
    children
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_waits_for_what_falls_to_it() {
    let container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    for (mode, outer) in [(MODES[0], "session-pool keep"), (MODES[1], "bwrap")] {
        let mut bed = Bed::fake_by(&container, mode, &[]).await;
        let first = Look::take().expect("/proc").children(bed.daemon.started())[0];
        for round in 0..3 {
            let mut turn = bed.hang("a", &[]).await;
            // What it had started loses its parent and falls to the first process.
            bed.kill_starting_with(outer);
            bed.gone().await;
            turn.finish().await;
            assert!(turn.end.is_some_and(|end| end.is_err()), "{round} in {mode}");
        }
        eventually("nothing waits to be waited for", async || {
            zombies(first).is_empty().then_some(())
        })
        .await;
        kill_process(pid(first).expect("an id"), Signal::TERM).expect("signalled");
        assert_eq!(bed.daemon.ended().await.code(), Some(0), "{mode}");
        bed.gone().await;
    }
}
