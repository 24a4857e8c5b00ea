//! Children that outlive what started them: the processes a pool has to find and kill.
//!
//! A child is this same binary, started with a first argument that no CLI has. It puts itself into the place its
//! kind says, reports on stderr that it is there, and sleeps. Knows nothing of the protocol.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGTERM};

const ARGUMENT: &str = "--be-the-child-of-a-fake";

/// A stray child ends by itself after this long, so that a failed test leaves nothing behind for ever.
const LIFE: Duration = Duration::from_secs(1000);

/// Where a child puts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In the process group of its parent, as the CLI's stdio MCP servers are.
    Group,
    /// In a session and group of its own, as the CLI's shells are.
    Setsid,
    /// Likewise, and SIGTERM and SIGHUP do nothing to it.
    Nohup,
    /// Likewise, and it keeps its parent's stdout open.
    StdoutHolder,
    /// As [`Kind::Nohup`], and its environment is empty: nothing tells whose it is.
    Bare,
    /// In the process group of its parent, holding 300 MB.
    Hog,
}

impl Kind {
    pub fn named(name: &str) -> Option<Self> {
        [Self::Group, Self::Setsid, Self::Nohup, Self::StdoutHolder, Self::Bare, Self::Hog]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Setsid => "setsid",
            Self::Nohup => "nohup",
            Self::StdoutHolder => "stdout-holder",
            Self::Bare => "bare",
            Self::Hog => "hog",
        }
    }
}

/// Starts a child and returns its process id once it is where its kind says.
///
/// The child is not waited for: it is meant to be a stray.
pub fn start(kind: Kind) -> io::Result<u32> {
    let stdout = match kind {
        Kind::StdoutHolder => Stdio::inherit(),
        _ => Stdio::null(),
    };
    let mut command = Command::new(std::env::current_exe()?);
    if kind == Kind::Bare {
        command.env_clear();
    }
    let mut child = command
        .args([ARGUMENT, kind.name()])
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut report) = child.stderr.take() {
        report.read_exact(&mut [0])?;
    }
    Ok(child.id())
}

/// The kind of child this process was started to be, if it was.
pub fn kind_asked_for(argv: &[String]) -> Option<Kind> {
    match argv {
        [first, name] if first == ARGUMENT => Kind::named(name),
        _ => None,
    }
}

/// Lives the child's life.
pub fn live(kind: Kind) -> ! {
    let hoard = match kind {
        Kind::Hog => vec![1_u8; 300 << 20],
        _ => Vec::new(),
    };
    if !matches!(kind, Kind::Group | Kind::Hog) {
        rustix::process::setsid().expect("a new child leads no process group");
    }
    if matches!(kind, Kind::Nohup | Kind::Bare) {
        // A handler that only sets a flag nobody reads: the signal is taken and nothing happens.
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .expect("the signal can be caught");
        }
    }
    // A parent that is gone already does not want to know.
    drop(io::stderr().write_all(b"."));
    std::thread::sleep(LIFE);
    drop(hoard);
    std::process::exit(0)
}
