//! How much memory process trees hold, and a bound to it. Knows nothing of what the
//! processes are.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::os::procfs::Look;

/// How often the trees are measured. Nothing tells of memory that grows: the kernel's own
/// ways to bound it are not to be had everywhere.
const EVERY: Duration = Duration::from_millis(500);

/// Resident bytes of the given processes and all their descendants. Pages that they
/// share are counted for each. Reads `/proc`: not for a runtime's own threads.
pub fn resident_bytes(roots: &[u32]) -> u64 {
    let look = Look::take().unwrap_or_default();
    roots.iter().map(|root| look.resident_bytes(*root)).sum()
}

/// More memory than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun {
    /// Bytes allowed.
    pub limit: u64,
    /// Bytes held.
    pub used: u64,
}

/// Measures the trees of all processes that are added, in one look for all.
#[derive(Debug)]
pub struct MemoryWatch {
    limit: u64,
    trees: Mutex<Vec<Weak<Tree>>>,
    added: Notify,
}

/// A process and its descendants, for as long as somebody holds this.
#[derive(Debug)]
pub struct Tree {
    root: u32,
    /// Where its own file systems in memory are mounted, as the service can reach them.
    in_memory: Vec<PathBuf>,
    limit: u64,
    used: AtomicU64,
    over: CancellationToken,
}

impl MemoryWatch {
    /// Bounds each tree to so many resident bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, trees: Mutex::default(), added: Notify::new() }
    }

    /// Watches a process and its descendants from now on, and what they keep in file systems
    /// in memory, which are mounted at `in_memory`.
    pub fn add(&self, root: u32, in_memory: Vec<PathBuf>) -> Arc<Tree> {
        let tree = Arc::new(Tree {
            root,
            in_memory,
            limit: self.limit,
            used: AtomicU64::new(0),
            over: CancellationToken::new(),
        });
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&tree));
        self.added.notify_one();
        tree
    }

    /// Measures for as long as it is polled; rests while there is nothing to measure.
    pub async fn run(&self) {
        loop {
            let trees = self.living();
            if trees.is_empty() {
                self.added.notified().await;
                continue;
            }
            // A look that failed shows nothing of any of them.
            drop(tokio::task::spawn_blocking(move || measure(&trees)).await);
            sleep(EVERY).await;
        }
    }

    fn living(&self) -> Vec<Arc<Tree>> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.retain(|tree| tree.strong_count() > 0);
        trees.iter().filter_map(Weak::upgrade).collect()
    }
}

fn measure(trees: &[Arc<Tree>]) {
    let Ok(look) = Look::take() else { return };
    for tree in trees {
        let files: u64 = tree.in_memory.iter().map(|place| bytes_in(place)).sum();
        let used = look.resident_bytes(tree.root) + files;
        if used > tree.limit && !tree.over.is_cancelled() {
            tree.used.store(used, Ordering::Relaxed);
            tree.over.cancel();
        }
    }
}

/// What the kernel holds for a file in memory beside its contents: about a kilobyte for each
/// was seen, of empty files and links.
const FILE_OVERHEAD: u64 = 1 << 10;

/// Bytes that a file system holds, and what the kernel holds for its files. One that cannot be
/// looked at belongs to processes that have just ended.
fn bytes_in(place: &Path) -> u64 {
    rustix::fs::statvfs(place).map_or(0, |fs| {
        let contents = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
        let files = fs.f_files.saturating_sub(fs.f_ffree).saturating_mul(FILE_OVERHEAD);
        contents + files
    })
}

impl Tree {
    /// Waits until it holds more than it may.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether it has ever held more than it may.
    pub fn overrun(&self) -> Option<Overrun> {
        let used = self.used.load(Ordering::Relaxed);
        self.over.is_cancelled().then_some(Overrun { limit: self.limit, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_over_its_limit_is_told_apart_from_one_within_it() {
        let (small, large) = (MemoryWatch::new(1), MemoryWatch::new(1 << 50));
        let (over, within) =
            (small.add(std::process::id(), Vec::new()), large.add(std::process::id(), Vec::new()));
        measure(&[Arc::clone(&over), Arc::clone(&within)]);
        let overrun = over.overrun().expect("more than a byte");
        assert_eq!(overrun.limit, 1);
        assert!(overrun.used > 1 << 20, "{overrun:?}");
        assert_eq!(within.overrun(), None);
        drop(over);
        assert!(small.living().is_empty());
    }
}
