//! A program on a CLI whose processes can be told from all others without their
//! environment, which they can empty.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use rustix::process::Signal;
use session_pool::{
    internals::os::procfs::entry_of,
    proto::{self, QueryRequest},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    stand_in::StandIn,
    support::{
        daemon::Daemon,
        eventually,
        processes::{self, words},
        service::{query, script},
        turn::Turn,
    },
};

/// What a session on the fake CLI leaves around: one child of every kind.
pub const CHILDREN: [&str; 5] =
    ["child group", "child setsid", "child nohup", "child bare", "say ready"];

/// How long anything may live after its end was due.
const GRACE: Duration = Duration::from_secs(1);

/// How long ten real CLIs may take to start on a busy machine, and to run some commands.
const START_LIMIT: Duration = Duration::from_secs(180);

/// The sandboxes.
pub const MODES: [&str; 2] = ["process-tree", "bubblewrap"];

/// A running program.
pub struct Bed {
    pub daemon: Daemon,
    /// Part of a command line of every process of a session, and of no other.
    pub unique: String,
    api: Option<StandIn>,
    _program: Option<TempDir>,
}

impl Bed {
    /// On a copy of the fake CLI with a path of its own, which its children have, too.
    pub async fn fake(mode: &str, settings: &[(&str, &str)]) -> Self {
        Self::fake_by(&[], mode, settings).await
    }

    /// Likewise, the program being started by another one.
    pub async fn fake_by(by: &[&str], mode: &str, settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let program = folder.path().join("fake-claude");
        let original = Path::new(env!("CARGO_BIN_EXE_fake-claude"));
        if fs::hard_link(original, &program).is_err() {
            fs::copy(original, &program).expect("copied");
        }
        let unique = program.display().to_string();
        let mut all = vec![("CLI__SANDBOX", mode), ("CLI__PATH", &unique)];
        all.extend(settings);
        let state = TempDir::new().expect("a folder");
        let daemon = Daemon::start_by(by, state, &all).await;
        Self { daemon, unique, api: None, _program: Some(folder) }
    }

    /// On a version of the real CLI. What its sessions start is told by the number of
    /// seconds that it sleeps.
    pub async fn real(mode: &str, version: &str, settings: &[(&str, &str)]) -> Self {
        let key = ("CLI__ENV__ANTHROPIC_API_KEY", "sk-ant-dummy");
        Self::real_by("CLI__ENV__ANTHROPIC_BASE_URL", key, (mode, version), settings).await
    }

    /// On a version of the real CLI that reaches the API through the service, which has the key in a
    /// file.
    pub async fn behind_gateway(
        mode: &str,
        version: &str,
        key_file: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let key_file = key_file.display().to_string();
        let key = ("GATEWAY__API_KEY_FILE", key_file.as_str());
        Self::real_by("GATEWAY__UPSTREAM", key, (mode, version), settings).await
    }

