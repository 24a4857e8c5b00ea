//! How supervisors come to be: the hidden subcommand, and the start of the child.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{FromRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode},
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{
        DumpableBehavior, Pid, Signal, getpid, getppid, set_dumpable_behavior,
        set_parent_process_death_signal,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use super::{Ending, Strays, keep};
use crate::os::{handed_socket, launch::Prepare, limits};

/// The hidden subcommand: `session-pool keep --announce=FD -- PROGRAM ARGUMENT…`, or
/// `--first` in place of the announcement, with `--listen=FD` behind it where the session has a
/// network of its own.
pub const SUBCOMMAND: &str = "keep";

/// Its option: an inherited file descriptor to which one line is written, the child's
/// process id or `error ERRNO`.
pub const ANNOUNCE: &str = "--announce=";

/// Its other option: it is the first process of a namespace, which ends with it. No process in
/// there can look into it or change it, and nobody waits for an announcement. As `--first=TASKS`
/// it has a user namespace of its own, too, which it bounds to so many tasks; 0 is no bound.
pub const FIRST: &str = "--first";

/// Its third option: an inherited file descriptor on which a socket is handed over that listens in
/// the network that the first process is in.
pub const LISTEN: &str = "--listen=";

/// What the first process of a namespace says on stderr, before the program and the reason.
pub const CANNOT_RUN: &str = "session-pool: cannot run ";

/// Says, to a program that is started under a supervisor, which process that is, and one
/// word of the supervisor's.
const KEPT: &str = "SESSION_POOL_KEPT";

/// Tells a command that this process is its supervisor, and a word.
pub fn mark_as_kept(command: &mut Command, word: &str) {
    command.env(KEPT, format!("{}:{word}", std::process::id()));
}

/// The word of the supervisor that this process runs under; `None` if it runs under none.
pub fn kept_as() -> Option<String> {
    let kept = env::var(KEPT).ok()?;
    let (supervisor, word) = kept.split_once(':')?;
    // Inherited from further up, it says nothing about us.
    let parent = getppid()?.as_raw_nonzero().get();
    (supervisor.parse() == Ok(parent)).then(|| word.to_owned())
}

/// Has the kernel send a signal to the process of a command when the THREAD that starts
/// it ends. A process that was too late for that does not start.
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn bind_to_parent(command: &mut impl Prepare, signal: Signal) {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above took effect.
        if getppid() != Some(parent) && parent != Pid::INIT {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: only system calls that are safe between fork and exec, no allocation.
    unsafe {
        command.prepare(prepare);
    }
}

/// Starts the child, in a process group of its own and bound to us.
pub(super) fn spawn(command: &mut Command) -> io::Result<Pid> {
    command.process_group(0);
    bind_to_parent(command, Signal::KILL);
    // Waited for with everything else that falls to the supervisor.
    let id = command.spawn()?.id();
    crate::os::procfs::pid(id).ok_or_else(|| io::Error::other("a process without an id"))
}

/// Runs the hidden subcommand. `arguments` are those after its name.
pub fn run_subcommand(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(option), Some(next)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let listen = fd_of(&next.to_string_lossy(), LISTEN);
    // Behind all options there is `--`.
    let program = arguments.nth(usize::from(listen.is_some()));
    let Some(program) = program else { return ExitCode::from(2) };
    let mut command = Command::new(program);
    command.args(arguments);
    rustix::thread::set_name(c"supervisor").ok();
    limits::no_cores();
    let option = option.to_string_lossy();
    let listen = listen.map(inherited);
    match (fd_of(&option, ANNOUNCE), option.strip_prefix(FIRST)) {
        (Some(fd), _) => keep_and_announce(&mut command, inherited(fd)),
        (None, Some("")) => keep_as_first(&mut command, None, listen),
        (None, Some(tasks)) => match tasks.strip_prefix('=').and_then(|tasks| tasks.parse().ok()) {
            Some(tasks) => keep_as_first(&mut command, Some(tasks), listen),
            None => ExitCode::from(2),
        },
        (None, None) => ExitCode::from(2),
    }
}

/// In a namespace of processes, of which this is the first; and in one of users, if there are
/// `tasks` that may be in it.
fn keep_as_first(command: &mut Command, tasks: Option<u64>, listen: Option<File>) -> ExitCode {
    // Otherwise its processes, which have the same user, could trace this one and take the
    // death signal from it that ends them with the service.
    let closed = set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from);
    let bounded = || match tasks {
        Some(tasks) => limits::bound_namespace(Some(tasks).filter(|tasks| *tasks > 0)),
        None => Ok(()),
    };
    // Before anything in here can take its place.
    let listening = || listen.map_or(Ok(()), handed_socket::make);
    if let Err(error) = closed.and_then(|()| bounded()).and_then(|()| listening()) {
        complain(command, &error);
        return ExitCode::from(127);
    }
    match keep(command, Strays::Live, |_| let_go_of_pipes()) {
        Ok(ending) => Ending::repeat(ending),
        Err(error) => {
            complain(command, &error);
            ExitCode::from(127)
        }
    }
}

fn complain(command: &Command, error: &io::Error) {
    let program = command.get_program().display();
    drop(writeln!(io::stderr(), "{CANNOT_RUN}{program}: {error}"));
}

fn keep_and_announce(command: &mut Command, announce: File) -> ExitCode {
    let mut announce = Some(announce);
    match keep(command, Strays::Live, |pid| {
        // Whoever started us may be gone; then the death signal is on its way.
        announce.take().map(|mut announce| writeln!(announce, "{pid}").ok());
        let_go_of_pipes();
    }) {
        Ok(ending) => Ending::repeat(ending),
        Err(error) => {
            let code = error.raw_os_error().unwrap_or_default();
            announce.map(|mut announce| writeln!(announce, "error {code}").ok());
            ExitCode::from(127)
        }
    }
}

fn fd_of(argument: &str, option: &str) -> Option<RawFd> {
    argument.strip_prefix(option)?.parse().ok().filter(|fd| *fd > 2)
}

#[expect(unsafe_code, reason = "a file descriptor that is handed over is only a number")]
fn inherited(fd: RawFd) -> File {
    // SAFETY: whoever started us made it for us, and nobody else here knows of it. If it
    // is not open, writing to it fails.
    let file = unsafe { File::from_raw_fd(fd) };
    // The child has no use for it.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).ok();
    file
}

/// The child's input and output are pipes whose ends somebody waits for.
fn let_go_of_pipes() {
    let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return };
    dup2_stdin(&null).ok();
    dup2_stdout(&null).ok();
    dup2_stderr(&null).ok();
}
