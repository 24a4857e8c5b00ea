//! One CLI process: start it, hear of its end, stop it. Knows nothing of what it is
//! used for.

mod child;

use std::{
    future::{Future, pending},
    io,
    path::PathBuf,
    pin::Pin,
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};

use tracing::warn;

pub use child::{Child, StopGrace, stop};

use super::{
    command::{Folders, LaunchCommand},
    connection::Connection,
    launch::MARK_VARIABLE,
    outer::Outer,
    sandbox::{Sandbox, SandboxedProcess},
    scratch,
    spawner::{self, Spawned},
    stderr::StderrTail,
    sweep,
    usage::{Tree, Watch, Workspace},
};
use crate::{
    domain::{
        exit::{Exit, Overrun, Resource},
        ids::ClientId,
    },
    os::{cgroup::Group, handed_socket},
    tasks::apart,
};

/// How long it may take until the CLI has been started. It needs milliseconds; what
/// takes longer is a machine that does not work.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long what encloses a CLI may take to say why it has started nothing.
const EXCUSE: Duration = Duration::from_secs(1);

/// Bytes of an announcement at most.
const LONGEST_ANNOUNCEMENT: u64 = 4096;

/// A real process.
#[derive(Debug)]
pub struct Process {
    /// What encloses the CLI.
    outer: Outer,
    sandboxed: SandboxedProcess,
    /// Listens in its network, if that is its own.
    way_out: Option<TcpListener>,
    bounded: Option<Arc<Tree>>,
    group: Option<Arc<Group>>,
    /// The folders that are its session's alone.
    own: Vec<PathBuf>,
    mark: ClientId,
    /// Removed once nothing of it lives.
    scratch: Option<PathBuf>,
    /// When it was killed because it held too much.
    killed_at: Option<Instant>,
    exit: Option<Exit>,
    stderr: StderrTail,
}

impl Process {
    /// Starts a command, enclosed, and connects to it. Frames may have `max_frame` bytes.
    pub async fn start(
        command: LaunchCommand,
        sandbox: &Sandbox,
        max_frame: usize,
    ) -> io::Result<(Self, Connection)> {
        let (mark, secrets) = (command.mark, command.secrets.clone());
        let (scratch, own) = (command.scratch.clone(), command.own_folders());
        let started = Self::spawn(command, sandbox).await;
        if let (Err(_), Some(scratch)) = (&started, scratch.clone()) {
            // What failed to start has put nothing in it.
            drop(apart(move || scratch::remove(&scratch, None)).await);
        }
        let (spawned, sandboxed, way_out) = started?;
        let Spawned { outer, stdin, stdout, stderr, group, announcement: _, listen: _ } = spawned;
        let group = group.map(Arc::new);
        let stderr = StderrTail::read(stderr, &secrets);
        let (bounded, killed_at, exit) = (None, None, None);
        let process = Self {
            outer,
            sandboxed,
            way_out,
            bounded,
            group,
            own,
            mark,
            scratch,
            killed_at,
            exit,
            stderr,
        };
        Ok((process, Connection::new(stdout, stdin, max_frame)))
    }

    async fn spawn(
        command: LaunchCommand,
        sandbox: &Sandbox,
    ) -> io::Result<(Spawned, SandboxedProcess, Option<TcpListener>)> {
        let folders = command.folders.clone();
        let mut spawned = spawner::spawn(command, sandbox.clone()).await?;
        match up(&mut spawned, sandbox, &folders).await {
            Ok((sandboxed, way_out)) => Ok((spawned, sandboxed, way_out)),
            Err(error) => {
                // Nothing that counts can have been started in it.
                spawned.outer.kill();
                spawned.outer.wait().await?;
                end_group(spawned.group.map(Arc::new)).await;
                Err(error)
            }
        }
    }

    /// The socket that leads out of its network, if that is its own. To be served by somebody.
    pub fn take_way_out(&mut self) -> Option<TcpListener> {
        self.way_out.take()
    }

    /// Bounds what it and its descendants hold: who waits for its end finds it killed.
    #[must_use]
    pub fn bounded_by(mut self, watch: &Watch) -> Self {
        let (root, in_memory) = (self.sandboxed.root(), self.sandboxed.in_memory());
        let own = Workspace::new(self.own.clone());
        self.bounded = Some(watch.add(root, in_memory, own));
        self
    }
}

/// Kills all of a process. Only while the outer process has not been waited for.
fn kill(sandboxed: &SandboxedProcess, group: Option<&Group>) {
    sandboxed.kill();
    if let Some(group) = group {
        group.kill();
    }
}

/// Ends and removes a control group, away from the runtime's own threads. Returns whether that is
/// certain.
async fn end_group(group: Option<Arc<Group>>) -> bool {
    match group {
        Some(group) => apart(move || group.end()).await.unwrap_or(false),
        None => false,
    }
}

