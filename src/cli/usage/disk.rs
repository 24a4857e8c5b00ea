//! What a session keeps on disk, and the bound to it. No kernel bounds a folder everywhere, so
//! the folders are measured: once the disk holds an eighth of the bound more than when that was last done,
//! and after a minute in any case.
//!
//! Invariant: a process may not add to what was over the bound when it began, but it may begin: how
//! else would anything be removed?

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::statvfs;
use tokio::time::Instant;

use crate::{
    domain::exit::{Overrun, Resource},
    os::{
        confined::{NAME_BYTES, held_below},
        looks::Looks,
        unlinked::unlinked_bytes,
    },
};

/// How often the disk is asked how much it holds.
pub(super) const EVERY: Duration = Duration::from_millis(250);

/// How long nothing is measured at most.
const LONGEST: Duration = Duration::from_secs(60);

/// The rest after a measurement, in times of what it took.
const REST: u32 = 4;

/// Which part of the bound the disk has to hold more for folders to be measured.
const PART: u64 = 8;

/// What a session may write that was over the bound when its process began.
const SLACK: u64 = 1 << 20;

/// The folders of one session.
#[derive(Debug, Default)]
pub struct Workspace {
    folders: Vec<PathBuf>,
    /// What they may hold; `None` as long as nobody has measured them.
    allowed: Mutex<Option<u64>>,
}

impl Workspace {
    /// Those folders, all on one disk. One that is not there holds nothing.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, allowed: Mutex::default() }
    }

    /// Whether there is anything to measure.
    pub(super) fn is_some(&self) -> bool {
        !self.folders.is_empty()
    }

    fn is_new(&self) -> bool {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Measures, `processes` being the session's; returns what is too much.
    fn check(&self, limit: u64, processes: &[u32]) -> Option<Overrun> {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |used| Some(Overrun { resource: Resource::Workspace, limit, used });
        // What cannot be counted is more than anybody needs.
        let Some(held) = self.held(allowed.unwrap_or(u64::MAX), processes) else {
            return over(limit.saturating_add(1));
        };
        match *allowed {
            Some(most) if held > most => over(held),
            _ => {
                let left = if held > limit { held.saturating_add(SLACK) } else { limit };
                *allowed = Some(allowed.map_or(left, |most| most.min(left)));
                None
            }
        }
    }

    fn held(&self, most: u64, processes: &[u32]) -> Option<u64> {
        let disk = self.folders.first()?;
        let mut held = unlinked_bytes(processes.iter().copied(), disk);
        for folder in &self.folders {
            // A disk that fails shows nothing; the session hears of it by itself.
            held += held_below(folder, most.saturating_sub(held)).unwrap_or(Some(0))?;
        }
        Some(held)
    }
}

/// Somebody with folders, and how to tell that they hold too much.
pub(super) trait Measured {
    /// The process whose descendants hold files open.
    fn root(&self) -> u32;
    /// The folders.
    fn workspace(&self) -> &Workspace;
    /// They hold too much.
    fn exceeded(&self, overrun: Overrun);
}

/// When to measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    limit: u64,
    last: Option<Seen>,
}

/// What the disk held at the last measurement, or less since, and how long that took.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    took: Duration,
    held: u64,
}

impl Pace {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, last: None }
    }

    /// Measures what is new, and all if it is time to. Waits for the disk.
    pub(super) fn measure_if_due<T: Measured>(&mut self, looks: &Looks, all: &[T]) {
        let at = Instant::now();
        let disk = all.iter().find_map(|it| it.workspace().folders.first());
        let held = disk.and_then(|folder| held_by_disk(folder)).unwrap_or_default();
        let due = self.is_due(at, held);
        // Of what has only just begun nobody need look at all processes: it holds no files open. Nor
        // does a look that failed show any.
        let look = if due { looks.take().unwrap_or_default() } else { Arc::default() };
        for it in all.iter().filter(|it| due || it.workspace().is_new()) {
            let processes = look.descendants(it.root(), None);
            if let Some(overrun) = it.workspace().check(self.limit, &processes) {
                it.exceeded(overrun);
            }
        }
        if due {
            self.last = Some(Seen { at, took: at.elapsed(), held });
        }
    }

    fn is_due(&mut self, now: Instant, held: u64) -> bool {
        let Some(seen) = &mut self.last else { return true };
        // Growth counts from the least that there was: something else may have been removed.
        seen.held = seen.held.min(held);
        let age = now.saturating_duration_since(seen.at);
        let more = held - seen.held;
        age >= seen.took * (1 + REST) && (age >= LONGEST || more >= self.limit / PART)
    }
}

/// Bytes that a disk holds, with what each name counts.
fn held_by_disk(folder: &Path) -> Option<u64> {
    let disk = statvfs(folder).ok()?;
    let contents = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize);
    let names = disk.f_files.saturating_sub(disk.f_ffree).saturating_mul(NAME_BYTES);
    Some(contents.saturating_add(names))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMIT: u64 = 4 << 20;

    fn fill(folder: &Path, name: &str, bytes: usize) {
        fs::write(folder.join(name), vec![1; bytes]).expect("written");
    }

    #[test]
    fn more_than_the_bound_is_too_much_in_all_folders_together() {
        let place = tempfile::tempdir().expect("a folder");
        let [one, other] = ["one", "other"].map(|name| place.path().join(name));
        for folder in [&one, &other] {
            fs::create_dir(folder).expect("made");
        }
        let workspace = Workspace::new(vec![one.clone(), place.path().join("gone"), other.clone()]);
        assert!(workspace.is_new());
        assert_eq!(workspace.check(LIMIT, &[]), None);
        fill(&one, "a", 3 << 20);
        assert_eq!(workspace.check(LIMIT, &[]), None);
        fill(&other, "b", 3 << 20);
        let over = workspace.check(LIMIT, &[]).expect("too much");
        assert_eq!((over.resource, over.limit), (Resource::Workspace, LIMIT));
        assert!(over.used > LIMIT, "{over:?}");
    }

    #[test]
    fn who_begins_over_the_bound_may_remove_and_add_no_more() {
        let place = tempfile::tempdir().expect("a folder");
        fill(place.path(), "a", 6 << 20);
        fill(place.path(), "b", 6 << 20);
        let workspace = Workspace::new(vec![place.path().to_owned()]);
        assert_eq!(workspace.check(LIMIT, &[]), None, "it may begin");
        fs::remove_file(place.path().join("b")).expect("removed");
        assert_eq!(workspace.check(LIMIT, &[]), None, "there is less");
        fill(place.path(), "b", 3 << 20);
        assert!(workspace.check(LIMIT, &[]).is_some(), "what was removed is not to come back");
    }

    #[test]
    fn it_is_time_when_the_disk_has_grown_or_a_minute_has_passed() {
        let now = Instant::now();
        let pace = || Pace {
            limit: 800,
            last: Some(Seen { at: now, took: Duration::from_secs(1), held: 1000 }),
        };
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(Pace::new(800).is_due(now, 0));
        assert!(!pace().is_due(after(59), 1099));
        assert!(pace().is_due(after(60), 0));
        assert!(pace().is_due(after(5), 1100));
        assert!(!pace().is_due(after(4), 1100), "looking is no load of its own");
        let mut pace = pace();
        assert!(!pace.is_due(after(5), 500));
        assert!(pace.is_due(after(6), 600), "something else was removed meanwhile");
    }
}
