//! The arguments of bubblewrap. Pure: the same plan and folders give the same arguments.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
};

use super::{
    Open, PinnedDir,
    mount_plan::{MountPlan, SHARED_MEMORY},
};
use crate::{cli::command::Folders, os::supervisor};

/// Where the first process in the sandbox finds its program.
const SUPERVISOR: &str = "/dev/session-pool";

/// Namespaces of processes, of shared memory and of host names; no capabilities; no
/// terminal to put words into. The network is the machine's, unless the plan says otherwise.
const ALWAYS: [&str; 8] = [
    "--die-with-parent",
    "--as-pid-1",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--new-session",
    "--cap-drop",
    "ALL",
];

/// Below `/proc`: what tells of the machine or of its other users, and is of no use to a CLI.
const MASKED_FILES: [&str; 6] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
];

/// Bytes of a directory that is only hidden: room for the names of what is mounted in it.
const HIDDEN_BYTES: u64 = 64 << 10;

/// The arguments before `--` and the command. Later ones lie over earlier ones: the machine read
/// only, over it what is hidden, over that what is shown, and the session's folders last, those
/// in memory before what is shown in them.
/// Those are given as they were opened: their names may have become links meanwhile.
/// Every file system in memory has a size, and whatever need not be written is read-only.
pub fn arguments(
    plan: &MountPlan,
    open: &Open,
    folders: &Folders,
    announce: RawFd,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ALWAYS.map(OsString::from).into();
    if !plan.nesting {
        arguments.extend(["--unshare-user", "--disable-userns"].map(OsString::from));
    }
    if plan.own_network {
        arguments.push("--unshare-net".into());
    }
    let mut add = |option: &str, paths: &[&Path]| {
        arguments.push(option.into());
        arguments.extend(paths.iter().map(|path| path.as_os_str().to_owned()));
    };
    add("--info-fd", &[Path::new(&announce.to_string())]);
    if let Some(filter) = &open.filter {
        add("--seccomp", &[Path::new(&filter.as_raw_fd().to_string())]);
    }
    add("--ro-bind", &[Path::new("/"), Path::new("/")]);
    let tmp_bytes = plan.tmp_bytes.to_string();
    let hidden_bytes = HIDDEN_BYTES.to_string();
    add("--dev", &[Path::new("/dev")]);
    add("--size", &[Path::new(&tmp_bytes)]);
    add("--tmpfs", &[Path::new(SHARED_MEMORY)]);
    if let Some(supervisor) = &open.supervisor {
        add(
            "--ro-bind-fd",
            &[Path::new(&supervisor.as_raw_fd().to_string()), Path::new(SUPERVISOR)],
        );
    }
    // The devices themselves are mounts of their own and stay as they are.
    add("--remount-ro", &[Path::new("/dev")]);
    add("--proc", &[Path::new("/proc")]);
    let there = |path: &&&str| Path::new(path).exists();
    for file in MASKED_FILES.iter().filter(there) {
        add("--ro-bind", &[Path::new("/dev/null"), Path::new(file)]);
    }
    // All of it, not only /proc/sys: files there belong to user 0, whatever its capabilities,
    // and bubblewrap covers only directories that its user could write to.
    add("--remount-ro", &[Path::new("/proc")]);
    for folder in &plan.folders {
        let size = if plan.is_private(folder) { &tmp_bytes } else { &hidden_bytes };
        add("--size", &[Path::new(size)]);
        add("--tmpfs", &[folder]);
    }
    for file in &plan.files {
        add("--ro-bind", &[Path::new("/dev/null"), file]);
    }
    for (place, shown_at) in &plan.shown {
        add("--ro-bind", &[place, shown_at]);
    }
    for folder in folders.in_memory() {
        add("--size", &[Path::new(&tmp_bytes)]);
        add("--tmpfs", &[folder]);
    }
    for (option, pinned) in [("--bind-fd", &open.folders), ("--ro-bind-fd", &open.placed)] {
        for PinnedDir { fd, path } in pinned {
            add(option, &[Path::new(&fd.as_raw_fd().to_string()), path]);
        }
    }
    // Last: what is mounted in them needed a place to be mounted on.
    for folder in plan.folders.iter().filter(|folder| !plan.is_private(folder)) {
        add("--remount-ro", &[folder]);
    }
    add("--chdir", &[&folders.work]);
    arguments.extend(first_process(plan, open));
    arguments
}

