//! A node: the program, its links to the database and from other nodes, and its wall clock. It
//! keeps its name, its folder and its address over restarts.

use std::{path::Path, time::Duration};

use rustix::process::{Signal, kill_process};
use session_pool::{
    internals::os::procfs, proto::session_pool_service_client::SessionPoolServiceClient as Client,
};
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::{
    link::Link,
    support::{daemon::Daemon, free_address, postgres::Server},
};

/// What lets the wall clock of one process jump. Debian's package is `faketime`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Settings of nodes.
pub type Settings = Vec<(String, String)>;

/// What a node is doing.
enum Life {
    Runs(Box<Daemon>),
    /// Nothing; its folder is kept.
    Down(TempDir),
    /// It is about to do something else.
    Changes,
}

pub struct Node {
    pub name: String,
    pub to_database: Link,
    pub from_nodes: Link,
    pub client: Client<Channel>,
    state: String,
    settings: Settings,
    /// The file by which its wall clock is set, if it can be.
    clock: Option<NamedTempFile>,
    life: Mutex<Life>,
}

/// A caller's way to a node, which is made anew whenever it breaks.
pub fn client(address: &str) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    Client::new(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
}

impl Node {
    /// One that nobody has started. Its wall clock is off by `clock`, if it has one of its own. `more` are settings that go over those that every node has.
    pub async fn new(
        name: &str,
        (database_at, database): (&str, &str),
        clock: Option<&str>,
        more: &[(&str, &str)],
    ) -> Self {
        let listens = free_address().to_string();
        let to_database = Link::to(database_at.to_owned()).await;
        let from_nodes = Link::to(listens.clone()).await;
        let url = Server::url_by(to_database.address(), database);
        let url = format!("{url}&application_name={name}");
        let mut settings: Settings = [
            ("STORE__KIND", "postgres"),
            ("STORE__URL", &url),
            ("CLUSTER__NODE", name),
            ("CLUSTER__ADVERTISE", from_nodes.address()),
            ("SERVER__LISTEN", &listens),
            ("SERVER__DRAIN_TIMEOUT", "2s"),
            // A turn that failed may be asked for again by its name.
            ("POOL__TURN_RETENTION", "100ms"),
            ("POOL__MAX_PROCESSES", "16"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        settings.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let clock = clock.map(|offset| {
            assert!(Path::new(FAKETIME).exists(), "libfaketime is missing: run .ci/tools");
            let file = NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), offset).expect("written");
            file
        });
        let folder = TempDir::new().expect("a folder");
        let state = folder.path().display().to_string();
        let (client, life) = (client(&listens), Mutex::new(Life::Down(folder)));
        let name = name.to_owned();
        Self { name, to_database, from_nodes, client, state, settings, clock, life }
    }

    /// One of the same name elsewhere.
    pub async fn twin(&self, database_at: &str, database: &str) -> Self {
        // What says where it is is its own.
        let own = ["STORE__URL", "CLUSTER__ADVERTISE", "SERVER__LISTEN"];
        let same: Vec<_> = self
            .settings
            .iter()
            .filter(|(key, _)| !own.contains(&&**key))
            .map(|(key, value)| (&**key, &**value))
            .collect();
        Self::new(&self.name, (database_at, database), None, &same).await
    }

    /// Its state folder, which is the mark of its processes.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Starts it; as often as it takes, since the database may be gone.
    pub async fn start(&self) {
        let (mut life, mut last) = (self.life.lock().await, String::new());
        for _ in 0..120 {
            let folder = match std::mem::replace(&mut *life, Life::Changes) {
                Life::Down(folder) => folder,
                // Somebody else has started it.
                running => return *life = running,
            };
            let settings: Vec<_> =
                self.settings.iter().map(|(key, value)| (&**key, &**value)).collect();
            let by = self.clock_of_its_own();
            let by: Vec<&str> = by.iter().map(String::as_str).collect();
            match Daemon::try_start_by(&by, folder, &settings).await {
                Ok(daemon) => {
                    *life = Life::Runs(Box::new(daemon));
                    return;
                }
                Err((folder, said)) => (*life, last) = (Life::Down(folder), said),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} does not start: {last}", self.name);
    }

    fn clock_of_its_own(&self) -> Vec<String> {
        let Some(file) = &self.clock else { return Vec::new() };
        [
            "env".to_owned(),
            format!("LD_PRELOAD={FAKETIME}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.path().display()),
            // Timers are not the wall clock's business, and files keep their true times.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
        ]
        .into()
    }

    /// Sets its wall clock off by so much.
    pub fn set_clock(&self, offset: &str) {
        let file = self.clock.as_ref().expect("a clock of its own");
        std::fs::write(file.path(), offset).expect("written");
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let mut life = self.life.lock().await;
        *life = match std::mem::replace(&mut *life, Life::Changes) {
            Life::Runs(daemon) => Life::Down(daemon.killed().await),
            other @ (Life::Down(_) | Life::Changes) => other,
        };
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop_in_order(&self) {
        let mut life = self.life.lock().await;
        *life = match std::mem::replace(&mut *life, Life::Changes) {
            Life::Runs(mut daemon) => {
                daemon.signal(Signal::TERM);
                daemon.ended().await;
                Life::Down(daemon.state)
            }
            other @ (Life::Down(_) | Life::Changes) => other,
        };
    }

    /// Stops the service where it is, or has it go on. With `all` also what belongs to it, as
    /// a suspended machine does.
    pub async fn suspend(&self, is_suspended: bool, all: bool) {
        let life = self.life.lock().await;
        let Life::Runs(daemon) = &*life else { return };
        let look = procfs::Look::take().expect("/proc");
        let started = daemon.started();
        let everything = std::iter::once(started).chain(look.descendants(started, None));
        let whom = if all { everything.collect() } else { vec![daemon.id()] };
        let signal = if is_suspended { Signal::STOP } else { Signal::CONT };
        for process in whom {
            // One may have ended just now.
            kill_process(procfs::pid(process).expect("an id"), signal).ok();
        }
    }

    /// The processes that it has started, if it runs.
    pub async fn processes(&self) -> Vec<u32> {
        match &*self.life.lock().await {
            Life::Runs(daemon) => daemon.processes(),
            Life::Down(_) | Life::Changes => Vec::new(),
        }
    }

    /// The last lines of its log that are more than information.
    pub async fn complaints(&self) -> Vec<String> {
        let Life::Runs(daemon) = &*self.life.lock().await else { return Vec::new() };
        let mut lines: Vec<String> = daemon
            .log()
            .iter()
            .filter(|event| event["level"] != "INFO")
            .map(|event| format!("{}: {event}", self.name))
            .collect();
        lines.drain(..lines.len().saturating_sub(40));
        lines
    }
}
