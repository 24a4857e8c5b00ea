//! The state folder: whose it is, what an earlier life left of itself, what is kept in it.

use std::{fs::File, sync::Arc};

use anyhow::Context as _;
use tracing::warn;

use crate::{
    cli::{launch::STATE_VARIABLE, sandbox, scratch, sweep::kill_marked},
    config::{Config, StoreKind},
    store::{MemoryStore, SqlStore, Store},
    supply,
    tasks::Tasks,
};

/// Makes the state folder, for nobody else to enter.
pub fn make_state_folder(config: &Config) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = &config.state_dir;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("state_dir: cannot make {}", folder.display()))
}

/// Makes the state folder, and makes sure that no other service uses it.
pub fn claim_state_folder(config: &Config) -> anyhow::Result<File> {
    make_state_folder(config)?;
    let folder = &config.state_dir;
    let path = folder.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("state_dir: cannot write {}", path.display()))?;
    lock.try_lock()
        .with_context(|| format!("state_dir: another service uses {}", folder.display()))?;
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

/// The store that the configuration names.
pub async fn open_store(config: &Config, tasks: &Tasks) -> anyhow::Result<Arc<dyn Store>> {
    match config.store.kind {
        StoreKind::Memory => Ok(Arc::new(MemoryStore::default())),
        StoreKind::Sqlite => {
            let file = config.database_file();
            let store = SqlStore::open(&file, tasks).await;
            Ok(Arc::new(store.with_context(|| format!("store: {}", file.display()))?))
        }
    }
}