    /// `address` is the setting that says where the API is.
    async fn real_by(
        address: &str,
        key: (&str, &str),
        (mode, version): (&str, &str),
        settings: &[(&str, &str)],
    ) -> Self {
        let api = StandIn::start().await.expect("a stand-in");
        let (path, url) = (executable(version).display().to_string(), api.url());
        let mut all = vec![
            ("CLI__SANDBOX", mode),
            ("CLI__PATH", &path),
            (address, &url),
            key,
            ("CLI__ENV__CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "60s"),
            ("POOL__STREAM_ONGOING_TIMEOUT", "120s"),
            ("POOL__CONNECT_TIMEOUT", "120s"),
        ];
        all.extend(settings);
        let daemon = Daemon::start(&all).await;
        let digits = uuid::Uuid::new_v4().as_u128() % 1_000_000_000;
        Self { daemon, unique: format!("1000.{digits:09}"), api: Some(api), _program: None }
    }

    /// On a version of the real CLI, with a configuration file.
    pub async fn configured(mode: &str, version: &str, file: &str) -> Self {
        Self::real(mode, version, &[("CONFIG", file)]).await
    }

    /// Starts a turn of the fake CLI that leaves children and hangs.
    pub async fn hang(&self, session: &str, faults: &[&str]) -> Turn {
        let lines = [faults, &CHILDREN, &["hang"]].concat();
        let mut turn = self.daemon.open(query(session, &script(&lines))).await;
        turn.until_text("ready").await;
        turn
    }

    /// Processes whose command line has what is unique in it, what encloses them included.
    pub fn alive(&self) -> Vec<(u32, String)> {
        let all = fs::read_dir("/proc").expect("/proc");
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut found: Vec<(u32, String)> =
            pids.map(|pid: u32| (pid, words(pid).join(" "))).collect();
        found.retain(|(pid, line)| line.contains(&self.unique) && processes::lives(*pid));
        found.retain(|(_, line)| !line.contains("session-pool serve"));
        found
    }

    /// Waits until so many processes sleep as long as is unique.
    pub async fn until_sleeping(&self, count: usize) {
        self.until_sleeping_as(&self.unique, count).await;
    }

    /// Waits until so many processes sleep so long.
    pub async fn until_sleeping_as(&self, long: &str, count: usize) {
        let wanted = format!("sleep {long}");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let found = self.alive().into_iter().filter(|(_, line)| *line == wanted).count();
            if found == count {
                return;
            }
            assert!(found < count && Instant::now() < deadline, "{found} of {count}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks that nothing is alive, now or a second from now at the latest.
    pub async fn gone(&self) {
        let deadline = Instant::now() + GRACE;
        loop {
            let (alive, marked) = (self.alive(), self.daemon.processes());
            if alive.is_empty() && marked.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{alive:#?} {marked:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Likewise for what has this in its command line.
    pub async fn gone_of(&self, part: &str) {
        let deadline = Instant::now() + GRACE;
        loop {
            let alive: Vec<_> =
                self.alive().into_iter().filter(|(_, line)| line.contains(part)).collect();
            if alive.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{alive:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is alive.
    pub async fn until_gone(&self) {
        eventually("the end of all", async || {
            (self.alive().is_empty() && self.daemon.processes().is_empty()).then_some(())
        })
        .await;
    }

    /// Kills the one of these commands that the shell of `echo x` waits for.
    pub fn end_foreground(&self, command: &str) {
        let mut found = self.alive();
        found.retain(|(pid, line)| {
            let parent = entry_of(*pid).map_or(0, |entry| entry.parent);
            line == command && words(parent).join(" ").contains("echo x;")
        });
        assert_eq!(found.len(), 1, "{found:#?}");
        processes::kill(found[0].0);
    }

    /// Kills a process that has what is unique in its command line, by its first words.
    pub fn kill_starting_with(&self, start: &str) {
        let mut found = self.alive();
        found.retain(|(_, line)| line.starts_with(start));
        found.sort_unstable();
        processes::kill(found.first().unwrap_or_else(|| panic!("no {start}")).0);
    }

    pub async fn interrupt(&self, session: &str) {
        let request = proto::InterruptRequest {
            session_id: session.into(),
            keep_session: false,
            ..proto::InterruptRequest::default()
        };
        self.daemon.client.clone().interrupt(request).await.expect("answered");
    }

    pub async fn close(&self, session: &str) {
        let request = proto::CloseSessionRequest { session_id: session.into(), forget: false };
        self.daemon.client.clone().close_session(request).await.expect("answered");
    }

    pub async fn run(&self, request: QueryRequest) -> Turn {
        let mut turn = self.daemon.open(request).await;
        turn.finish().await;
        turn
    }

    /// Asks the program to end and checks that it leaves nothing.
    pub async fn stop(mut self) -> ExitStatus {
        self.daemon.signal(Signal::TERM);
        let status = self.daemon.ended().await;
        self.gone().await;
        self.end_api().await;
        status
    }

    /// The API that the real CLI is on.
    pub fn api(&self) -> &StandIn {
        self.api.as_ref().expect("on a real CLI")
    }

    /// Stops what was started beside the program.
    pub async fn end_api(&mut self) {
        if let Some(api) = self.api.take() {
            assert_eq!(api.refused(), [] as [&str; 0], "a CLI sent what the API does not take");
            // A connection of a killed CLI may take its time to be noticed.
            drop(timeout(Duration::from_secs(5), api.shutdown()).await);
        }
    }
}

/// The executable of a version of the real CLI, as `.ci/fetch-cli` leaves it.
pub fn executable(version: &str) -> PathBuf {
    let folder = std::env::var_os("SESSION_POOL_CLAUDE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/claude"),
        PathBuf::from,
    );
    let path = std::path::absolute(folder.join(version).join("claude")).expect("a folder");
    assert!(path.is_file(), "{} is not there: run .ci/fetch-cli", path.display());
    path
}
