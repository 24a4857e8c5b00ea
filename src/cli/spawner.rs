//! Spawns processes from one thread that lives as long as the service.
//!
//! A death signal (`PR_SET_PDEATHSIG`) is bound to the THREAD that forked: from a
//! runtime's thread it would fire as soon as that thread ended, with the service
//! alive and well. Knows nothing of what the processes are.

use std::{io, os::unix::process::CommandExt as _, process::Stdio, sync::OnceLock};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::{
    process::{Child, Command as TokioCommand},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::launch::Command;

/// Starts that may wait for the thread, which needs about a millisecond for each.
const WAITING_STARTS: usize = 64;

struct Request {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Spawns a process in a group of its own that is killed when the service dies.
pub async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, spawned) = oneshot::channel();
    let request = Request { command, runtime: Handle::current(), reply };
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
                // Whoever asked may be gone; the child then dies with its handle.
                drop(request.reply.send(spawn_here(&request.command)));
            }
        })?;
    }
    THREAD.get().ok_or_else(|| io::Error::other("no thread to spawn processes"))
}

fn spawn_here(command: &Command) -> io::Result<Child> {
    let mut std_command = std::process::Command::new(&command.program);
    std_command
        .args(&command.args)
        .env_clear()
        .envs(&command.env)
        .current_dir(&command.cwd)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    die_with_parent(&mut std_command);
    TokioCommand::from(std_command).kill_on_drop(true).spawn()
}

#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
fn die_with_parent(command: &mut std::process::Command) {
    let service = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The service may have died before the line above took effect.
        if getppid() != Some(service) && service != Pid::INIT {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: only system calls that are safe between fork and exec, no allocation.
    unsafe {
        command.pre_exec(prepare);
    }
}
