//! Spawns processes from one thread that lives as long as the service.
//!
//! A death signal (`PR_SET_PDEATHSIG`) is bound to the THREAD that forked: from a
//! runtime's thread it would fire as soon as that thread ended, with the service
//! alive and well. Knows nothing of what the processes are.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::OnceLock,
};

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
    cgroup::Group,
    descriptors::{hand_over, restore_in},
    group_watch::{GroupWatch, Watched},
    handed_socket,
    launch::{Launch, Launched},
    limits::lower_in,
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
    /// Brings the socket that leads out of its network, if that is its own.
    pub listen: Option<UnixStream>,
    /// Its control group, if it has one.
    pub group: Option<Group>,
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
            let mut watch = None;
            while let Some(request) = requests.blocking_recv() {
                let _runtime = request.runtime.enter();
                let spawned = spawn_here(&request.command, &request.sandbox, &mut watch);
                if let Err(Ok(unwanted)) = request.reply.send(spawned) {
                    // Whoever asked is gone. What it started dies with it.
                    unwanted.outer.kill();
                }
            }
        })?;
    }
    THREAD.get().ok_or_else(|| io::Error::other("no thread to spawn processes"))
}

fn spawn_here(
    command: &LaunchCommand,
    sandbox: &Sandbox,
    watch: &mut Option<GroupWatch>,
) -> io::Result<Spawned> {
    program::check(&command.program)?;
    if let Some(scratch) = &command.scratch {
        scratch::make(scratch)?;
    }
    let (reader, announce) = announcement()?;
    let (listen, make) = match sandbox.has_own_network() {
        true => handed_socket::way().map(|(listen, make)| (Some(listen), Some(make)))?,
        false => (None, None),
    };
    let open = sandbox.open(command, make)?;
    let mut enclosed = sandbox.enclose(command, &open, announce.as_raw_fd());
    enclosed.envs(&command.env).current_dir(&command.cwd);
    let watched = match sandbox.needs_watch() {
        // Not to be taken for the CLI's own absence.
        true => match at_work(watch, sandbox) {
            Ok(watch) => Some(watch.watch(&mut enclosed)),
            Err(error) => return Err(io::Error::other(format!("watch of processes: {error}"))),
        },
        false => None,
    };
    let group = joined_group(command, &mut enclosed)?;
    bind_to_parent(&mut enclosed, sandbox.death_signal());
    restore_in(&mut enclosed);
    lower_in(&mut enclosed, command.limits);
    hand_over(&mut enclosed, announce);
    open.into_fds().for_each(|fd| hand_over(&mut enclosed, fd));
    let started = enclosed.start().and_then(|launched| spawned(launched, watched, reader));
    match started {
        Ok(spawned) => Ok(Spawned { listen, group, ..spawned }),
        Err(error) => {
            group.map(|group| group.end());
            // Not to be taken for the CLI's own absence.
            Err(io::Error::other(format!("{}: {error}", sandbox.name())))
        }
    }
}

/// The control group of a command, into which its process goes.
fn joined_group(command: &LaunchCommand, enclosed: &mut Launch) -> io::Result<Option<Group>> {
    let Some(groups) = &command.groups else { return Ok(None) };
    let joined = groups.make(&command.mark.short()).and_then(|group| {
        if let Err(error) = group.join_in(enclosed) {
            group.end();
            return Err(error);
        }
        Ok(Some(group))
    });
    joined.map_err(|error| io::Error::other(format!("its control group: {error}")))
}

/// The watch, which is started with the first process that needs it, and again where somebody has
/// ended it.
fn at_work<'a>(
    watch: &'a mut Option<GroupWatch>,
    sandbox: &Sandbox,
) -> io::Result<&'a mut GroupWatch> {
    match watch {
        Some(watch) => {
            watch.see_to_it(sandbox.program())?;
            Ok(watch)
        }
        None => Ok(watch.insert(GroupWatch::start(sandbox.program())?)),
    }
}

/// Takes over a process that was started. One that cannot be, where descriptors have run out, is
/// killed: nobody else knows of it.
fn spawned(
    launched: Launched,
    watched: Option<Watched>,
    announcement: OwnedFd,
) -> io::Result<Spawned> {
    let Launched { pid, stdin, stdout, stderr } = launched;
    let outer = Outer::of(pid, watched)?;
    let pipes = || {
        Ok((
            pipe::Sender::from_owned_fd(stdin)?,
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
            pipe::Receiver::from_owned_fd(announcement)?,
        ))
    };
    match pipes() {
        Ok((stdin, stdout, stderr, announcement)) => {
            Ok(Spawned { outer, stdin, stdout, stderr, announcement, listen: None, group: None })
        }
        Err(error) => {
            outer.kill();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path};

    use super::*;
    use crate::os::procfs;

    #[tokio::test]
    async fn a_process_that_cannot_be_taken_over_is_killed_and_waited_for() {
        let mut launch = Launch::new(Path::new("/bin/sleep"), "sleep");
        launch.args(["1000"]);
        let launched = launch.start().expect("started");
        let pid = launched.pid.as_raw_nonzero().get().unsigned_abs();
        // No pipe, as a descriptor would be none that cannot be registered.
        let no_pipe = File::open("/dev/null").expect("opened").into();
        let (reader, _announce) = announcement().expect("a pipe");
        spawned(Launched { stdin: no_pipe, ..launched }, None, reader).expect_err("no pipe");
        while procfs::entry_of(pid).is_some() {
            tokio::task::yield_now().await;
        }
    }
}
