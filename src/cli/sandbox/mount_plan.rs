//! What of this machine an enclosed CLI may not see, found out once at the start.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Component, Path, PathBuf},
};

use crate::{cli::program, os::limits};

/// Where programs share memory by name. It is writable, as `/tmp` is.
pub const SHARED_MEMORY: &str = "/dev/shm";

/// The program that makes the sandbox, looked up on PATH.
pub const BWRAP: &str = "bwrap";

/// Folders that every session has for itself, empty at its start.
const PRIVATE: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/var/run"];

/// Folders in which people, and services, keep what is theirs.
const HOMES: [&str; 2] = ["/home", "/root"];

/// First folders of paths that the whole system relies on: only files are hidden there.
const SYSTEM: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib64", "dev", "proc", "sys"];

/// What is hidden, and what is seen all the same. All paths are real ones, except the
/// name that the CLI is called by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Folders that are there and empty. No one of them lies in another.
    pub folders: Vec<PathBuf>,
    /// Files that are there and empty.
    pub files: Vec<PathBuf>,
    /// What is seen although it lies in a hidden folder: where it is, where it is shown.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// Bytes of each file system in memory that a session may write to.
    pub tmp_bytes: u64,
    /// Whether sessions may make user namespaces, because it cannot be kept from them here.
    pub nesting: bool,
    /// Whether the kernel bounds what it counts for a user for each session, if sessions have
    /// user namespaces of their own.
    pub counted: bool,
    /// Processes and threads that a session may have; 0 is no bound.
    pub max_tasks: u64,
    /// Whether each session has a network of its own, which leads nowhere by itself.
    pub own_network: bool,
    /// The program that has the supervisor as a subcommand.
    pub supervisor: PathBuf,
    /// Bubblewrap, looked up once: a variable that a caller sets is not to say where it is.
    pub bwrap: PathBuf,
}

/// What the operator says about what sessions see.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The state folder: hidden.
    pub state_dir: &'a Path,
    /// Files of the service's own: hidden.
    pub secrets: &'a [PathBuf],
    /// The executable of the CLI: seen, wherever it lies.
    pub program: &'a Path,
    /// What is seen, read-only, although it would be hidden.
    pub visible: Vec<PathBuf>,
    /// What is hidden beside that.
    pub hidden: Vec<PathBuf>,
    /// Bytes of each file system in memory that a session may write to.
    pub tmp_bytes: u64,
    /// Processes and threads that a session may have; 0 is no bound.
    pub max_tasks: u64,
    /// Whether each session has a network of its own.
    pub own_network: bool,
    /// The program that has the supervisor as a subcommand.
    pub supervisor: &'a Path,
}

impl MountPlan {
    /// Looks at this machine.
    pub fn of_this_machine(view: &View<'_>) -> Self {
        let View {
            state_dir,
            secrets,
            program,
            visible,
            hidden,
            tmp_bytes,
            max_tasks,
            own_network,
            supervisor,
        } = view.clone();
        let home = env::var_os("HOME").map(PathBuf::from);
        let folders = PRIVATE.into_iter().chain(HOMES).map(PathBuf::from);
        let folders = folders.chain(home).chain([state_dir.to_owned()]);
        let secrets: Vec<PathBuf> = secrets.iter().filter_map(|file| place_of(file)).collect();
        let hidden = hidden.iter().filter_map(|path| real(path));
        let (more, hidden): (Vec<_>, Vec<_>) = hidden.partition(|path| path.is_dir());
        let own = secrets.iter().filter_map(|file| folder_of_its_own(file));
        let folders = outermost(folders.filter_map(|folder| real(&folder)).chain(own).chain(more));
        let apart = |file: &PathBuf| file.exists() && !lies_in(file, &folders);
        let files = secrets.into_iter().chain(hidden).filter(apart).collect();
        let mut shown = Vec::new();
        // Names are looked up by it, and it often is a link into /run.
        let resolver = real(Path::new("/etc/resolv.conf"));
        shown.extend(resolver.filter(|file| lies_in(file, &folders)).map(|f| (f.clone(), f)));
        shown.extend(executable(program, &folders));
        let also = visible.iter().filter_map(|path| Some((real(path)?, path.clone())));
        shown.extend(also.filter(|(place, at)| lies_in(place, &folders) || lies_in(at, &folders)));
        let (supervisor, counted) = (supervisor.to_owned(), limits::counts_by_namespace());
        // What is not there fails to start.
        let bwrap = program::find(Path::new(BWRAP)).unwrap_or_else(|| BWRAP.into());
        let nesting = false;
        Self {
            folders,
            files,
            shown,
            tmp_bytes,
            nesting,
            counted,
            max_tasks,
            own_network,
            supervisor,
            bwrap,
        }
    }

    /// Processes and threads that the kernel is to let a session have, 0 for no bound; `None`
    /// if it cannot bound them for each session. It is more than the session may have: past
    /// that the service ends it, with a reason, and the kernel bounds what comes until then.
    pub fn task_wall(&self) -> Option<u64> {
        let own = self.counted && !self.nesting;
        own.then(|| self.max_tasks.saturating_add(self.max_tasks / 4))
    }

    /// Whether a session may write to a folder that is its own, instead of one that is
    /// only hidden.
    pub fn is_private(&self, folder: &Path) -> bool {
        PRIVATE.iter().any(|name| folder == Path::new(name))
    }

