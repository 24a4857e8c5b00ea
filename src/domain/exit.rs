//! How a CLI process ended, and the bound that it was killed for.

use std::{fmt, io, os::unix::process::ExitStatusExt as _, process::ExitStatus};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be found out.
    Unknown,
}

impl From<io::Result<ExitStatus>> for Exit {
    fn from(status: io::Result<ExitStatus>) -> Self {
        match status.map(|status| (status.code(), status.signal())) {
            Ok((Some(code), _)) => Self::Code(code),
            Ok((None, Some(signal))) => Self::Signal(signal),
            _ => Self::Unknown,
        }
    }
}

impl Exit {
    /// What made a process end that nobody had asked to, in one of a few words: the bound that it was
    /// killed for, or how it ended.
    pub fn cause(self, overrun: Option<Overrun>) -> &'static str {
        match (overrun.map(|overrun| overrun.resource), self) {
            (Some(Resource::Memory), _) => "memory_limit",
            (Some(Resource::Processes), _) => "process_limit",
            (Some(Resource::Tasks), _) => "task_limit",
            (Some(Resource::Workspace), _) => "workspace_limit",
            (None, Self::Code(_)) => "code",
            (None, Self::Signal(_)) => "signal",
            (None, Self::Unknown) => "unknown",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unknown exit status"),
        }
    }
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Memory, in bytes.
    Memory,
    /// Processes.
    Processes,
    /// Processes and threads.
    Tasks,
    /// Bytes of files in the session's folders.
    Workspace,
}

/// More than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun {
    /// Of what.
    pub resource: Resource,
    /// What is allowed.
    pub limit: u64,
    /// What was held.
    pub used: u64,
}
