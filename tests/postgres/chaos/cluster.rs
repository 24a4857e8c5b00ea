//! A few nodes on one database, whoever looks at them, and those who call them.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    checks,
    node::Node,
    recorder::{Recorder, Wrong},
    sampler::Sampler,
    support::postgres::Server,
    watcher::{Watcher, connect},
};

/// What a server needs, so that the order of commits can be told.
pub const SERVER: [&str; 2] = ["-c", "track_commit_timestamp=on"];

/// The variable that every process of a CLI of one cluster has.
const MARK: &str = "FAKE_CLAUDE_JOURNAL";

/// How a cluster is made.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    pub nodes: &'a [&'a str],
    /// What every node has besides.
    pub settings: &'a [(&'a str, &'a str)],
    /// Where nodes go for the database, if not to the server itself.
    pub by: Option<&'a str>,
    /// How far the wall clock of the first node is off, if it has one of its own.
    pub clock: Option<&'a str>,
    pub is_real: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        let nodes = &["one", "two", "three"];
        Self { nodes, settings: &[], by: None, clock: None, is_real: false }
    }
}

/// Leases that are shorter than the defaults.
pub const SHORT: [(&str, &str); 4] = [
    ("CLUSTER__LEASE", "2s"),
    ("CLUSTER__HEARTBEAT", "300ms"),
    ("STORE__STATEMENT_TIMEOUT", "1s"),
    ("STORE__COMMIT_TIMEOUT", "3s"),
];

pub struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub recorder: Arc<Recorder>,
    pub watcher: Watcher,
    pub database: String,
    pub is_real: bool,
    /// Whether an older state of the database was put back.
    was_put_back: AtomicBool,
    url: Mutex<String>,
    journal: PathBuf,
    sampler: Sampler,
    /// The API of real CLIs, which ends with this value.
    _api: Option<Child>,
    _folder: TempDir,
}

impl Cluster {
    /// Starts the nodes on a new database of this server.
    pub async fn start(server: &Server, plan: Plan<'_>) -> Self {
        let database = server.database().await;
        let url = Server::url_by(&server.address(), &database);
        let folder = TempDir::new().expect("a folder");
        let journal = folder.path().join("journal");
        let mark = journal.display().to_string();
        let mark_key = format!("CLI__ENV__{MARK}");
        let mut settings = vec![(mark_key.as_str(), mark.as_str())];
        settings.extend(plan.settings);
        let api = match plan.is_real {
            true => Some(stand_in().await),
            false => None,
        };
        let program = real_cli().display().to_string();
        let at = api.as_ref().map(|(_, url)| url.clone()).unwrap_or_default();
        if plan.is_real {
            settings.extend([
                ("CLI__PATH", program.as_str()),
                ("CLI__ENV__ANTHROPIC_BASE_URL", at.as_str()),
                ("CLI__ENV__ANTHROPIC_API_KEY", "sk-ant-dummy"),
                ("CLI__ENV__CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
                ("POOL__STREAM_FIRST_CHUNK_TIMEOUT", "30s"),
            ]);
        }
        let (address, mut nodes) = (server.address(), Vec::new());
        for (number, name) in plan.nodes.iter().enumerate() {
            let place = (plan.by.unwrap_or(&address), database.as_str());
            let clock = plan.clock.filter(|_| number == 0);
            nodes.push(Arc::new(Node::new(name, place, clock, &settings).await));
        }
        // The first one makes the tables, on which the database then takes notes.
        nodes[0].start().await;
        let mut connection = connect(&url).await.expect("connected");
        let audit = include_str!("audit.sql");
        sqlx::raw_sql(audit).execute(&mut connection).await.expect("made");
        connection.close().await.expect("closed");
        futures(nodes[1..].iter().map(|node| node.start())).await;
        let recorder = Arc::new(Recorder::default());
        let sampler = Sampler::start(format!("{MARK}={mark}"), Arc::clone(&recorder));
        let watcher = Watcher::start(url.clone(), Arc::clone(&recorder));
        let (is_real, _folder, url) = (plan.is_real, folder, Mutex::new(url));
        let _api = api.map(|(api, _)| api);
        Self {
            nodes,
            recorder,
            watcher,
            database,
            is_real,
            url,
            journal,
            sampler,
            _api,
            _folder,
            was_put_back: AtomicBool::new(false),
        }
    }

    /// Another server has the database from now on.
    pub fn follow(&self, server: &Server) {
        let url = Server::url_by(&server.address(), &self.database);
        self.watcher.follow(url.clone());
        *self.url.lock().expect("no panic") = url;
    }

    /// An older state of the database is put back.
    pub fn is_put_back(&self) {
        self.was_put_back.store(true, Ordering::SeqCst);
    }

    fn url(&self) -> String {
        self.url.lock().expect("no panic").clone()
    }

    /// A connection to the database that nothing is between.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.url()).await.expect("connected")
    }

