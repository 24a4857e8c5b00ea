//! The state folder: whose it is, what an earlier life left of itself, what is kept in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    cli::{launch::STATE_VARIABLE, sandbox, scratch, sweep::kill_marked},
    config::{Config, StoreConfig, StoreKind, problem_of_url},
    domain::redacted::Redacted,
    store::{MemoryStore, Opening, PostgresOpening, PostgresStore, SqlStore, Store},
    supply,
    tasks::Tasks,
};

/// Makes the state folder and that of the audit log, for nobody else to enter. Before the sandbox is
/// chosen: what is not there then is not hidden from sessions.
pub fn make_folders(config: &Config) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let make = |key, folder: &Path| {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("{key}: cannot make {}", folder.display()))
    };
    make("state_dir", &config.state_dir)?;
    let of_audit = config.audit.files().and_then(|file| file.parent());
    of_audit.map_or(Ok(()), |folder| make("audit.file", folder))
}

/// How long the lock of the state folder is waited for. A service that has ended may hold it for
/// a moment more: a process that it was starting has its descriptors until it has become the CLI.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Makes the state folder, and makes sure that no other service uses it.
pub async fn claim_state_folder(config: &Config) -> anyhow::Result<File> {
    make_folders(config)?;
    let folder = &config.state_dir;
    let path = folder.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("state_dir: cannot write {}", path.display()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = lock.try_lock() {
        if Instant::now() >= until {
            let context = format!("state_dir: another service uses {}", folder.display());
            return Err(anyhow::Error::new(error).context(context));
        }
        sleep(LOCK_AGAIN).await;
    }
    Ok(lock)
}

/// Ends what an earlier life of the service left behind, told by its mark, and removes what
/// only it could have used: whoever has the state folder's lock is the only one who may have
/// such processes.
pub async fn sweep_earlier_life(config: &Config) -> anyhow::Result<()> {
    let state = config.state_dir.to_string_lossy().into_owned();
    let swept = tokio::task::spawn_blocking(move || kill_marked(STATE_VARIABLE, &state)).await;
    if let Ok(killed @ 1..) = swept {
        warn!(killed, "processes_of_an_earlier_life_ended");
    }
    let folder = config.state_dir.clone();
    let swept = tokio::task::spawn_blocking(move || {
        sandbox::sweep_trials(&folder)?;
        scratch::sweep(&folder)
    });
    swept.await?.with_context(|| format!("state_dir: {}", config.state_dir.display()))
}

/// Removes work folders of sessions without a name that an earlier life of the service left.
pub async fn sweep_anonymous(config: &Config, store: Arc<dyn Store>) -> anyhow::Result<()> {
    let (folder, runtime) = (config.state_dir.clone(), tokio::runtime::Handle::current());
    let swept = tokio::task::spawn_blocking(move || {
        // What the store cannot say is kept.
        supply::sweep_anonymous(&folder, |key| {
            !matches!(runtime.block_on(store.load(key)), Ok(None))
        })
    });
    swept.await?.with_context(|| format!("state_dir: {}", config.state_dir.display()))
}

/// A store, and the node that this service is to others who share it.
#[derive(Debug)]
pub struct Opened {
    pub store: Arc<dyn Store>,
    pub node: Option<Arc<PostgresStore>>,
}

/// The store that the configuration names.
pub async fn open_store(config: &Config, tasks: &Tasks) -> anyhow::Result<Opened> {
    let alone = |store: Arc<dyn Store>| Opened { store, node: None };
    match config.store.kind {
        StoreKind::Memory => Ok(alone(Arc::new(MemoryStore::default()))),
        StoreKind::Postgres => {
            let store = PostgresStore::open(postgres(config)?, tasks).await;
            // The URL is in no error: it may hold a password.
            let node = Arc::new(store.context("store.url: the database cannot be used")?);
            Ok(Opened { store: Arc::clone(&node) as Arc<dyn Store>, node: Some(node) })
        }
        StoreKind::Sqlite => {
            let file = config.database_file();
            let opening = Opening {
                create: may_begin(config, &file)?,
                commit_timeout: config.store.commit_timeout,
            };
            let store = SqlStore::open(&file, opening, tasks).await;
            Ok(alone(Arc::new(store.with_context(|| format!("store: {}", file.display()))?)))
        }
    }
}

/// How a PostgreSQL database is opened.
fn postgres(config: &Config) -> anyhow::Result<PostgresOpening> {
    let StoreConfig { url, url_file, .. } = &config.store;
    let url = match url_file {
        None => url.clone(),
        Some(file) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("store.url_file: cannot read {}", file.display()))?;
            let text = text.trim().to_owned();
            if let Some(problem) = problem_of_url(&text) {
                anyhow::bail!("store.url_file: the text of {} {problem}", file.display());
            }
            text
        }
    };
    Ok(PostgresOpening {
        url: Redacted(url),
        max_connections: u32::try_from(config.store.max_connections).unwrap_or(u32::MAX),
        acquire_timeout: config.store.acquire_timeout,
        statement_timeout: config.store.statement_timeout,
        commit_timeout: config.store.commit_timeout,
        node: config.cluster.node.clone(),
        last_life: Some(config.state_dir.join("incarnation")),
        address: config.cluster.advertise.clone(),
        heartbeat: config.cluster.heartbeat,
        lease: config.cluster.lease,
    })
}

/// Whether a database is to be made. Where there is none, and sessions have left their
/// folders, it was lost: to begin anew in silence would forget every conversation.
fn may_begin(config: &Config, file: &Path) -> anyhow::Result<bool> {
    let what = match fs::metadata(file) {
        Ok(found) if found.len() > 0 => return Ok(false),
        Ok(_) => "is empty",
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing",
        Err(error) => {
            return Err(error).with_context(|| format!("store: {}", file.display()));
        }
    };
    match left_by_sessions(&config.state_dir) {
        Some(left) if !config.store.allow_empty => anyhow::bail!(
            "store: the database {} {what}, but sessions have left {}: restore the database, or \
             set store.allow_empty = true to begin without the conversations that were in it",
            file.display(),
            left.display()
        ),
        Some(left) => {
            warn!(database = %file.display(), left = %left.display(), "store_begins_empty");
            Ok(true)
        }
        None => Ok(true),
    }
}

/// Something that a session with a name has left: its work folder, or a transcript.
fn left_by_sessions(state_dir: &Path) -> Option<PathBuf> {
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(Result::ok).map(|entry| entry.path())
    };
    let is_sessions = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("h-") || name.starts_with("s-") && !name.starts_with("s-anonymous-")
    };
    let is_transcript = |path: &PathBuf| path.extension().is_some_and(|it| it == "jsonl");
    list(&state_dir.join("tenants")).find_map(|tenant| {
        list(&tenant.join("work")).find(is_sessions).or_else(|| {
            list(&tenant.join("claude/projects"))
                .find_map(|project| list(&project).find(is_transcript))
        })
    })
}
