//! Control groups (version 2) below the one that this process was given to divide, one for each
//! program that is started. What the kernel bounds and kills there are all processes of a group
//! together, wherever in a process tree they have got to.
//!
//! ```text
//! the group that was given      processes: none, once it is divided
//!  ├── service                  this process, and whoever was there with it
//!  └── cli-ID …                 one for each program that is started
//! ```
//!
//! Which groups are given: one that this process may write to, that is not the root of all groups
//! and in which there is nobody but this process, its parent and its children; or one that an earlier
//! life has divided, if this one is begun in its `service`. systemd gives one with
//! `Delegate=yes`; a container has one if its `/sys/fs/cgroup` can be written to.
//!
//! Invariants: a process is in its group before it is the program, so that nothing it ever starts is
//! elsewhere; a group is removed by whoever made it, when nothing in it lives. Source of names and
//! meanings: the kernel's `Documentation/admin-guide/cgroup-v2.rst`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::time::Instant;

use super::{launch::Prepare, procfs};

/// Where the service is.
const SERVICE: &str = "service";

/// What the names of the groups of programs begin with.
const PROGRAM: &str = "cli-";

/// What is bounded in them. Without these two there is no use in groups.
const NEEDED: [&str; 2] = ["memory", "pids"];

/// The weight of the service for processor time, the most that there is: whoever waits for many
/// programs is not to wait for them to use less.
const SERVICE_WEIGHT: &str = "10000";

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether it is. The kernel tells by inotify, too, which one agent
/// can use up for all.
const EVERY: Duration = Duration::from_millis(2);

/// What a group is held to; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of memory, caches that cannot be given back included. The kernel ends all of the group
    /// that holds more.
    pub memory: Option<u64>,
    /// Processes and threads. The kernel refuses more.
    pub tasks: Option<u64>,
    /// Its part of processor time that is scarce, beside groups of weight 100; 1 to 10 000.
    pub cpu_weight: u64,
}

/// A group that was given to be divided. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated {
    path: PathBuf,
    bounds: Bounds,
}

/// Why no group can be divided here.
#[derive(Debug)]
pub struct NotDelegated(String);

impl fmt::Display for NotDelegated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Delegated {
    /// Divides the group that this process is in, and has all who are in it go into one of its own.
    /// Groups that an earlier life has left in it are ended and removed. Waits for processes.
    pub fn take(bounds: Bounds) -> Result<Self, NotDelegated> {
        let own = own_group()?;
        if let Some(path) = divided_before(&own) {
            let delegated = Self { path, bounds };
            delegated.sweep();
            return Ok(delegated);
        }
        let path = own;
        let at = |name: &str| path.join(name);
        let refused = |what: &str, error: &io::Error| {
            NotDelegated(format!("{what} in {}: {error}", path.display()))
        };
        // The root of all groups has no type.
        if !at("cgroup.type").exists() {
            return Err(NotDelegated("this process is in the root of all groups".into()));
        }
        let controllers = read(&at("cgroup.controllers"))
            .map_err(|error| refused("cgroup.controllers", &error))?;
        let has = |wanted: &str| controllers.split_whitespace().any(|name| name == wanted);
        if let Some(missing) = NEEDED.iter().find(|name| !has(name)) {
            return Err(NotDelegated(format!("the controller {missing} is not given")));
        }
        let members = members(&path).map_err(|error| refused("cgroup.procs", &error))?;
        if let Some(other) = members.iter().find(|pid| !is_ours(**pid)) {
            return Err(NotDelegated(format!("process {other} is in this group, too")));
        }
        let service = at(SERVICE);
        fs::create_dir(&service)
            .or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .map_err(|error| refused("no group can be made", &error))?;
        let divided = divide(&path, &service, &members, has("cpu"));
        divided.map_err(|error| refused("it cannot be divided", &error))?;
        let delegated = Self { path, bounds };
        delegated.sweep();
        Ok(delegated)
    }

    /// Makes a group for a program. The name is made of `id`.
    pub fn make(&self, id: &str) -> io::Result<Group> {
        let path = self.path.join(format!("{PROGRAM}{id}"));
        let group = Group { path, memory: self.bounds.memory };
        fs::create_dir(&group.path)?;
        let write = |name: &str, value: &str| fs::write(group.path.join(name), value);
        if let Some(bytes) = self.bounds.memory {
            write("memory.max", &bytes.to_string())?;
            write("memory.oom.group", "1")?;
            // A kernel without swap has no such file.
            write("memory.swap.max", "0").ok();
        }
        if let Some(tasks) = self.bounds.tasks {
            write("pids.max", &tasks.to_string())?;
        }
        // This one need not be given.
        write("cpu.weight", &self.bounds.cpu_weight.to_string()).ok();
        Ok(group)
    }

    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(PROGRAM) {
                Group { path: entry.path(), memory: None }.end();
            }
        }
    }
}

/// The group of this process, as this process can reach it.
fn own_group() -> Result<PathBuf, NotDelegated> {
    let unreadable = |error: io::Error| NotDelegated(format!("/proc/self: {error}"));
    let groups = read(Path::new("/proc/self/cgroup")).map_err(unreadable)?;
    let mounts = read(Path::new("/proc/self/mountinfo")).map_err(unreadable)?;
    let (own, (root, place)) = own_path(&groups)
        .zip(mount_of_groups(&mounts))
        .ok_or_else(|| NotDelegated("there are no control groups of version 2".into()))?;
    // What is mounted may be a part of all groups.
    let below = own.strip_prefix(root).unwrap_or(own).trim_start_matches('/');
    Ok(Path::new(place).join(below))
}