/// What begins in the namespace, and keeps the command that follows.
fn first_process(plan: &MountPlan, open: &Open) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["--", SUPERVISOR, supervisor::SUBCOMMAND].map(OsString::from).into();
    let first = match plan.task_wall() {
        Some(tasks) => format!("{}={tasks}", supervisor::FIRST),
        None => supervisor::FIRST.to_owned(),
    };
    arguments.push(first.into());
    if let Some(listen) = &open.listen {
        arguments.push(format!("{}{}", supervisor::LISTEN, listen.as_raw_fd()).into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_sessions_folders_lie_over_what_is_hidden() {
        let plan = MountPlan {
            folders: vec!["/home".into(), "/tmp".into(), "/var/lib/pool".into()],
            files: vec!["/etc/pool.toml".into()],
            shown: vec![("/home/pool/claude".into(), "/home/pool/claude".into())],
            tmp_bytes: 1000,
            nesting: false,
            counted: true,
            max_tasks: 2048,
            own_network: true,
            supervisor: "/proc/self/exe".into(),
            bwrap: "/usr/bin/bwrap".into(),
        };
        let folder = |path: &str| PinnedDir {
            fd: File::open("/dev/null").expect("opened").into(),
            path: path.into(),
        };
        let open = Open {
            folders: vec![folder("/var/lib/pool/work"), folder("/var/lib/pool/claude/projects")],
            placed: vec![folder("/var/lib/pool/claude/settings.json")],
            filter: Some(File::open("/dev/null").expect("opened").into()),
            supervisor: Some(File::open("/dev/null").expect("opened").into()),
            listen: Some(File::open("/dev/null").expect("opened").into()),
        };
        let listen = open.listen.as_ref().map(|fd| fd.as_raw_fd()).expect("opened");
        let supervisor = open.supervisor.as_ref().map(|fd| fd.as_raw_fd()).expect("opened");
        let [work, kept] = [0, 1].map(|index: usize| open.folders[index].fd.as_raw_fd());
        let placed = open.placed[0].fd.as_raw_fd();
        let folders = Folders {
            work: "/var/lib/pool/work".into(),
            config: "/var/lib/pool/claude".into(),
            home: "/var/lib/pool/home".into(),
            extra: Vec::new(),
        };
        let filter = open.filter.as_ref().map(|fd| fd.as_raw_fd()).expect("opened");
        let arguments = arguments(&plan, &open, &folders, 7);
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        let masked: String = MASKED_FILES
            .iter()
            .filter(|path| Path::new(path).exists())
            .map(|path| format!("--ro-bind /dev/null {path} "))
            .collect();
        assert_eq!(
            words.join(" "),
            format!(
                "--die-with-parent --as-pid-1 --unshare-pid --unshare-ipc --unshare-uts --new-session \
                 --cap-drop ALL --unshare-user --disable-userns --unshare-net --info-fd 7 --seccomp {filter} --ro-bind / / \
                 --dev /dev --size 1000 --tmpfs /dev/shm \
                 --ro-bind-fd {supervisor} /dev/session-pool \
                 --remount-ro /dev --proc /proc {masked}--remount-ro /proc \
                 --size 65536 --tmpfs /home --size 1000 --tmpfs /tmp \
                 --size 65536 --tmpfs /var/lib/pool \
                 --ro-bind /dev/null /etc/pool.toml \
                 --ro-bind /home/pool/claude /home/pool/claude \
                 --size 1000 --tmpfs /var/lib/pool/claude \
                 --bind-fd {work} /var/lib/pool/work \
                 --bind-fd {kept} /var/lib/pool/claude/projects \
                 --ro-bind-fd {placed} /var/lib/pool/claude/settings.json \
                 --remount-ro /home --remount-ro /var/lib/pool \
                 --chdir /var/lib/pool/work -- /dev/session-pool keep --first=2560 --listen={listen}"
            )
        );
    }
}
