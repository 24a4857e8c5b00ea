//! The keys whose values are one of a few words.

use crate::policy::Mentions;

/// What each CLI is enclosed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// The first of the others that works here.
    Auto,
    /// Namespaces of its own, made by bubblewrap.
    Bubblewrap,
    /// Only that nothing of it is left in the end.
    ProcessTree,
}

impl SandboxMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Bubblewrap, Self::ProcessTree];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bubblewrap => "bubblewrap",
            Self::ProcessTree => "process-tree",
        }
    }
}

/// Whether sessions have control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Where they can be had.
    Auto,
    /// They have none.
    Off,
    /// The start fails where they cannot be had.
    Required,
}

impl CgroupMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Off, Self::Required];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Required => "required",
        }
    }
}

/// Whether prompts may name files with `@PATH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMentions {
    /// As `Below` where prompts may be slash commands, else as `Off`.
    Auto,
    /// They may, whatever the sandbox shows.
    On,
    /// Those below the session's working folder.
    Below,
    /// They may not.
    Off,
}

impl FileMentions {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::On, Self::Below, Self::Off];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Below => "below",
            Self::Off => "off",
        }
    }

    /// What it comes to where slash commands are allowed or not.
    pub fn allowed(self, slash_commands: bool) -> Mentions {
        match self {
            Self::Auto if slash_commands => Mentions::Below,
            Self::On => Mentions::Any,
            Self::Below => Mentions::Below,
            Self::Auto | Self::Off => Mentions::None,
        }
    }
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A database in a file: conversations outlive the service.
    Sqlite,
    /// A PostgreSQL server, which several services may share.
    Postgres,
    /// Nothing outlives the service.
    Memory,
}

impl StoreKind {
    pub(super) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Memory];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Memory => "memory",
        }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    pub(super) const ALL: [Self; 2] = [Self::Pretty, Self::Json];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}
