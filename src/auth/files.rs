//! Says when files have changed. What is watched are their folders: a file that is
//! replaced, and a link that is turned to another folder as Kubernetes does with mounted
//! secrets, are changes of those.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::sleep};

/// How long after a change the next is waited for: files are replaced in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches the folders of some files.
#[derive(Debug)]
pub struct Files {
    _watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
}

impl Files {
    /// Watches these files, which need not all be there.
    pub fn watch(files: &[PathBuf]) -> notify::Result<Self> {
        let (sender, changes) = mpsc::channel(1);
        // Runs on a thread of the watcher's. One change that waits stands for all.
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    sender.try_send(()).ok();
                }
            })?;
        let folders: BTreeSet<&Path> = files
            .iter()
            .filter_map(|file| file.parent())
            .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .collect();
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, changes })
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

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_linked_elsewhere_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("tokens"), version).expect("written");
        }
        symlink("v1", at("data")).expect("linked");
        symlink("data/tokens", at("tokens")).expect("linked");
        fs::write(at("plain"), "1").expect("written");
        let mut files = Files::watch(&[at("tokens"), at("plain")]).expect("watched");
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
}