/// Waits until a tree holds too much; for ever if nobody looks.
async fn over(bounded: Option<&Tree>) {
    match bounded {
        Some(tree) => tree.over().await,
        None => pending().await,
    }
}

/// Waits for the end of what was killed `since`, and sees to it from outside if need be: a
/// session can stop its own supervisor again and again.
async fn killed(outer: &mut Outer, root: u32, since: Instant) -> io::Result<ExitStatus> {
    match timeout_at(since + StopGrace::FIRM.after_kill, outer.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            drop(
                tokio::task::spawn_blocking(move || SandboxedProcess::kill_by_descent(root)).await,
            );
            outer.wait().await
        }
    }
}

/// Waits until the CLI has been started, and for the socket that leads out of a network of its own.
async fn up(
    spawned: &mut Spawned,
    sandbox: &Sandbox,
    folders: &Folders,
) -> io::Result<(SandboxedProcess, Option<TcpListener>)> {
    let sandboxed = announced(spawned, sandbox, folders).await?;
    let way_out = match spawned.listen.take() {
        Some(listen) => Some(handed_socket::wait(listen).await?),
        None => None,
    };
    Ok((sandboxed, way_out))
}

/// Waits for the word that the CLI has been started.
async fn announced(
    spawned: &mut Spawned,
    sandbox: &Sandbox,
    folders: &Folders,
) -> io::Result<SandboxedProcess> {
    let mut announcement = String::new();
    let mut reader = (&mut spawned.announcement).take(LONGEST_ANNOUNCEMENT);
    timeout(START_LIMIT, reader.read_to_string(&mut announcement)).await??;
    if announcement.is_empty() {
        let mut said = String::new();
        let mut stderr = (&mut spawned.stderr).take(LONGEST_ANNOUNCEMENT);
        timeout(EXCUSE, stderr.read_to_string(&mut said)).await.ok().transpose()?;
        return Err(io::Error::other(format!("{}: {}", sandbox.name(), said.trim())));
    }
    SandboxedProcess::announced(sandbox, folders, spawned.outer.pid(), &announcement)
}

impl Child for Process {
    fn id(&self) -> u32 {
        self.sandboxed.cli().unwrap_or_default()
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = Exit> + Send + '_>> {
        Box::pin(async {
            if let Some(exit) = self.exit {
                return exit;
            }
            let exit = tokio::select! {
                exit = self.outer.wait() => exit,
                () = over(self.bounded.as_deref()) => {
                    let since = *self.killed_at.get_or_insert_with(|| {
                        kill(&self.sandboxed, self.group.as_deref());
                        Instant::now()
                    });
                    killed(&mut self.outer, self.sandboxed.root(), since).await
                }
            };
            let exit = self.sandboxed.exit(Exit::from(exit));
            self.exit = Some(exit);
            // What it said last is in the pipe; a child that holds it open is not waited for.
            drop(timeout(Duration::from_millis(100), &mut self.stderr.reader).await);
            exit
        })
    }

    fn terminate(&mut self) {
        // Once it has been waited for, its id may be another's.
        if self.exit.is_none() {
            self.sandboxed.terminate();
        }
    }

    fn kill(&mut self) {
        if self.exit.is_none() {
            kill(&self.sandboxed, self.group.as_deref());
        }
    }

    fn sweep(&mut self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
        let mark = self.mark.to_string();
        // What does not end by itself, as one that is stopped, is ended from outside.
        let stuck = self.exit.is_none().then(|| self.sandboxed.root());
        let (scratch, cli) = (self.scratch.clone(), self.sandboxed.cli());
        let group = self.group.clone();
        Box::pin(async move {
            let collapsed = self.sandboxed.collapsed(self.exit).await;
            if collapsed && scratch.is_none() && group.is_none() {
                return 0;
            }
            apart(move || {
                let killed = stuck.map_or(0, SandboxedProcess::kill_by_descent);
                // All processes of the machine are looked at for it.
                let marked = || sweep::kill_marked(MARK_VARIABLE, &mark);
                let killed = killed + if collapsed { 0 } else { marked() };
                if group.is_some_and(|group| !group.end()) {
                    warn!("control_group_not_removed");
                }
                if let Some(Err(error)) = scratch.map(|scratch| scratch::remove(&scratch, cli)) {
                    warn!(%error, "scratch_directory_not_removed");
                }
                killed
            })
            .await
            .unwrap_or_default()
        })
    }

    fn stderr_tail(&self) -> String {
        self.stderr.text()
    }

    fn overrun(&self) -> Option<Overrun> {
        let measured = self.bounded.as_ref().and_then(|tree| tree.overrun());
        measured.or_else(|| {
            let limit = self.group.as_ref()?.ran_out_of_memory()?;
            Some(Overrun { resource: Resource::Memory, limit, used: limit })
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `stop` is the way to end a process; this is the net below it.
        self.kill();
        self.stderr.reader.abort();
    }
}
