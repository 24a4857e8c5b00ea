//! The program itself, started as an operator does: `session-pool serve`.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use session_pool::{
    internals::os::procfs::pid,
    proto::{QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::transport::Channel;

use super::{processes, service::query, turn::Turn};

/// A running program with a state folder of its own.
pub struct Daemon {
    pub client: Client<Channel>,
    pub address: String,
    pub state: TempDir,
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Daemon {
    /// Starts the program on the fake CLI, with further settings; `CONFIG` is a file of them, and
    /// `TEST_WITHOUT` a guard that it does without.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().expect("a folder"), settings).await
    }

    /// Starts the program where an earlier life of it was killed.
    pub async fn start_in(state: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_by(&[], state, settings).await
    }

    /// Starts the program by another one, which has it as its child.
    pub async fn start_by(by: &[&str], state: TempDir, settings: &[(&str, &str)]) -> Self {
        let started = Self::try_start_by(by, state, settings).await;
        started.unwrap_or_else(|(_, said)| panic!("it does not listen: {said}"))
    }

    /// The same of a program that may not start; then the folder is given back, and what it said.
    pub async fn try_start_by(
        by: &[&str],
        state: TempDir,
        settings: &[(&str, &str)],
    ) -> Result<Self, (TempDir, String)> {
        let mut child = command(by, state.path(), settings).spawn().expect("started");
        let stderr = child.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut said = String::new();
        let address = loop {
            let line = timeout(super::PATIENCE, lines.next_line()).await;
            let Some(line) = line.expect("in time").expect("text") else {
                child.wait().await.expect("waited for");
                return Err((state, said));
            };
            // The reason why it does not start is for people.
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                said.push_str(&line);
                continue;
            };
            log.lock().expect("no panic").push(event.clone());
            if event["message"] == "listening" {
                break format!("http://{}", event["address"].as_str().expect("an address"));
            }
        };
        // A log that nobody reads must not stop the program.
        let record = Arc::clone(&log);
        drop(session_pool::internals::tasks::spawn_owned(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let event = serde_json::from_str(&line).expect("a JSON log");
                record.lock().expect("no panic").push(event);
            }
        }));
        let client = Client::connect(address.clone()).await.expect("connected");
        Ok(Self { client, address, state, child, log })
    }

    pub async fn open(&self, request: QueryRequest) -> Turn {
        Turn::new(self.client.clone().query(request).await.expect("taken").into_inner())
    }

    /// Runs a turn to its end, however that is.
    pub async fn run(&self, session: &str, prompt: &str) -> Turn {
        let mut turn = self.open(query(session, prompt)).await;
        turn.finish().await;
        turn
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("no panic").clone()
    }

    /// The events of this name so far.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let mut log = self.log();
        log.retain(|event| event["message"] == message);
        log
    }

    /// The process that was started: the supervisor of the service, if it has one.
    pub fn started(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The process of the service itself.
    pub fn id(&self) -> u32 {
        processes::service_below(self.started())
    }

    /// As whoever started the program does.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.started()).expect("an id"), signal).expect("signalled");
    }

    /// Kills the service itself, and not its supervisor.
    pub fn kill_service(&self) {
        kill_process(pid(self.id()).expect("an id"), Signal::KILL).expect("signalled");
    }

    /// Waits for the program's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(super::PATIENCE, self.child.wait()).await;
        ended.expect("it ends").expect("waited for")
    }

    /// Kills it; what it leaves is in the folder.
    pub async fn killed(mut self) -> TempDir {
        self.kill_service();
        self.ended().await;
        self.state
    }

    /// Processes that it started.
    pub fn processes(&self) -> Vec<u32> {
        processes::of_state(self.state.path())
    }
}

fn command(by: &[&str], state: &Path, settings: &[(&str, &str)]) -> Command {
    let words = [by, &[env!("CARGO_BIN_EXE_session-pool"), "serve"]].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
        .env("SESSION_POOL__CLI__PATH", env!("CARGO_BIN_EXE_fake-claude"))
        // Tests count processes; those of the check have tests of their own.
        .env("SESSION_POOL__CLI__START_CHECK", "false")
        .env("SESSION_POOL__STATE_DIR", state)
        .env("SESSION_POOL__LOG__FORMAT", "json")
        .env("SESSION_POOL__POOL__MAX_PROCESSES", "16")
        .env("SESSION_POOL__CLI__SANDBOX", "process-tree")
        .envs(settings.iter().map(|(key, value)| match *key {
            "CONFIG" | "TEST_WITHOUT" => (format!("SESSION_POOL_{key}"), value),
            key => (format!("SESSION_POOL__{key}"), value),
        }))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
