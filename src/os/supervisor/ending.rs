//! How the child ended, and ending likewise.

use std::process;

use rustix::process::{Pid, Resource, Rlimit, WaitStatus, getpid, setrlimit};
use signal_hook::low_level::emulate_default_handler;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Self::Signal(signal),
            (code, None) => Self::Code(code.unwrap_or_default()),
        }
    }
}

impl Ending {
    /// Ends this process in the same way. Leaves no core: it would be of the wrong program.
    pub fn repeat(self) -> ! {
        match self {
            Self::Code(code) => process::exit(code),
            // The first process of a namespace cannot be ended by its own signals.
            Self::Signal(signal) if getpid() == Pid::INIT => process::exit(128 + signal),
            Self::Signal(signal) => {
                let none = Rlimit { current: Some(0), maximum: Some(0) };
                setrlimit(Resource::Core, none).ok();
                emulate_default_handler(signal).ok();
                process::exit(128 + signal)
            }
        }
    }
}
