//! The service as a process on the disk, and whoever starts it again when it was killed: as
//! often as it takes, as a service manager does.

use std::{
    collections::VecDeque,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use session_pool::proto::session_pool_service_client::SessionPoolServiceClient as Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{disk::Disk, shim::Shim, support::processes};

/// How long a service may take until it listens, once nothing is in its way.
const LONGEST_START: Duration = Duration::from_secs(15);
/// The wait before a service is started again that did not start.
const AGAIN: Duration = Duration::from_millis(100);
/// The exit code of a service that cannot start where it is.
const REFUSED: i32 = 8;
/// Lines of its log that are kept for the case that a test fails.
const LOG_LINES: usize = 400;

/// One life of the service.
#[derive(Debug, Clone)]
pub struct Life {
    /// Which one, from 1 on.
    pub number: u64,
    channel: Channel,
}

impl Life {
    pub fn client(&self) -> Client<Channel> {
        Client::new(self.channel.clone())
    }

    /// Whether health checks say SERVING.
    pub async fn serves(&self) -> bool {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(self.channel.clone()).check(request).await;
        answer.expect("answered").into_inner().status() == ServingStatus::Serving
    }
}

/// The service, whichever life it is in.
pub struct Service {
    disk: Arc<Disk>,
    shim: Arc<Shim>,
    child: Option<Child>,
    lives: watch::Sender<Option<Life>>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.log.lock().expect("no panic").iter() {
                println!("service: {line}");
            }
        }
    }
}

impl Service {
    /// One that nobody has started.
    pub fn on(disk: Arc<Disk>, shim: Arc<Shim>) -> Self {
        Self { disk, shim, child: None, lives: watch::Sender::default(), log: Arc::default() }
    }

    /// The life that it is in; `None` while it has none.
    pub fn lives(&self) -> watch::Receiver<Option<Life>> {
        self.lives.subscribe()
    }

    /// Starts it, and again where it ends at once for the disk's sake. Returns what it said
    /// when it did; nobody may call it before [`Service::announce`].
    pub async fn start(&mut self, mut may_fail: impl FnMut() -> bool) -> (Life, Vec<String>) {
        let mut refusals = Vec::new();
        let mut until = Instant::now() + LONGEST_START;
        loop {
            if may_fail() {
                until = Instant::now() + LONGEST_START;
            }
            match self.try_start().await {
                Ok(channel) => {
                    let number = self.lives.borrow().as_ref().map_or(0, |life| life.number) + 1;
                    return (Life { number, channel }, refusals);
                }
                Err(said) => refusals.push(said),
            }
            assert!(Instant::now() < until, "it does not start: {refusals:#?}");
            sleep(AGAIN).await;
        }
    }

    /// Lets callers know of its new life.
    pub fn announce(&self, life: Life) {
        self.lives.send_replace(Some(life));
    }

    async fn try_start(&mut self) -> Result<Channel, String> {
        let mut command = self.disk.enter();
        command.args([env!("CARGO_BIN_EXE_session-pool"), "serve"]);
        command.envs(self.shim.variables(&self.disk.database()));
        configure(&mut command, self.disk.path());
        let mut child = command.spawn().expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut last = String::new();
        loop {
            let line = timeout(LONGEST_START, lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("it neither listens nor ends: {last}"));
            let Some(line) = line.expect("text") else { break };
            self.note(&line);
            if let Some(address) = listening_address(&line) {
                self.child = Some(child);
                self.follow(lines);
                let channel = Channel::from_shared(format!("http://{address}"));
                return Ok(channel.expect("an address").connect().await.expect("connected"));
            }
            last = line;
        }
        let status = child.wait().await.expect("waited for");
        let named = ["session-pool: state_dir: ", "session-pool: store: "];
        let refuses = status.code() == Some(REFUSED) && named.iter().any(|it| last.starts_with(it));
        assert!(refuses, "it neither listens nor says what is in its way ({status}): {last}");
        Err(last)
    }

    fn note(&self, line: &str) {
        note(&self.log, line);
    }

    fn follow(&self, mut lines: Lines<BufReader<ChildStderr>>) {
        let log = Arc::clone(&self.log);
        drop(session_pool::internals::tasks::spawn_owned(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                note(&log, &line);
            }
        }));
    }

    /// Fails the test if it has ended by itself.
    pub fn assert_alive(&mut self) {
        let ended = self.child.as_mut().expect("started").try_wait().expect("looked at");
        assert_eq!(ended, None, "the service has ended by itself");
    }

    /// Kills it as `kill -9` does, and waits until nothing of it is left.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("started");
        processes::kill(processes::service_below(child.id().expect("it lives")));
        let ended = timeout(LONGEST_START, child.wait()).await;
        ended.expect("its supervisor ends with it").expect("waited for");
        assert_eq!(processes::of_state(self.disk.path()), [0; 0], "processes are left");
    }
}

fn note(log: &Mutex<VecDeque<String>>, line: &str) {
    let mut log = log.lock().expect("no panic");
    if log.len() == LOG_LINES {
        log.pop_front();
    }
    log.push_back(line.to_owned());
}

fn configure(command: &mut Command, state: &Path) {
    command
        .env("SESSION_POOL__SERVER__LISTEN", "127.0.0.1:0")
        .env("SESSION_POOL__CLI__PATH", env!("CARGO_BIN_EXE_fake-claude"))
        .env("SESSION_POOL__CLI__SANDBOX", "process-tree")
        .env("SESSION_POOL__STATE_DIR", state)
        .env("SESSION_POOL__STORE__COMMIT_TIMEOUT", "1s")
        // Conversations are read back from the store again and again.
        .env("SESSION_POOL__POOL__HIBERNATE_AFTER", "150ms")
        .env("SESSION_POOL__POOL__CLEANUP_INTERVAL", "250ms")
        .env("SESSION_POOL__LOG__FORMAT", "json")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
}

fn listening_address(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["message"] == "listening").then(|| event["address"].as_str().map(str::to_owned))?
}
