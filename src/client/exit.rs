//! How a command ends: the exit code, and what went wrong as one line.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::values::{one_line, show_duration};

/// The exit codes; `--help` explains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Fine = 0,
    /// The turn's result is an error.
    TurnFailed = 1,
    /// Wrong use of the command line.
    Usage = 2,
    /// No such session or turn.
    NotFound = 3,
    /// Refused now, worth a retry.
    TryAgain = 4,
    /// A timeout.
    TimedOut = 5,
    /// Interrupted or cancelled.
    Interrupted = 6,
    /// Refused.
    Refused = 7,
    /// Anything else.
    Other = 8,
    /// The configuration is refused (`EX_USAGE`).
    Configuration = 64,
    /// Cannot connect (`EX_UNAVAILABLE`).
    Unreachable = 69,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What a command comes to.
pub(super) type Outcome = Result<Exit, Failure>;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers at the address.
    #[error("cannot connect to {address}: {cause}")]
    Unreachable { address: String, cause: String },
    /// The connection ended before the answer.
    #[error("the connection to the service was lost before the answer was complete")]
    Lost,
    /// The service refused the call or ended it.
    #[error("{}", describe(.0))]
    Call(Box<Status>),
    /// The caller's own time is up.
    #[error("no result within {}", show_duration(*.0))]
    TimedOut(Duration),
    /// The answer could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if is_of_transport(&status) { Self::Lost } else { Self::Call(status.into()) }
    }
}

impl Failure {
    /// A file cannot be used that an option of the command line names.
    pub fn file(option: &str, file: &Path, problem: impl fmt::Display) -> Self {
        Self::Usage(format!("{option} {}: {problem}", file.display()))
    }

    /// Tells of it on stderr.
    pub fn report(&self) -> Exit {
        if let Self::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // Whoever read our output has read enough.
            return Exit::Fine;
        }
        // Without a stderr there is nobody to tell.
        drop(writeln!(io::stderr(), "session-pool: {self}"));
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Lost => Exit::TryAgain,
            Self::Call(status) => of_code(status.code()),
            Self::TimedOut(_) => Exit::TimedOut,
            Self::Output(_) => Exit::Other,
        }
    }
}

/// What is in a file that an option of the command line names.
pub(super) fn read_file(option: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::file(option, file, error))
}

/// Whether the status was made on this side, of a failure of the connection: no service
/// says such things, and nobody outside of the library knows what its words mean.
fn is_of_transport(status: &Status) -> bool {
    const WORDS: [&str; 5] = [
        "h2 protocol error",
        "transport error",
        "http2 error",
        "error reading a body",
        "connection error",
    ];
    let of_service = status.get_details_error_info().is_some();
    let cause = std::error::Error::source(status);
    let of_library = WORDS.iter().any(|words| status.message().starts_with(words));
    !of_service && (of_library || cause.is_some_and(|cause| cause.is::<tonic::transport::Error>()))
}

fn of_code(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Fine,
        Code::NotFound => Exit::NotFound,
        Code::ResourceExhausted | Code::Aborted | Code::Unavailable => Exit::TryAgain,
        Code::DeadlineExceeded => Exit::TimedOut,
        Code::Cancelled => Exit::Interrupted,
        Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::Unauthenticated => Exit::Refused,
        Code::Unknown
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Other,
    }
}

/// Code, reason, message and metadata on one line.
pub(super) fn describe(status: &Status) -> String {
    let mut line = code_name(status.code());
    let info = status.get_details_error_info();
    if let Some(info) = &info
        && info.reason != line
    {
        line += &format!(" {}", one_line(&info.reason));
    }
    line += &format!(": {}", one_line(status.message()));
    let mut notes = Vec::new();
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        notes.push(format!("retry after {}", show_duration(delay)));
    }
    let mut metadata: Vec<_> =
        info.map(|info| info.metadata).unwrap_or_default().into_iter().collect();
    metadata.sort();
    notes.extend(
        metadata
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{}={value:?}", one_line(&key))),
    );
    if !notes.is_empty() {
        line += &format!(" ({})", notes.join(", "));
    }
    line
}

/// `ResourceExhausted` as the gRPC documents write it: `RESOURCE_EXHAUSTED`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn an_error_is_one_line_with_code_reason_message_and_metadata() {
        let mut details = ErrorDetails::new();
        let metadata = [("stderr_tail", "bad\nflag"), ("session_id", "s"), ("signal", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        details.set_error_info("CONNECT_FAILED", "sessionpool.v1", HashMap::from(metadata));
        details.set_retry_info(Some(Duration::from_secs(1)));
        let status = Status::with_error_details(Code::Unavailable, "the CLI\nexited", details);
        assert_eq!(
            Failure::from(status).to_string(),
            "UNAVAILABLE CONNECT_FAILED: the CLI exited (retry after 1.0s, session_id=\"s\", \
             stderr_tail=\"bad\\nflag\")"
        );
        let plain = Status::resource_exhausted("full");
        assert_eq!(Failure::from(plain).to_string(), "RESOURCE_EXHAUSTED: full");
    }

    #[test]
    fn exit_codes_follow_the_documented_table() {
        for (code, exit) in [
            (Code::NotFound, 3),
            (Code::ResourceExhausted, 4),
            (Code::Aborted, 4),
            (Code::Unavailable, 4),
            (Code::DeadlineExceeded, 5),
            (Code::Cancelled, 6),
            (Code::PermissionDenied, 7),
            (Code::FailedPrecondition, 7),
            (Code::InvalidArgument, 7),
            (Code::Unauthenticated, 7),
            (Code::Internal, 8),
            (Code::DataLoss, 8),
        ] {
            assert_eq!(of_code(code) as u8, exit, "{code:?}");
        }
    }

    #[test]
    fn f6_a_lost_connection_is_told_without_the_words_of_libraries() {
        for text in ["h2 protocol error: error reading a body from connection", "transport error"] {
            let failure = Failure::from(Status::internal(text));
            assert!(matches!(failure, Failure::Lost), "{text}");
            assert!(!failure.to_string().contains("h2"), "{failure}");
        }
        let of_service = Failure::from(Status::unavailable("the CLI ended"));
        assert!(matches!(of_service, Failure::Call(_)));
    }

    #[test]
    fn a_broken_pipe_is_a_quiet_end() {
        let broken = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(broken.report(), Exit::Fine);
    }
}