    /// Runs statements on the database; once more where they and a node have waited for each other,
    /// which PostgreSQL ends by failing one of the two.
    pub async fn run(&self, sql: &str) {
        const DEADLOCK: &str = "40P01";
        loop {
            let mut connection = self.connect().await;
            let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
            connection.close().await.expect("closed");
            match done {
                Ok(_) => return,
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DEADLOCK) => {}
                Err(error) => panic!("{sql}: {error}"),
            }
        }
    }

    /// From the database's point of view this node has not renewed its lease for long.
    pub async fn age(&self, node: &str) {
        self.run(&format!(
            "UPDATE nodes SET heartbeat = heartbeat - INTERVAL '2 hours' WHERE name = '{node}'"
        ))
        .await;
    }

    /// The sessions that a node has, as the database says.
    pub async fn sessions_of(&self, node: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        sqlx::query_scalar("SELECT session_id FROM sessions WHERE owner_name = $1 AND owner <> ''")
            .bind(node)
            .fetch_all(&mut connection)
            .await
            .expect("answered")
    }

    pub fn node(&self, name: &str) -> &Arc<Node> {
        self.nodes.iter().find(|node| node.name == name).expect("one of them")
    }

    /// Whether a CLI has begun with a prompt in which these words are.
    pub fn has_run(&self, words: &str) -> bool {
        std::fs::read_to_string(&self.journal).is_ok_and(|journal| journal.contains(words))
    }

    /// How often `/proc` was looked at so far.
    pub fn looks(&self) -> u64 {
        self.sampler.looks()
    }

    /// Waits until a node has no process of the time before any more; notes it if that takes
    /// longer than a second.
    pub async fn gone_in_time(&self, node: &Node, before: &[u32]) {
        let began = Instant::now();
        loop {
            let left = node.processes().await.into_iter().any(|it| before.contains(&it));
            if !left {
                return self.recorder.line(format_args!("{}: clean", node.name));
            }
            if began.elapsed() > Duration::from_secs(1) {
                let what = format!("{} has processes of before", node.name);
                return self.recorder.wrong(Wrong::Lingers, what);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends everything, and says what was wrong.
    pub async fn end(self) -> Arc<Recorder> {
        let url = self.url();
        let was_put_back = self.was_put_back.load(Ordering::SeqCst);
        let Self { nodes, recorder, watcher, journal, sampler, is_real, .. } = self;
        watcher.stop().await;
        let looks = sampler.stop();
        recorder.line(format_args!("{looks} looks at /proc"));
        let mut connection = connect(&url).await.expect("connected");
        checks::of_database(&mut connection, &recorder, is_real, was_put_back).await;
        checks::of_journal(&journal, &recorder);
        drop(connection.close().await);
        if !recorder.all_wrong().is_empty() {
            for node in &nodes {
                for line in node.complaints().await {
                    recorder.line(line);
                }
            }
        }
        futures(nodes.iter().map(|node| node.kill())).await;

        recorder
    }
}

/// Waits for all of them at once.
pub async fn futures(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|it| it.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// What the real CLI has for the API, and where.
async fn stand_in() -> (Child, String) {
    let mut api = Command::new(env!("CARGO_BIN_EXE_messages-stand-in"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(api.stdout.take().expect("a pipe")).lines();
    let line = lines.next_line().await.expect("text").expect("it listens");
    let url = line.strip_prefix("listening ").expect("it says where").to_owned();
    (api, url)
}

/// The newest version of the CLI that the gate has.
fn real_cli() -> PathBuf {
    let folder = std::env::var_os("SESSION_POOL_CLAUDE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/claude"),
        PathBuf::from,
    );
    std::path::absolute(folder.join("2.1.332/claude")).expect("a working folder")
}
