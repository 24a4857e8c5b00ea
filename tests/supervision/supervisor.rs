//! The supervisor alone, without a service and without a CLI: what it does for its child, what it
//! hands on, and what is left when it ends. Children are shells.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command as StdCommand, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use session_pool::internals::os::{
    procfs::entry_of,
    supervisor::{ANNOUNCE, END_NOW, SUBCOMMAND, bind_to_parent},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::support::{
    eventually,
    processes::{self, lives, signal, words},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");

/// How long anything may take on a busy machine.
const LIMIT: Duration = crate::support::PATIENCE;

/// A supervisor, started as the service starts it, with a shell as its child.
struct Kept {
    supervisor: Child,
    /// What the child and all that descends from it have in their environments.
    mark: TempDir,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    announcements: Lines<BufReader<ChildStderr>>,
}

/// A supervisor of a program, not started yet. It announces on stderr, of which it has another
/// descriptor for that. It is deaf to no signal, also where the tests run behind a shell's `&` and
/// are deaf to SIGINT and SIGQUIT.
fn command(mark: &TempDir, program: &[&str]) -> StdCommand {
    let mut command = StdCommand::new("env");
    command
        .args([
            "--default-signal",
            "sh",
            "-c",
            &format!("exec {PROGRAM} {SUBCOMMAND} {ANNOUNCE}9 -- \"$@\" 9>&2"),
            "sh",
        ])
        .args(program)
        .env("SESSION_POOL_STATE", mark.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Kept {
    fn start(program: &[&str]) -> Self {
        let mark = TempDir::new().expect("a folder");
        let command = command(&mark, program);
        let mut supervisor = Command::from(command).kill_on_drop(true).spawn().expect("started");
        let input = supervisor.stdin.take();
        let output = supervisor.stdout.take().expect("a pipe");
        let announcements = supervisor.stderr.take().expect("a pipe");
        Self {
            supervisor,
            mark,
            input,
            output: BufReader::new(output).lines(),
            announcements: BufReader::new(announcements).lines(),
        }
    }

    /// A supervisor of a shell that does this, and says `ready` before it waits.
    async fn shell(script: &str) -> Self {
        let mut kept = Self::start(&["sh", "-c", script]);
        assert_eq!(kept.line().await.as_deref(), Some("ready"), "{script}");
        kept
    }

    /// The next line that the child prints; `None` at its end.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(LIMIT, self.output.next_line()).await;
        line.expect("in time").expect("text")
    }

    /// What a child reads that waits in `read`.
    async fn go_on(&mut self) {
        let input = self.input.as_mut().expect("a pipe");
        input.write_all(b"\n").await.expect("written");
    }

    /// What the supervisor says of its start.
    async fn announced(&mut self) -> String {
        let line = timeout(LIMIT, self.announcements.next_line()).await;
        line.expect("in time").expect("text").expect("an announcement")
    }

    fn id(&self) -> u32 {
        self.supervisor.id().expect("it runs")
    }

    fn signal(&self, wanted: Signal) {
        signal(self.id(), wanted);
    }

    /// What lives of the child and all that descends from it.
    fn alive(&self) -> Vec<u32> {
        let mut found = processes::of_state(self.mark.path());
        found.retain(|pid| lives(*pid));
        found
    }

    /// A process of these words below the supervisor.
    async fn process(&self, wanted: &[&str]) -> u32 {
        eventually("a process", async || self.alive().into_iter().find(|pid| words(*pid) == wanted))
            .await
    }

    /// How the supervisor ended. Nothing is left then: it was the last to end.
    async fn ended(mut self) -> ExitStatus {
        let ended = timeout(LIMIT, self.supervisor.wait()).await;
        let status = ended.expect("in time").expect("waited for");
        assert_eq!(self.alive(), [0; 0], "the supervisor ended before what it keeps");
        status
    }
}

#[tokio::test]
async fn it_says_which_process_it_keeps_and_ends_with_its_exit_code() {
    for code in [0, 3, 255] {
        let mut kept = Kept::start(&["sh", "-c", &format!("echo $$; exit {code}")]);
        let child = kept.line().await.expect("its id");
        assert_eq!(kept.announced().await, child);
        assert_eq!(kept.ended().await.code(), Some(code));
    }
}

#[tokio::test]
async fn it_ends_by_the_signal_that_ended_its_child() {
    for name in ["TERM", "KILL", "ABRT"] {
        let kept = Kept::start(&["sh", "-c", &format!("kill -{name} $$")]);
        let status = kept.ended().await;
        let wanted = match name {
            "TERM" => Signal::TERM,
            "KILL" => Signal::KILL,
            _ => Signal::ABORT,
        };
        assert_eq!(status.signal(), Some(wanted.as_raw()), "{name}");
        assert!(!status.core_dumped(), "a core would be of the wrong program");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_told_with_the_reason() {
    let file = TempDir::new().expect("a folder");
    let folder = file.path().display().to_string();
    for (program, reason) in [("/no/such/program", "error 2"), (folder.as_str(), "error 13")] {
        let mut kept = Kept::start(&[program]);
        assert_eq!(kept.announced().await, reason, "{program}");
        assert_eq!(kept.ended().await.code(), Some(127));
    }
}

#[tokio::test]
async fn what_it_is_not_told_to_do_it_does_not_begin() {
    for arguments in [
        &[][..],
        &["--announce=3"],
        &["--announce=3", "--"],
        // The first three are the child's.
        &["--announce=2", "--", "true"],
        &["--announce=x", "--", "true"],
        &["--first=many", "--", "true"],
        &["--other", "--", "true"],
    ] {
        let status = Command::new(PROGRAM).arg(SUBCOMMAND).args(arguments).status().await;
        assert_eq!(status.expect("ran").code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn signals_are_its_child_s() {
    for wanted in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR2] {
        let kept = Kept::shell(
            "for name in TERM INT HUP QUIT USR2; do trap \"exit 33\" $name; done
             sleep 1000 & echo ready; wait",
        )
        .await;
        kept.signal(wanted);
        assert_eq!(kept.ended().await.code(), Some(33), "{wanted:?}");
    }
}

#[tokio::test]
async fn a_signal_that_its_child_survives_does_not_end_it() {
    let script = "trap heard=yes TERM; echo ready
        until [ \"$heard\" ]; do sleep 0.01; done
        echo heard; read line; exit 5";
    let mut kept = Kept::shell(script).await;
    kept.signal(Signal::TERM);
    assert_eq!(kept.line().await.as_deref(), Some("heard"));
    kept.go_on().await;
    assert_eq!(kept.ended().await.code(), Some(5));
}

#[tokio::test]
async fn a_signal_that_it_was_started_deaf_to_stays_without_effect() {
    let script = format!("trap '' HUP; exec {PROGRAM} {SUBCOMMAND} {ANNOUNCE}9 -- sleep 1000 9>&1");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut supervisor = command.spawn().expect("started");
    let mut lines = BufReader::new(supervisor.stdout.take().expect("a pipe")).lines();
    let child = timeout(LIMIT, lines.next_line()).await.expect("in time").expect("text");
    let child: u32 = child.expect("an announcement").parse().expect("an id");
    let id = supervisor.id().expect("it runs");
    signal(id, Signal::HUP);
    signal(id, Signal::TERM);
    let status = timeout(LIMIT, supervisor.wait()).await.expect("in time").expect("waited for");
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "and not of SIGHUP");
    assert!(!lives(child));
}

#[tokio::test]
async fn what_its_child_leaves_lives_as_long_as_the_child() {
    let mut kept = Kept::shell("(setsid sleep 1000 &); echo ready; read line; exit 4").await;
    let stray = kept.process(&["sleep", "1000"]).await;
    eventually("it falls to the supervisor", async || {
        (entry_of(stray)?.parent == kept.id()).then_some(())
    })
    .await;
    kept.go_on().await;
    assert_eq!(kept.ended().await.code(), Some(4));
    assert!(!lives(stray));
}

#[tokio::test]
async fn a_daemon_that_forked_twice_does_not_outlive_its_child() {
    // Each fork has a session of its own, and whoever made it is gone.
    let last = r#"trap "" TERM HUP INT; echo $$; sleep 1000"#;
    let script =
        "setsid sh -c 'setsid sh -c \"$1\" sh \"$1\" & exit' sh \"$1\" & read line; exit 6";
    let mut kept = Kept::start(&["sh", "-c", script, "sh", last]);
    let daemon: u32 = kept.line().await.expect("its id").parse().expect("an id");
    eventually("it falls to the supervisor", async || {
        (entry_of(daemon)?.parent == kept.id()).then_some(())
    })
    .await;
    kept.go_on().await;
    assert_eq!(kept.ended().await.code(), Some(6));
    assert!(!lives(daemon));
}

#[tokio::test]
async fn what_hides_its_environment_and_its_group_is_ended_too() {
    let mut kept =
        Kept::start(&["sh", "-c", "(env -i setsid sh -c 'echo $$; exec sleep 1000' &); read line"]);
    let stray: u32 = kept.line().await.expect("its id").parse().expect("an id");
    assert!(lives(stray) && !kept.alive().contains(&stray));
    kept.go_on().await;
    kept.ended().await;
    assert!(!lives(stray));
}

#[tokio::test]
async fn when_it_is_told_to_end_everything_it_does_so_at_once() {
    let script = "trap '' TERM HUP INT; (setsid sleep 1000 &); sleep 1000 & echo ready; wait";
    let kept = Kept::shell(script).await;
    kept.signal(END_NOW);
    assert_eq!(kept.ended().await.signal(), Some(Signal::KILL.as_raw()));
}

#[tokio::test]
async fn when_whoever_started_it_is_gone_it_ends_everything() {
    let mark = TempDir::new().expect("a folder");
    let script = "trap '' TERM HUP INT; (setsid sleep 1000 &); sleep 1000 & echo ready; wait";
    let mut command = command(&mark, &["sh", "-c", script]);
    // To the kernel a parent is the thread that forked.
    let (started, supervisor) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let parent = thread::spawn(move || {
        bind_to_parent(&mut command, END_NOW);
        started.send(command.spawn().expect("started")).expect("heard");
        ended.recv().ok();
    });
    let mut supervisor = supervisor.recv().expect("started");
    let alive = || {
        let mut found = processes::of_state(mark.path());
        found.retain(|pid| lives(*pid));
        found
    };
    // The shell and both that it started.
    eventually("all are there", async || (alive().len() == 3).then_some(())).await;
    drop(end);
    parent.join().expect("no panic");
    let status = eventually("its end", async || supervisor.try_wait().expect("asked")).await;
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(alive(), [0; 0]);
}

#[tokio::test]
async fn its_child_dies_with_it() {
    let kept = Kept::shell("trap '' TERM HUP INT; echo ready; read line").await;
    let child = kept.alive();
    assert_eq!(child.len(), 1);
    kept.signal(Signal::KILL);
    eventually("the end of its child", async || (!lives(child[0])).then_some(())).await;
    assert_eq!(kept.ended().await.signal(), Some(Signal::KILL.as_raw()));
}

#[tokio::test]
async fn it_holds_no_pipe_of_its_child() {
    let mut kept = Kept::start(&["sh", "-c", "echo ready; exec sleep 1000 >/dev/null 2>&1"]);
    assert_eq!(kept.line().await.as_deref(), Some("ready"));
    assert_eq!(kept.line().await, None, "nobody has the other end any more");
    kept.announced().await;
    let rest = timeout(LIMIT, kept.announcements.next_line()).await;
    assert_eq!(rest.expect("in time").expect("text"), None, "nor that of its announcements");
    assert!(lives(kept.id()) && kept.alive().len() == 1);
    kept.signal(END_NOW);
    kept.ended().await;
}
