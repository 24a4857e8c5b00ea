//! The disk of the service: a small file system in memory, in a mount namespace of its own
//! that outlives the service. Can be filled, and be remounted for nobody to write to.

use std::{
    fs,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

/// Bytes of the disk.
const SIZE: &str = "32m";

/// Mounts the disk and stays, with its namespace, until its input ends.
const HOLD: &str =
    "mount -t tmpfs -o size=$1,mode=0700 tmpfs \"$0\" && echo mounted && exec cat >/dev/null";

pub struct Disk {
    folder: TempDir,
    /// Where another view of it is made.
    aside: TempDir,
    /// The disk itself, whatever is mounted over it.
    root: fs::File,
    holder: Child,
    _lives: ChildStdin,
    in_user_namespace: bool,
}

impl Disk {
    /// Mounts one. Where this user may not, it does so as the root of a user namespace.
    pub async fn mount() -> Self {
        let [folder, aside] = [(); 2].map(|()| TempDir::new().expect("a folder"));
        for in_user_namespace in [false, true] {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private"]);
            if in_user_namespace {
                command.args(["--user", "--map-root-user"]);
            }
            command.args(["sh", "-c", HOLD]).arg(folder.path()).arg(SIZE);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut holder = command.spawn().expect("unshare is there");
            let _lives = holder.stdin.take().expect("a pipe");
            let mut lines = BufReader::new(holder.stdout.take().expect("a pipe")).lines();
            if lines.next_line().await.expect("text").as_deref() == Some("mounted") {
                let root = format!("/proc/{}/root{}", id(&holder), folder.path().display());
                let root = fs::File::open(root).expect("opened");
                return Self { folder, aside, root, holder, _lives, in_user_namespace };
            }
        }
        panic!("no file system can be mounted here, also not in a user namespace");
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database file of a service that has its state here.
    pub fn database(&self) -> PathBuf {
        self.path().join("session-pool.db")
    }

    /// The process that holds the namespace.
    pub fn holder(&self) -> u32 {
        id(&self.holder)
    }

    /// What runs a program where the disk is mounted.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder().to_string(), "--mount"]);
        if self.in_user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").kill_on_drop(true);
        command
    }

    fn filler(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/filler", self.root.as_raw_fd()))
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("made");
        for size in [1 << 20, 64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }

    /// From now on nothing that is opened by its path can be written to. What is open already
    /// can: the kernel remounts no file system in which somebody has a file open for writing.
    pub async fn make_read_only(&self) {
        // Made aside, where nobody opens anything before it is read-only.
        let script = "mount --bind \"$0\" \"$1\" && mount -o remount,bind,ro \"$1\" \
            && mount --move \"$1\" \"$0\"";
        self.run(script).await;
    }

    pub async fn make_writable(&self) {
        self.run("umount --lazy \"$0\"").await;
    }

    async fn run(&self, script: &str) {
        let mut command = self.enter();
        command.args(["sh", "-c", script]).arg(self.path()).arg(self.aside.path());
        let status = command.status().await;
        assert!(status.expect("started").success(), "{script}");
    }
}

fn id(process: &Child) -> u32 {
    process.id().expect("it lives")
}
