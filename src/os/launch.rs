//! Starts a program without copying this process. A fork copies the page tables of all that the
//! service holds in memory, stops its other threads where they touch it meanwhile, and takes the
//! longer the more sessions there are. Here the new process borrows this one's memory until it is
//! the program (`CLONE_VM` and `CLONE_VFORK`, as `posix_spawn` does), on a stack of its own, while
//! the thread that starts it waits.
//!
//! Unlike `posix_spawn` it can be prepared: by the same steps as a
//! [`Command`] with [`pre_exec`](std::os::unix::process::CommandExt::pre_exec), which are system
//! calls and nothing else.
//!
//! Invariants: between the clone and the program no signal is handled, nothing is allocated and
//! nothing is unlocked. What the program is started with is made before.

use std::{
    ffi::{CString, OsStr, OsString, c_char, c_int, c_void},
    fmt, io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStringExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    ptr,
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
};

/// Bytes of the stack of a new process: its steps are system calls with short paths.
const STACK: usize = 64 << 10;

/// A step: it does system calls and nothing else, and allocates nothing.
type Step = Box<dyn FnMut() -> io::Result<()> + Send>;

/// Who can be told what to do in a new process before that becomes the program.
pub trait Prepare {
    /// Adds a step.
    ///
    /// # Safety
    ///
    /// It does system calls that are safe between fork and exec, and allocates nothing, not even
    /// for an error.
    #[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
    unsafe fn prepare(&mut self, step: impl FnMut() -> io::Result<()> + Send + Sync + 'static);
}

#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
impl Prepare for Command {
    unsafe fn prepare(&mut self, step: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
        // SAFETY: as the caller says.
        unsafe {
            self.pre_exec(step);
        }
    }
}

/// A program to be started, in a process group of its own, with pipes for its standard input,
/// output and error.
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    /// All of it: nothing is inherited.
    environment: Vec<OsString>,
    folder: OsString,
    steps: Vec<Step>,
}

impl fmt::Debug for Launch {
    /// Leaves arguments and the environment out: credentials are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("program", &self.program).finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
impl Prepare for Launch {
    unsafe fn prepare(&mut self, step: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
        self.steps.push(Box::new(step));
    }
}

/// A process that was started, and our ends of its pipes. Whoever has it has to wait for its end.
#[derive(Debug)]
pub struct Launched {
    /// Which process it is.
    pub pid: Pid,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

impl Launch {
    /// The program at this path, called by this name.
    pub fn new(program: &Path, name: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: vec![name.into()],
            environment: Vec::new(),
            folder: "/".into(),
            steps: Vec::new(),
        }
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        let added = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.arguments.extend(added);
        self
    }

    /// Adds variables.
    pub fn envs<'a>(
        &mut self,
        variables: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> &mut Self {
        let added = variables.into_iter().map(|(name, value)| format!("{name}={value}").into());
        self.environment.extend(added);
        self
    }

    /// Has it begin in this folder.
    pub fn current_dir(&mut self, folder: &Path) -> &mut Self {
        folder.as_os_str().clone_into(&mut self.folder);
        self
    }

    /// Starts it. Waits until the program is there: not for a runtime's own threads.
    ///
    /// # Errors
    ///
    /// One of the steps failed, or the program cannot be run.
    pub fn start(self) -> io::Result<Launched> {
        let (input, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, errors) = pipe_with(PipeFlags::CLOEXEC)?;
        let (arguments, environment) = (c_strings(self.arguments)?, c_strings(self.environment)?);
        let mut new = New {
            program: c_string(self.program)?,
            arguments: pointers(&arguments),
            environment: pointers(&environment),
            folder: c_string(self.folder)?,
            pipes: [&input, &output, &errors].map(|end| end.as_raw_fd()),
            steps: self.steps,
            failed: None,
        };
        let pid = new.start()?;
        match new.failed {
            None => Ok(Launched { pid, stdin, stdout, stderr }),
            Some(error) => {
                // It has ended, or is about to.
                while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
                Err(error.into())
            }
        }
    }
}

fn c_string(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}

fn c_strings(texts: Vec<OsString>) -> io::Result<Vec<CString>> {
    texts.into_iter().map(c_string).collect()
}

/// Ended by a null, as the kernel wants it.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// All that the new process needs.
struct New {
    program: CString,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    folder: CString,
    /// The ends that become its standard input, output and error.
    pipes: [RawFd; 3],
    steps: Vec<Step>,
    /// Why it did not become the program: written by the new process, into memory that is ours.
    failed: Option<Errno>,
}

#[expect(unsafe_code, reason = "a process that borrows memory, and system calls of the C library")]
impl New {
    /// Starts the process; `failed` says whether it became the program.
    fn start(&mut self) -> io::Result<Pid> {
        let mut stack = Vec::<u8>::with_capacity(STACK);
        // SAFETY: the end of the stack, which grows downwards, aligned as every machine wants it.
        let top = unsafe { stack.as_mut_ptr().add(STACK & !63) };
        let top = top.map_addr(|address| address & !63).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let new = ptr::from_mut(self).cast::<c_void>();
        let before = mask(libc::SIG_SETMASK, &all_signals())?;
        // SAFETY: this thread does not go on before the process is the program or has ended, so
        // that what it borrows lives as long as it; what it does there is `become_program`.
        let pid = unsafe { libc::clone(run, top, flags, new) };
        let error = io::Error::last_os_error();
        mask(libc::SIG_SETMASK, &before)?;
        Pid::from_raw(pid).filter(|_| pid > 0).ok_or(error)
    }

