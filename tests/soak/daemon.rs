//! The service as a process of its own, so that what it holds can be seen from outside.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use session_pool::{
    internals::os::procfs::Look,
    proto::{
        CloseSessionRequest, GetStatsRequest, GetStatsResponse, ListSessionsRequest,
        session_pool_service_client::SessionPoolServiceClient as Client,
    },
};
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use tonic::transport::Channel;

use crate::{
    second::Second,
    support::{eventually, processes},
};

const SERVICE: &str = env!("CARGO_BIN_EXE_session-pool");
const FAKE: &str = env!("CARGO_BIN_EXE_fake-claude");

/// Processes that are kept ready. They are there at rest, too.
const SPARES: u32 = 2;

/// What the names of the database's files begin with.
const DATABASE: &str = "/session-pool.db";

/// Bytes of the disk of a service under faults.
const SMALL_DISK: &str = "192000000";

/// What lets the wall clock of one process jump. Debian's package is `faketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What the CLIs are enclosed in.
fn sandbox() -> String {
    std::env::var("SESSION_POOL_SOAK_SANDBOX").unwrap_or_else(|_| "process-tree".into())
}

/// A running service.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    address: String,
    state: TempDir,
    clock: Option<Clock>,
    control: Client<Channel>,
    _log: tokio::task::JoinHandle<()>,
}

/// The wall clock of a service, as far as it is off: the file that libfaketime reads.
#[derive(Debug, Clone)]
pub struct Clock(Arc<NamedTempFile>);

impl Clock {
    /// Sets it off by so much: `+31d`, `-2h`, `+0`.
    pub fn set(&self, offset: &str) {
        std::fs::write(self.0.path(), offset).expect("written");
    }
}

/// What the service holds while nobody asks anything of it.
#[derive(Debug, Clone, Copy)]
pub struct Vitals {
    /// Descriptors, but for those of the database.
    pub files: usize,
    /// Descriptors of the database. While a process holds a lock on a file, SQLite does not close
    /// the descriptors of connections that have ended, but gives them to the next ones: there are
    /// as many as connections have been open at once.
    pub of_database: usize,
    pub threads: usize,
    pub tasks: u64,
    pub resident: u64,
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, of_database, threads, tasks, resident } = self;
        let mib = resident >> 20;
        write!(
            f,
            "{files} files, {of_database} of the database, {threads} threads, {tasks} tasks, \
             {mib} MiB resident"
        )
    }
}

impl Daemon {
    pub async fn start() -> Self {
        let state = TempDir::new().expect("a folder");
        Self::start_by(&[], state).await
    }

    /// Starts it with a small disk, in memory, and a wall clock that [`Clock`] sets.
    pub async fn start_on_a_small_disk() -> Self {
        assert!(Path::new(FAKETIME).exists(), "libfaketime is missing: run .ci/tools");
        let state = TempDir::new().expect("a folder");
        let path = state.path().display().to_string();
        let clock = Clock(Arc::new(NamedTempFile::new().expect("a file")));
        clock.set("+0");
        let preload = format!("LD_PRELOAD={FAKETIME}");
        let offset = format!("FAKETIME_TIMESTAMP_FILE={}", clock.0.path().display());
        let mut by = vec!["bwrap", "--die-with-parent", "--dev-bind", "/", "/"];
        by.extend(["--size", SMALL_DISK, "--tmpfs", &path]);
        by.extend(["--", "env", &preload, &offset]);
        // Timers are not the wall clock's business, and files keep their true times.
        by.extend(["FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]);
        by.push("FAKETIME_CACHE_DURATION=1");
        Self { clock: Some(clock), ..Self::start_by(&by, state).await }
    }

    async fn start_by(by: &[&str], state: TempDir) -> Self {
        let words = [by, &[SERVICE, "serve"]].concat();
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .envs(settings(state.path()))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        let address = loop {
            let line = lines.next_line().await.expect("readable").expect("it goes on");
            if let Some(address) = listening_address(&line) {
                break format!("http://{address}");
            }
        };
        let _log = session_pool::internals::tasks::spawn_owned(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                println!("service: {line}");
            }
        });
        let control = Client::connect(address.clone()).await.expect("connected");
        Self { process, address, state, clock: None, control, _log }
    }

    /// A connection of its own.
    pub async fn client(&self) -> Client<Channel> {
        Client::connect(self.address.clone()).await.expect("connected")
    }

    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// The state folder as this process can open it, whatever is mounted there.
    pub fn disk(&self) -> PathBuf {
        let path = self.state.path().display();
        PathBuf::from(format!("/proc/{}/root{path}", self.service()))
    }

    /// A process of its own that looks at the database.
    pub fn second(&self) -> Second {
        Second::beside(self.service(), &self.state.path().join("session-pool.db"))
    }

