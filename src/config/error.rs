//! What is wrong with a configuration, in words for whoever wrote it.

use std::{fmt, io, path::PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: line {line}: {problem}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What the parser says. Never the line itself: it may hold a secret.
        problem: String,
    },
    /// Settings that are not accepted: all of them.
    #[error("{}", list(.0))]
    Refused(Vec<Violation>),
}

fn list(violations: &[Violation]) -> String {
    let lines: Vec<_> = violations.iter().map(|violation| format!("  {violation}")).collect();
    format!("the configuration is refused:\n{}", lines.join("\n"))
}

/// One setting that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The key, with dots.
    pub key: String,
    /// The value as far as it may be shown.
    pub value: Option<String>,
    /// What is wrong with it; the bound, if it is one.
    pub problem: String,
    /// Where the value came from.
    pub origin: ValueOrigin,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, problem, origin } = self;
        f.write_str(key)?;
        if let Some(value) = value {
            write!(f, " = {value}")?;
        }
        write!(f, " ({origin}): {problem}")
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    CommandLine,
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}
