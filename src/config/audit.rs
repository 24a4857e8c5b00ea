//! The section `audit`: where it is recorded who did what. As in `sections`, each comment ends with
//! the default and the bounds, and `docs/configuration.md` is made from it.

use std::path::{Path, PathBuf};

/// The file that is none.
const STDOUT: &str = "stdout";

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where each call, each credential that a process begins to use and each host that a session
    /// is kept from are recorded, as JSON lines ([audit.md](audit.md)): `stdout`, or the path of a
    /// link to the newest of the files beside it, one a day (UTC). Its folder, which
    /// cannot be the root, is hidden from sessions in bubblewrap. Default none.
    pub file: Option<PathBuf>,
    /// How many of these files are kept; older ones are removed. Default 90, 2 to 10 000.
    pub max_files: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { file: None, max_files: 90 }
    }
}

impl AuditConfig {
    /// Whether it is written to the standard output.
    pub fn is_to_stdout(&self) -> bool {
        self.file.as_deref() == Some(Path::new(STDOUT))
    }

    /// The link to the newest file, if it is written to files.
    pub fn files(&self) -> Option<&PathBuf> {
        self.file.as_ref().filter(|_| !self.is_to_stdout())
    }

    /// The path in it.
    pub(super) fn path_mut(&mut self) -> Option<&mut PathBuf> {
        let is_path = !self.is_to_stdout();
        self.file.as_mut().filter(|_| is_path)
    }
}
