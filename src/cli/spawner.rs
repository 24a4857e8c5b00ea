//! Spawns processes from one thread that lives as long as the service.
//!
//! A death signal (`PR_SET_PDEATHSIG`) is bound to the THREAD that forked: from a
//! runtime's thread it would fire as soon as that thread ended, with the service
//! alive and well. Knows nothing of what the processes are.

use std::{io, os::fd::AsRawFd as _, sync::OnceLock};

use tokio::{
    net::unix::pipe,
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    command::LaunchCommand,
    outer::Outer,
    program,
    sandbox::{Sandbox, announcement},
    scratch,
};
use crate::os::{
    descriptors::{hand_over, restore_in},
    launch::Launched,
    supervisor::bind_to_parent,
};

/// Starts that may wait for the thread, which needs about a millisecond for each.
const WAITING_STARTS: usize = 64;

struct Request {
    command: LaunchCommand,
    sandbox: Sandbox,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

/// A new process.
#[derive(Debug)]
pub struct Spawned {
    /// What encloses the CLI. Dropping this does not end it.
    pub outer: Outer,
    /// Its standard input.
    pub stdin: pipe::Sender,
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
    /// Says what was started in it.
    pub announcement: pipe::Receiver,
}

/// Spawns a command, enclosed, in a group of its own, which ends when the service dies.
pub async fn spawn(command: LaunchCommand, sandbox: Sandbox) -> io::Result<Spawned> {
    let (reply, spawned) = oneshot::channel();
    let request = Request { command, sandbox, runtime: Handle::current(), reply };
    let gone = || io::Error::other("the thread that spawns processes is gone");
    thread()?.send(request).await.map_err(|_| gone())?;
    spawned.await.map_err(|_| gone())?
}

/// One thread for the whole program, started at the first use. It never ends.
fn thread() -> io::Result<&'static mpsc::Sender<Request>> {
    static THREAD: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    if let Some(sender) = THREAD.get() {
        return Ok(sender);
    }
    let (sender, mut requests) = mpsc::channel::<Request>(WAITING_STARTS);
    if THREAD.set(sender).is_ok() {
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            while let Some(request) = requests.blocking_recv() {
                let _runtime = request.runtime.enter();
                let spawned = spawn_here(&request.command, &request.sandbox);
                if let Err(Ok(unwanted)) = request.reply.send(spawned) {
                    // Whoever asked is gone. What it started dies with it.
                    unwanted.outer.kill();
                }
            }
        })?;
    }
    THREAD.get().ok_or_else(|| io::Error::other("no thread to spawn processes"))
}

fn spawn_here(command: &LaunchCommand, sandbox: &Sandbox) -> io::Result<Spawned> {
    program::check(&command.program)?;
    if let Some(scratch) = &command.scratch {
        scratch::make(scratch)?;
    }
    let (reader, announce) = announcement()?;
    let open = sandbox.open(command)?;
    let mut enclosed = sandbox.enclose(command, &open, announce.as_raw_fd());
    enclosed.envs(&command.env).current_dir(&command.cwd);
    bind_to_parent(&mut enclosed, sandbox.death_signal());
    restore_in(&mut enclosed);
    hand_over(&mut enclosed, announce);
    open.into_fds().for_each(|fd| hand_over(&mut enclosed, fd));
    let Launched { pid, stdin, stdout, stderr } = enclosed.start().map_err(|error| {
        // Not to be taken for the CLI's own absence.
        io::Error::other(format!("{}: {error}", sandbox.name()))
    })?;
    Ok(Spawned {
        outer: Outer::of(pid)?,
        stdin: pipe::Sender::from_owned_fd(stdin)?,
        stdout: pipe::Receiver::from_owned_fd(stdout)?,
        stderr: pipe::Receiver::from_owned_fd(stderr)?,
        announcement: pipe::Receiver::from_owned_fd(reader)?,
    })
}
