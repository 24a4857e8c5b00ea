//! What process trees hold, memory, tasks and files on disk, and bounds to it. Knows nothing of
//! what the processes are.

mod disk;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub use disk::Workspace;

use crate::{
    domain::exit::{Overrun, Resource},
    os::{
        looks::Looks,
        procfs::{Look, tasks_of_machine},
    },
};

/// How often the trees are measured. Nothing tells of memory that grows: the kernel's own
/// ways to bound it are not to be had everywhere.
const EVERY: Duration = Duration::from_millis(500);

/// How often they are while one of them has many tasks, and how often it is asked whether the
/// machine has come to have many more: what forks can have thousands within [`EVERY`].
const AT_ONCE: Duration = Duration::from_millis(100);

/// Which part of the bound are many tasks.
const MANY: u64 = 4;

/// The rest after a look, in times of what it took: looking must not become a load itself.
const REST: u32 = 4;

/// The longest rest: memory that grows has to be seen.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Resident bytes of the given processes and all their descendants. Pages that they
/// share are counted for each.
pub fn resident_bytes(look: &Look, roots: &[u32]) -> u64 {
    roots.iter().map(|root| look.usage(*root).bytes).sum()
}

/// What a tree may hold; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Resident bytes, and bytes of files in memory.
    pub memory: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Bytes of files on disk.
    pub files: Option<u64>,
}

/// Measures the trees of all processes that are added, in one look for all.
#[derive(Debug)]
pub struct Watch {
    bounds: Allowed,
    /// What it sees is there for others, too.
    looks: Arc<Looks>,
    trees: Mutex<Vec<Weak<Tree>>>,
    /// For who measures processes, and who measures files.
    added: [Notify; 2],
}

/// A file system in memory that a tree of processes has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMemory {
    /// Where those processes see it.
    pub place: PathBuf,
    /// The same place, as this process can reach it.
    pub reached_at: PathBuf,
}

/// A process and its descendants, for as long as somebody holds this.
#[derive(Debug)]
pub struct Tree {
    root: u32,
    in_memory: Vec<InMemory>,
    workspace: Workspace,
    bounds: Allowed,
    overrun: OnceLock<Overrun>,
    over: CancellationToken,
}

impl Watch {
    /// Bounds each tree; `None` if there is nothing to bound.
    pub fn new(bounds: Allowed, looks: Arc<Looks>) -> Option<Self> {
        let (trees, added) = (Mutex::default(), <[Notify; 2]>::default());
        let watch = Self { bounds, looks, trees, added };
        (bounds != Allowed::default()).then_some(watch)
    }

    /// Watches a process and its descendants from now on, and what they keep in file systems
    /// in memory and in their own folders.
    pub fn add(&self, root: u32, in_memory: Vec<InMemory>, workspace: Workspace) -> Arc<Tree> {
        let tree = Arc::new(Tree {
            root,
            in_memory,
            workspace,
            bounds: self.bounds,
            overrun: OnceLock::new(),
            over: CancellationToken::new(),
        });
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&tree));
        self.added.iter().for_each(Notify::notify_one);
        tree
    }

    /// Measures for as long as it is polled; rests while there is nothing to measure.
    pub async fn run(&self) {
        let Allowed { memory, processes, tasks, files } = self.bounds;
        let of_processes = memory.or(processes).or(tasks);
        tokio::join!(
            async {
                if of_processes.is_some() {
                    self.measure_trees().await;
                }
            },
            async {
                if let Some(limit) = files {
                    self.measure_files(limit).await;
                }
            }
        );
    }

    async fn measure_files(&self, limit: u64) {
        let mut pace = disk::Pace::new(limit);
        loop {
            let mut trees = self.living();
            trees.retain(|tree| tree.workspace.is_some());
            if trees.is_empty() {
                self.added[1].notified().await;
                continue;
            }
            let looks = Arc::clone(&self.looks);
            let round = tokio::task::spawn_blocking(move || {
                pace.measure_if_due(&looks, &trees);
                pace
            });
            pace = round.await.unwrap_or(pace);
            sleep(disk::EVERY).await;
        }
    }

    async fn measure_trees(&self) {
        let mut pace = Pace { many: self.bounds.tasks.map(|tasks| tasks / MANY), last: None };
        loop {
            let trees = self.living();
            if trees.is_empty() {
                self.added[0].notified().await;
                continue;
            }
            let looks = Arc::clone(&self.looks);
            // A look that failed shows nothing of any of them.
            let round = tokio::task::spawn_blocking(move || {
                let rest = pace.measure_if_due(&looks, &trees);
                (pace, rest)
            });
            let rest;
            (pace, rest) = round.await.unwrap_or((pace, EVERY));
            sleep(rest).await;
        }
    }

    fn living(&self) -> Vec<Arc<Tree>> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.retain(|tree| tree.strong_count() > 0);
        trees.iter().filter_map(Weak::upgrade).collect()
    }
}