    /// File systems in memory that a session may write to.
    pub fn in_memory(&self) -> Vec<PathBuf> {
        let private = self.folders.iter().filter(|folder| self.is_private(folder));
        private.cloned().chain([SHARED_MEMORY.into()]).collect()
    }

    /// Whether a path exists on the machine and is not seen in the sandbox.
    pub fn hides(&self, path: &Path) -> bool {
        let Some(real) = real(path) else { return false };
        let shown = |place: &Path| self.shown.iter().any(|(_, at)| place.starts_with(at));
        (lies_in(&real, &self.folders) || self.files.contains(&real))
            && !shown(&real)
            && !shown(path)
    }
}

/// The path without links, if there is something.
fn real(path: &Path) -> Option<PathBuf> {
    // The root is no folder of anybody's.
    fs::canonicalize(path).ok().filter(|path| path.parent().is_some())
}

/// Where a file is, or will be once it is made.
fn place_of(file: &Path) -> Option<PathBuf> {
    real(file).or_else(|| Some(real(file.parent()?)?.join(file.file_name()?)))
}

fn lies_in(path: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

fn outermost(folders: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    // Sorted, a folder comes before those in it.
    for folder in folders.collect::<BTreeSet<_>>() {
        if !lies_in(&folder, &kept) {
            kept.push(folder);
        }
    }
    kept
}

/// The folder of a secret, which then is hidden as a whole: files that come later, as in
/// a volume whose content is swapped, are hidden, too.
fn folder_of_its_own(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    let names: Vec<_> =
        folder.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let system =
        names.first().is_some_and(|first| SYSTEM.iter().any(|name| first.as_os_str() == *name));
    (names.len() >= 2 && !system).then(|| folder.to_owned())
}

/// Where the executable is and where it is to be seen, as far as it would be hidden.
fn executable(program: &Path, folders: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    let Some(named) = program::find(program) else { return Vec::new() };
    let Some(real) = real(&named) else { return Vec::new() };
    let mut shown = Vec::new();
    if lies_in(&real, folders) {
        // A script comes with others beside it.
        let folder = real.parent().filter(|folder| {
            !program::is_native(&real) && !folders.iter().any(|hidden| hidden.starts_with(folder))
        });
        let all = folder.unwrap_or(&real).to_owned();
        shown.push((all.clone(), all));
    }
    if named != real && lies_in(&named, folders) {
        shown.push((real, named));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_a_hidden_one_needs_no_hiding() {
        let folders = ["/tmp/x", "/tmp", "/root", "/srv/pool", "/tmpfoo"].map(PathBuf::from);
        assert_eq!(
            outermost(folders.into_iter()),
            ["/root", "/srv/pool", "/tmp", "/tmpfoo"].map(PathBuf::from)
        );
    }

    #[test]
    fn b4_what_the_operator_shows_is_not_hidden() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let root = folder.path().canonicalize().expect("real");
        let (shown, hidden) = (root.join("ca.pem"), root.join("other.pem"));
        fs::write(&shown, "a certificate").expect("written");
        fs::write(&hidden, "another").expect("written");
        let plan = MountPlan::of_this_machine(&View {
            state_dir: &root,
            secrets: &[],
            program: Path::new("sh"),
            visible: vec![shown.clone(), root.join("not-there")],
            hidden: vec![],
            tmp_bytes: 1,
            max_tasks: 0,
            own_network: false,
            supervisor: Path::new("/proc/self/exe"),
        });
        assert!(plan.shown.contains(&(shown.clone(), shown.clone())), "{plan:?}");
        assert!(!plan.hides(&shown) && plan.hides(&hidden));
        assert!(!plan.hides(Path::new("/not-there")) && !plan.hides(Path::new("/etc/passwd")));
    }

    #[test]
    fn a_secret_hides_its_folder_unless_that_is_everybodys() {
        let folder = |file: &str| folder_of_its_own(Path::new(file));
        assert_eq!(folder("/etc/session-pool/config.toml"), Some("/etc/session-pool".into()));
        assert_eq!(folder("/etc/session-pool.toml"), None);
        assert_eq!(folder("/usr/local/etc/session-pool.toml"), None);
        assert_eq!(folder("/config.toml"), None);
    }

    #[test]
    fn the_executable_is_seen_by_its_name_and_where_it_lies() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let root = folder.path().canonicalize().expect("real");
        let (binary, script, link) = (root.join("binary"), root.join("script"), root.join("link"));
        fs::write(&binary, b"\x7fELF...").expect("written");
        fs::write(&script, b"#!/usr/bin/env node").expect("written");
        std::os::unix::fs::symlink(&binary, &link).expect("linked");
        let hidden = [root.parent().expect("a parent").to_owned()];
        let seen = |program: &Path| executable(program, &hidden);
        assert_eq!(seen(&binary), [(binary.clone(), binary.clone())]);
        assert_eq!(seen(&link), [(binary.clone(), binary.clone()), (binary.clone(), link.clone())]);
        assert_eq!(seen(&script), [(root.clone(), root.clone())]);
        // Where the folder itself is hidden, it does not come back as a whole.
        let hidden = [root.clone()];
        assert_eq!(executable(&script, &hidden), [(script.clone(), script)]);
        assert_eq!(executable(&binary, &[]), []);
    }
}