/// The group that an earlier life has divided, where whoever starts this one again does so where the
/// earlier one was: nobody can be in the group itself any more.
fn divided_before(own: &Path) -> Option<PathBuf> {
    let group = own.parent().filter(|_| own.file_name().is_some_and(|name| name == SERVICE))?;
    let given_on = read(&group.join("cgroup.subtree_control")).ok()?;
    let has = |wanted: &&str| given_on.split_whitespace().any(|name| name == *wanted);
    let writable = rustix::fs::access(group, rustix::fs::Access::WRITE_OK).is_ok();
    (writable && NEEDED.iter().all(has)).then(|| group.to_owned())
}

/// The path of the one group of version 2.
fn own_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Which part of all groups of version 2 is mounted, and where.
fn mount_of_groups(mounts: &str) -> Option<(&str, &str)> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let found = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then_some(found)
    })
}

fn read(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
}

fn members(group: &Path) -> io::Result<Vec<u32>> {
    let members = read(&group.join("cgroup.procs"))?;
    Ok(members.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Whether a process is this one, its parent, which then is its supervisor, or a child.
fn is_ours(pid: u32) -> bool {
    let own = std::process::id();
    let parent = |pid| procfs::entry_of(pid).map(|entry| entry.parent);
    pid == own || parent(own) == Some(pid) || parent(pid) == Some(own)
}

/// A group that gives its controllers on has no processes of its own.
fn divide(group: &Path, service: &Path, members: &[u32], cpu: bool) -> io::Result<()> {
    for pid in members {
        match fs::write(service.join("cgroup.procs"), pid.to_string()) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    let controllers = if cpu { "+memory +pids +cpu" } else { "+memory +pids" };
    fs::write(group.join("cgroup.subtree_control"), controllers)?;
    if cpu {
        fs::write(service.join("cpu.weight"), SERVICE_WEIGHT)?;
    }
    Ok(())
}

/// The group of one program. Whoever has it has to [end](Self::end) it.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
    /// Bytes of memory that it may hold.
    memory: Option<u64>,
}

impl Group {
    /// Has the process of a command go into the group before it is the program.
    #[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
    pub fn join_in(&self, command: &mut impl Prepare) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let members = openat(CWD, self.path.join("cgroup.procs"), flags, Mode::empty())?;
        let prepare = move || match rustix::io::write(&members, b"0") {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        // SAFETY: one system call that is safe between fork and exec, no allocation.
        unsafe {
            command.prepare(prepare);
        }
        Ok(())
    }

    /// Kills all that is in it, those that fork meanwhile as well.
    pub fn kill(&self) {
        // It is gone, or the kernel is older than 5.14: then others have to.
        fs::write(self.path.join("cgroup.kill"), "1").ok();
    }

    /// What the group may hold, if the kernel has ended a process of it because it held more.
    pub fn ran_out_of_memory(&self) -> Option<u64> {
        let events = read(&self.path.join("memory.events")).ok()?;
        self.memory.filter(|_| count(&events, "oom_kill").is_some_and(|kills| kills > 0))
    }

    /// Kills what is in it, waits until that is gone, and removes it. Returns whether nothing is
    /// left. Waits: not for a runtime's own threads.
    pub fn end(&self) -> bool {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => return true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
                Err(_) if Instant::now() < deadline => thread::sleep(EVERY),
                Err(_) => return false,
            }
        }
    }
}

/// A figure of a file that has one on each line.
fn count(events: &str, name: &str) -> Option<u64> {
    let line = events.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_the_one_of_version_2() {
        let groups = "9:name=systemd:/init\n4:memory:/a\n0::/system.slice/pool.service\n";
        assert_eq!(own_path(groups), Some("/system.slice/pool.service"));
        assert_eq!(own_path("4:memory:/a\n"), None);
    }

    #[test]
    fn where_the_groups_are_mounted_is_told_by_the_kind_of_file_system() {
        let mounts = "25 1 0:22 / /proc rw - proc proc rw\n\
                      30 1 0:26 /a /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 1 0:27 /pod /sys/fs/cgroup ro,nosuid shared:10 master:2 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of_groups(mounts), Some(("/pod", "/sys/fs/cgroup")));
        assert_eq!(mount_of_groups("25 1 0:22 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn a_figure_is_told_by_its_whole_name() {
        let events = "low 0\nhigh 3\nmax 17\noom 2\noom_kill 1\noom_group_kill 5\n";
        assert_eq!((count(events, "oom_kill"), count(events, "oom")), (Some(1), Some(2)));
        assert_eq!(count(events, "oom_"), None);
    }

    #[test]
    fn a_process_its_parent_and_its_children_belong_together() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("started");
        let parent = procfs::entry_of(std::process::id()).expect("it runs").parent;
        assert!(is_ours(std::process::id()) && is_ours(child.id()) && is_ours(parent));
        assert!(!is_ours(u32::MAX));
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
