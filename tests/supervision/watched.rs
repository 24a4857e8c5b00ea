//! A service that is killed while it starts processes. Bubblewrap has a child that waits for its
//! word, and that nobody would end if bubblewrap was killed before it said it.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use session_pool::internals::{
    os::{group_watch::SUBCOMMAND, procfs::Look},
    tasks::spawn_owned,
};

use crate::{
    bed::{Bed, MODES},
    support::{
        eventually,
        processes::{kill, lives, words},
        service::query,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");

/// How often a service is killed. Without the watch some three in a hundred starts were left that
/// way; each time there are several of them.
const ROUNDS: usize = 12;

/// Starts under way at each time.
const STARTS: usize = 16;

#[tokio::test]
async fn kill_9_of_the_service_amid_starts_leaves_nothing() {
    for mode in MODES {
        for round in 0..ROUNDS {
            let mut bed = Bed::fake(mode, &[("POOL__START_CONCURRENCY", "16")]).await;
            // A process that it starts has its command line until it is the program.
            let service = bed.daemon.id();
            let turns: Vec<_> = (0..STARTS)
                .map(|number| {
                    let mut client = bed.daemon.client.clone();
                    spawn_owned(async move {
                        let answer = client.query(query(&number.to_string(), "hello")).await;
                        // Whoever leaves has its turn stopped.
                        if let Ok(mut events) = answer.map(tonic::Response::into_inner) {
                            while let Ok(Some(_)) = events.message().await {}
                        }
                    })
                })
                .collect();
            // One after the other, so that each round meets the starts at another place.
            eventually("some have begun", async || (bed.alive().len() > round).then_some(())).await;
            kill(service);
            bed.daemon.ended().await;
            bed.gone().await;
            for turn in turns {
                turn.await.expect("it does not panic");
            }
        }
    }
}

/// A process group of two, the second of which nobody would end with the first.
fn group() -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & exec sleep 1000"]).process_group(0);
    command.spawn().expect("started")
}

/// The second process of a group.
async fn second(first: u32) -> u32 {
    eventually("it has forked", async || {
        Look::take().expect("/proc").children(first).first().copied()
    })
    .await
}

#[tokio::test]
async fn what_is_left_of_a_service_is_killed_and_nothing_else() {
    let (mut left, mut ended) = (group(), group());
    let (of_left, of_ended) = (second(left.id()).await, second(ended.id()).await);
    let mut watch =
        Command::new(PROGRAM).arg(SUBCOMMAND).stdin(Stdio::piped()).spawn().expect("started");
    let number = |of: &Child| i32::try_from(of.id()).expect("a number");
    let said = [number(&left), number(&ended), -number(&ended), 1, 0].map(i32::to_ne_bytes);
    let mut input = watch.stdin.take().expect("a pipe");
    input.write_all(&said.concat()).expect("written");
    let name = format!("/proc/{}/comm", watch.id());
    eventually("it is ready", async || {
        fs::read_to_string(&name).is_ok_and(|name| name == "group-watch\n").then_some(())
    })
    .await;
    // What asks a process to end is not for it.
    for signal in ["-TERM", "-INT", "-HUP"] {
        Command::new("kill").args([signal, &watch.id().to_string()]).status().expect("sent");
    }
    assert!(lives(of_left));
    drop(input);
    assert!(watch.wait().expect("ended").success());
    left.wait().expect("ended");
    eventually("the end of all of it", async || (!lives(of_left)).then_some(())).await;
    assert!(lives(ended.id()) && lives(of_ended));
    kill(of_ended);
    ended.kill().expect("killed");
    ended.wait().expect("ended");
}

/// The watch of a service.
fn watch_of(bed: &Bed) -> Option<u32> {
    let children = Look::take().expect("/proc").children(bed.daemon.id());
    children
        .into_iter()
        .find(|child| lives(*child) && words(*child).get(1).is_some_and(|word| word == SUBCOMMAND))
}

#[tokio::test]
async fn a_watch_that_somebody_has_ended_is_replaced_and_told_what_there_is() {
    let mut bed = Bed::fake("bubblewrap", &[]).await;
    bed.run(query("a", "hello")).await.result();
    let first = watch_of(&bed).expect("a watch");
    kill(first);
    bed.run(query("b", "hello")).await.result();
    let second = watch_of(&bed).expect("another watch");
    assert_ne!(first, second);
    bed.daemon.kill_service();
    bed.daemon.ended().await;
    bed.gone().await;
    eventually("its end", async || (!lives(second)).then_some(())).await;
}

#[tokio::test]
async fn a_process_tree_needs_no_watch() {
    let bed = Bed::fake("process-tree", &[]).await;
    bed.run(query("a", "hello")).await.result();
    assert_eq!(watch_of(&bed), None);
    bed.stop().await;
}