    /// Returns only if it fails.
    fn become_program(&mut self) -> Errno {
        if let Err(error) = self.prepare() {
            return error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error);
        }
        // SAFETY: all of them are ended as they have to be, and live.
        unsafe {
            libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr());
        }
        Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
    }

    fn prepare(&mut self) -> io::Result<()> {
        for (number, end) in self.pipes.iter().enumerate() {
            // SAFETY: only numbers, of this process alone. None of the ends is one of the three,
            // which are open in every process of ours.
            let done = unsafe { libc::dup2(*end, c_int::try_from(number).unwrap_or(-1)) };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        rustix::process::setpgid(None, None)?;
        rustix::process::chdir(self.folder.as_c_str())?;
        self.steps.iter_mut().try_for_each(|step| step())?;
        let_signals_act_as_by_default();
        mask(libc::SIG_SETMASK, &no_signals())?;
        Ok(())
    }
}

/// The new process.
#[expect(unsafe_code, reason = "the memory that it borrows is given as a pointer")]
extern "C" fn run(new: *mut c_void) -> c_int {
    // SAFETY: whoever started us waits, and gave us this.
    let new = unsafe { &mut *new.cast::<New>() };
    new.failed = Some(new.become_program());
    127
}

/// Handlers are this program's, and would run in its memory. What is ignored stays so, as for
/// every program that is started, but for what Rust's runtime has chosen to ignore.
#[expect(unsafe_code, reason = "system calls of the C library")]
fn let_signals_act_as_by_default() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: plain values, of which all zeroes is one: the default, and no flags.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, ptr::null(), &raw mut action);
            if action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
        }
    }
}

#[expect(unsafe_code, reason = "system calls of the C library")]
fn all_signals() -> libc::sigset_t {
    // SAFETY: a plain value that is written before it is read.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigfillset(&raw mut signals);
        signals
    }
}

#[expect(unsafe_code, reason = "system calls of the C library")]
fn no_signals() -> libc::sigset_t {
    // SAFETY: a plain value that is written before it is read.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        signals
    }
}

/// Sets which signals wait for this thread; returns which did.
#[expect(unsafe_code, reason = "system calls of the C library")]
fn mask(how: c_int, signals: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = no_signals();
    // SAFETY: plain values, of this thread alone.
    match unsafe { libc::pthread_sigmask(how, signals, &raw mut before) } {
        0 => Ok(before),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
    };

    use rustix::process::WaitStatus;

    use super::*;

    fn shell(script: &str) -> Launch {
        let mut launch = Launch::new(Path::new("/bin/sh"), "a name");
        launch.args(["-c", script]).current_dir(Path::new("/usr"));
        launch
    }

    fn text(end: OwnedFd) -> String {
        let mut text = String::new();
        File::from(end).read_to_string(&mut text).expect("text");
        text
    }

    fn ended(pid: Pid) -> WaitStatus {
        waitpid(Some(pid), WaitOptions::empty()).expect("waited for").expect("ended").1
    }

    #[test]
    fn a_program_has_what_it_was_given_and_nothing_else() {
        let script = "read line; echo $0 $line $A $HOME; pwd; echo to stderr >&2; exit 7";
        let mut launch = shell(script);
        launch.envs([(&"A".to_owned(), &"b=c".to_owned())]);
        let Launched { pid, stdin, stdout, stderr } = launch.start().expect("started");
        File::from(stdin).write_all(b"in\n").expect("written");
        assert_eq!(
            (text(stdout), text(stderr)),
            ("a name in b=c\n/usr\n".into(), "to stderr\n".into())
        );
        assert_eq!(ended(pid).exit_status(), Some(7));
    }

    #[test]
    #[expect(unsafe_code, reason = "a step is one system call")]
    fn steps_are_done_in_the_new_process_alone() {
        let mut launch = shell(
            "ps -o pgid= -p $$ | grep -qx \" *$$\"; echo $?; grep SigBlk /proc/self/status; umask",
        );
        // SAFETY: a system call.
        unsafe {
            launch.prepare(|| {
                rustix::process::umask(0o027.into());
                Ok(())
            });
        }
        let before = rustix::process::getpgrp();
        let Launched { pid, stdout, .. } = launch.start().expect("started");
        assert_eq!(text(stdout), "0\nSigBlk:\t0000000000000000\n0027\n");
        assert!(ended(pid).exited());
        assert_eq!(rustix::process::getpgrp(), before);
    }

    #[test]
    #[expect(unsafe_code, reason = "a step that fails")]
    fn what_keeps_it_from_starting_is_told_and_nothing_is_left() {
        let gone = Launch::new(Path::new("/not/there"), "x").start().expect_err("not there");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let mut launch = shell("true");
        // SAFETY: it does nothing.
        unsafe { launch.prepare(|| Err(Errno::XDEV.into())) };
        assert_eq!(
            launch.start().expect_err("it fails").raw_os_error(),
            Some(Errno::XDEV.raw_os_error())
        );
        let mut launch = shell("true");
        launch.args(["a\0b"]);
        assert_eq!(launch.start().expect_err("no argument").kind(), io::ErrorKind::InvalidInput);
    }
}