/// When to measure.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How many tasks are many; `None` if they are not bounded.
    many: Option<u64>,
    last: Option<Seen>,
}

/// What was seen at the last measurement.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    /// Tasks of the whole machine, as far as it says so.
    all_tasks: Option<u64>,
    /// Tasks of the tree that has most of them.
    most_tasks: u64,
}

impl Pace {
    /// Measures if it is time to. Returns how long to rest.
    fn measure_if_due(&mut self, looks: &Looks, trees: &[Arc<Tree>]) -> Duration {
        let at = Instant::now();
        let all_tasks = self.many.and_then(|_| tasks_of_machine());
        if !self.is_due(at, all_tasks) {
            return AT_ONCE;
        }
        let most_tasks = looks.take().map_or(0, |look| measure(&look, trees));
        self.last = Some(Seen { at, all_tasks, most_tasks });
        let shortest = if self.many.is_some() { AT_ONCE } else { EVERY };
        rest_after(at.elapsed(), shortest)
    }

    fn is_due(&self, now: Instant, all_tasks: Option<u64>) -> bool {
        let Some(Seen { at, all_tasks: before, most_tasks }) = self.last else { return true };
        let more = all_tasks.zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        now >= at + EVERY || self.many.is_some_and(|many| most_tasks > many || more > many)
    }
}

/// How long to rest after a look that took so long. A machine with thousands of processes takes
/// longer for one than there is between two of them otherwise.
fn rest_after(took: Duration, shortest: Duration) -> Duration {
    (took * REST).clamp(shortest, LONGEST_REST)
}

/// Ends the wait of whoever waits for a tree to hold too much. Returns the tasks of the tree
/// that has most of them.
fn measure(look: &Look, trees: &[Arc<Tree>]) -> u64 {
    let measured = trees.iter().map(|tree| {
        let usage = look.usage(tree.root);
        let over = |resource, used, limit: Option<u64>| {
            let limit = limit.filter(|limit| used > *limit)?;
            Some(Overrun { resource, limit, used })
        };
        let processes = || over(Resource::Processes, usage.processes, tree.bounds.processes);
        let tasks = over(Resource::Tasks, usage.tasks, tree.bounds.tasks);
        let overrun = tasks.or_else(processes).or_else(|| {
            let memory = usage.bytes + tree.bounds.memory.map_or(0, |_| tree.bytes_of_files());
            over(Resource::Memory, memory, tree.bounds.memory)
        });
        if let Some(overrun) = overrun {
            disk::Measured::exceeded(tree, overrun);
        }
        usage.tasks
    });
    measured.max().unwrap_or_default()
}

/// What the kernel holds for a file in memory beside its contents: about a kilobyte for each
/// was seen, of empty files and links.
const FILE_OVERHEAD: u64 = 1 << 10;

/// Bytes that a file system holds, and what the kernel holds for its files. One that cannot be
/// looked at belongs to processes that have just ended.
fn bytes_in(file_system: &InMemory) -> u64 {
    let InMemory { place, reached_at } = file_system;
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    // A process that has only just been started still sees the machine's own at that place,
    // with all that the machine keeps there.
    if device(reached_at) == device(place) {
        return 0;
    }
    rustix::fs::statvfs(reached_at).map_or(0, |fs| {
        let contents = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
        let files = fs.f_files.saturating_sub(fs.f_ffree).saturating_mul(FILE_OVERHEAD);
        contents + files
    })
}

impl disk::Measured for Arc<Tree> {
    fn root(&self) -> u32 {
        self.root
    }

    fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    fn exceeded(&self, overrun: Overrun) {
        // What is on its way to its end holds less, or more: the first counts.
        self.overrun.get_or_init(|| overrun);
        self.over.cancel();
    }
}

impl Tree {
    /// Waits until it holds more than it may.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// What it has held more of than it may, if it ever has.
    pub fn overrun(&self) -> Option<Overrun> {
        self.overrun.get().copied()
    }

    fn bytes_of_files(&self) -> u64 {
        self.in_memory.iter().map(bytes_in).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(memory: Option<u64>, tasks: Option<u64>) -> Watch {
        Watch::new(Allowed { memory, tasks, ..Allowed::default() }, Arc::default())
            .expect("something to bound")
    }

    #[test]
    fn a_tree_over_its_limit_is_told_apart_from_one_within_it() {
        let (small, large) = (watch(Some(1), None), watch(Some(1 << 50), Some(1 << 20)));
        let (over, within) = (
            small.add(std::process::id(), Vec::new(), Workspace::default()),
            large.add(std::process::id(), Vec::new(), Workspace::default()),
        );
        let look = Look::take().expect("/proc");
        assert!(measure(&look, &[Arc::clone(&over), Arc::clone(&within)]) > 0);
        let overrun = over.overrun().expect("more than a byte");
        assert_eq!((overrun.resource, overrun.limit), (Resource::Memory, 1));
        assert!(overrun.used > 1 << 20, "{overrun:?}");
        assert_eq!(within.overrun(), None);
        drop(over);
        assert!(small.living().is_empty());
        assert!(Watch::new(Allowed::default(), Arc::default()).is_none());
    }

    #[test]
    fn what_the_machine_keeps_is_not_taken_for_that_of_a_tree_that_has_just_begun() {
        let at = |reached_at: &str| InMemory { place: "/".into(), reached_at: reached_at.into() };
        assert_eq!(bytes_in(&at("/proc/self/root/")), 0, "it has no mounts of its own yet");
        assert_eq!(bytes_in(&at("/proc/self/gone")), 0, "it has ended");
        let shared = tempfile::tempdir_in("/dev/shm").expect("a file system in memory");
        std::fs::write(shared.path().join("held"), [1; 1 << 16]).expect("written");
        let held = bytes_in(&at(&format!("/proc/self/root{}", shared.path().display())));
        assert!(held >= 1 << 16, "{held}");
    }

    #[tokio::test]
    async fn b2_tasks_are_bounded_as_memory_is() {
        let watch = watch(None, Some(0));
        let tree = watch.add(std::process::id(), Vec::new(), Workspace::default());
        tokio::select! {
            () = watch.run() => {}
            () = tree.over() => {}
        }
        let overrun = tree.overrun().expect("itself, at least");
        assert_eq!((overrun.resource, overrun.limit), (Resource::Tasks, 0));
        assert!(overrun.used > 0);
    }

    #[test]
    fn looking_takes_a_fifth_of_the_time_at_most() {
        let millis = Duration::from_millis;
        assert_eq!(rest_after(millis(1), AT_ONCE), AT_ONCE);
        assert_eq!(rest_after(millis(200), AT_ONCE), millis(800));
        assert_eq!(rest_after(millis(200), EVERY), millis(800));
        // But for a machine on which nothing can be watched any more.
        assert_eq!(rest_after(Duration::from_secs(60), EVERY), LONGEST_REST);
    }

    #[tokio::test]
    async fn b2_many_tasks_are_looked_at_sooner() {
        let at = Instant::now();
        let soon = at + AT_ONCE;
        let due = |many, most_tasks, all_tasks| {
            let last = Some(Seen { at, all_tasks: Some(100), most_tasks });
            Pace { many, last }.is_due(soon, all_tasks)
        };
        assert!(!due(Some(50), 50, Some(150)), "nothing has happened");
        assert!(due(Some(50), 51, Some(100)), "a tree has many");
        assert!(due(Some(50), 1, Some(151)), "the machine has many more");
        assert!(!due(Some(50), 1, None), "it does not say so any more");
        assert!(!due(None, 1000, Some(1000)), "they are not bounded");
        let seen = Seen { at, all_tasks: None, most_tasks: 0 };
        assert!(Pace { many: None, last: Some(seen) }.is_due(at + EVERY, None));
        assert!(Pace { many: None, last: None }.is_due(at, None));
    }
}
