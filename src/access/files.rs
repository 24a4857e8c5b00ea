//! Says when files have changed. What is watched are their folders: a file that is
//! replaced, and a link that is turned to another folder as Kubernetes does with mounted
//! secrets, are changes of those.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{Config, Event, EventHandler, PollWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

/// How long after a change the next is waited for: files are replaced in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// How often folders are looked at whose changes the kernel does not tell.
const POLL: Duration = Duration::from_secs(10);

/// Watches the folders of some files.
#[derive(Debug)]
pub struct Files {
    _watcher: Box<dyn std::fmt::Debug + Send + Sync>,
    changes: mpsc::Receiver<()>,
}

/// Tells of changes, from a thread of the watcher's. One that waits stands for all.
struct Teller(mpsc::Sender<()>);

impl EventHandler for Teller {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            self.0.try_send(()).ok();
        }
    }
}

impl Files {
    /// Watches these files, which need not all be there. The kernel tells of changes, or the
    /// files are looked at from time to time where it does not: what it gives to a user for
    /// that is bounded, and other programs of the user may have used it up.
    pub fn watch(files: &[PathBuf]) -> notify::Result<Self> {
        Self::told(files).or_else(|error| {
            warn!(%error, every_seconds = POLL.as_secs(), "credentials_polled");
            Self::polled(files, POLL)
        })
    }

    fn told(files: &[PathBuf]) -> notify::Result<Self> {
        Self::by::<notify::RecommendedWatcher>(files, Config::default())
    }

    fn polled(files: &[PathBuf], every: Duration) -> notify::Result<Self> {
        // By what is in the files: times are compared by the second only (notify 8).
        let config = Config::default().with_poll_interval(every).with_compare_contents(true);
        Self::by::<PollWatcher>(files, config)
    }

    fn by<W>(files: &[PathBuf], config: Config) -> notify::Result<Self>
    where
        W: Watcher + std::fmt::Debug + Send + Sync + 'static,
    {
        let (sender, changes) = mpsc::channel(1);
        let mut watcher = W::new(Teller(sender), config)?;
        let folders: BTreeSet<&Path> = files
            .iter()
            .filter_map(|file| file.parent())
            .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .collect();
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: Box::new(watcher), changes })
    }

    /// Waits for a change, and until it has settled. Cancel safe, but for the waiting.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is gone; there are no changes any more.
            std::future::pending::<()>().await;
        }
        sleep(SETTLE).await;
        while self.changes.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tokio::time::timeout;

    use super::*;

    /// Changes files in each way that operators and Kubernetes do.
    async fn notices_all(watch: impl FnOnce(&[PathBuf]) -> notify::Result<Files>) {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("tokens"), version).expect("written");
        }
        symlink("v1", at("data")).expect("linked");
        symlink("data/tokens", at("tokens")).expect("linked");
        fs::write(at("plain"), "1").expect("written");
        let mut files = watch(&[at("tokens"), at("plain")]).expect("watched");
        let limit = Duration::from_secs(10);

        fs::write(at("plain"), "2").expect("written");
        timeout(limit, files.changed()).await.expect("a file that is written");
        fs::write(at("new"), "3").expect("written");
        fs::rename(at("new"), at("plain")).expect("renamed");
        timeout(limit, files.changed()).await.expect("a file that is replaced");
        symlink("v2", at("data.new")).expect("linked");
        fs::rename(at("data.new"), at("data")).expect("turned");
        timeout(limit, files.changed()).await.expect("a link that is turned");
        assert_eq!(fs::read_to_string(at("tokens")).expect("read"), "v2");
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_linked_elsewhere_has_changed() {
        notices_all(Files::told).await;
    }

    #[tokio::test]
    async fn c9_changes_are_noticed_where_the_kernel_does_not_tell_of_them() {
        notices_all(|files| Files::polled(files, Duration::from_millis(50))).await;
    }
}