    /// The service's wall clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone().expect("a service under faults")
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Closes every session, waits until nothing of them is left, and looks.
    pub async fn at_rest(&self) -> Vitals {
        let mut control = self.control.clone();
        let request = ListSessionsRequest { page_size: 1000, ..ListSessionsRequest::default() };
        let listed = control.list_sessions(request).await.expect("listed").into_inner();
        for session in listed.sessions {
            let request = CloseSessionRequest { session_id: session.session_id, forget: true };
            // One that ended by itself meanwhile is gone all the same.
            drop(control.close_session(request).await);
        }
        // Turns that their callers left at the end are still being stopped: the session
        // of such a turn ends, or is removed by the cleanup, a moment later.
        eventually("the end of every session and CLI", async || {
            let stats = self.stats().await;
            let spares = stats.spares;
            let none = stats.total_sessions == 0 && spares == SPARES && stats.processes == spares;
            let left = processes::of_state(self.state()).len();
            (none && left == spares as usize).then_some(())
        })
        .await;
        // The connections of the callers close, and logs of ended turns are let go.
        let mut least: Option<Vitals> = None;
        eventually("rest", async || {
            let now = self.vitals().await;
            let rests =
                least.is_some_and(|least| now.tasks >= least.tasks && now.files >= least.files);
            if !rests {
                least = Some(now);
                tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            }
            rests.then_some(now)
        })
        .await
    }

    /// The process of the service itself: the innermost that runs the program.
    pub fn service(&self) -> u32 {
        let look = Look::take().expect("/proc");
        let mut pid = self.process.id().expect("it lives");
        while let Some(inner) = look.children(pid).into_iter().find(|child| {
            processes::words(*child).starts_with(&[SERVICE.to_owned(), "serve".to_owned()])
                || processes::words(pid).first().is_some_and(|word| word == "bwrap")
        }) {
            pid = inner;
        }
        pid
    }

    async fn stats(&self) -> GetStatsResponse {
        let request = GetStatsRequest { all_tenants: true, ..Default::default() };
        self.control.clone().get_stats(request).await.expect("answered").into_inner()
    }

    async fn vitals(&self) -> Vitals {
        let tasks = self.stats().await.tasks;
        Vitals { tasks, ..self.vitals_from_outside() }
    }

    /// What can be seen without asking the service anything; no count of its tasks.
    pub fn vitals_from_outside(&self) -> Vitals {
        let pid = self.service();
        let entries =
            |name: &str| std::fs::read_dir(format!("/proc/{pid}/{name}")).expect("readable");
        // One that is closed just now leads nowhere.
        let targets = entries("fd").flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let of_database = |target: &PathBuf| target.to_string_lossy().contains(DATABASE);
        let (of_database, files): (Vec<_>, Vec<_>) = targets.partition(of_database);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .map(|kib: u64| kib << 10);
        Vitals {
            files: files.len(),
            of_database: of_database.len(),
            threads: entries("task").count(),
            tasks: 0,
            resident: resident.expect("a figure"),
        }
    }

    /// Stops it as an operator does.
    pub async fn stop(mut self) {
        // Whatever encloses the service ends as it does.
        let pid = rustix::process::Pid::from_raw(self.service().cast_signed());
        let signal = rustix::process::Signal::TERM;
        rustix::process::kill_process(pid.expect("it lives"), signal).expect("signalled");
        let status = self.process.wait().await.expect("waited");
        assert!(status.success(), "{status}");
        assert_eq!(processes::of_state(self.state.path()), [0; 0], "processes are left");
    }
}

fn settings(state: &Path) -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    vec![
        ("SESSION_POOL__STATE_DIR", state.display().to_string()),
        ("SESSION_POOL__SERVER__LISTEN", text("127.0.0.1:0")),
        ("SESSION_POOL__CLI__PATH", text(FAKE)),
        ("SESSION_POOL__CLI__SANDBOX", sandbox()),
        ("SESSION_POOL__POOL__SPARES", SPARES.to_string()),
        ("SESSION_POOL__POOL__MAX_PROCESSES", text("8")),
        ("SESSION_POOL__POOL__MAX_SESSIONS", text("24")),
        ("SESSION_POOL__POOL__MAX_QUEUED_TURNS", text("3")),
        ("SESSION_POOL__POOL__HIBERNATE_AFTER", text("200ms")),
        ("SESSION_POOL__POOL__IDLE_THRESHOLD", text("500ms")),
        ("SESSION_POOL__POOL__CLEANUP_INTERVAL", text("250ms")),
        ("SESSION_POOL__POOL__CONNECT_TIMEOUT", text("20s")),
        ("SESSION_POOL__POOL__TURN_BUFFER_BYTES", text("64 KiB")),
        ("SESSION_POOL__POOL__TURN_RETENTION", text("500ms")),
        ("SESSION_POOL__POOL__STREAM_INTERRUPT_TIMEOUT", text("500ms")),
        ("SESSION_POOL__LOG__FORMAT", text("json")),
        ("SESSION_POOL__LOG__LEVEL", text("off,session_pool::server=info")),
    ]
}

fn listening_address(line: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["message"] == "listening").then(|| event["address"].as_str().map(str::to_owned))?
}
