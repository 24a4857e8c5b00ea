//! Where the files are that the configuration names.

use std::path::PathBuf;

use super::Config;

/// What `store.url` begins with where it is a file.
pub(super) const SQLITE: &str = "sqlite:";

impl Config {
    /// The file of the database.
    pub fn database_file(&self) -> PathBuf {
        match self.store.url.strip_prefix(SQLITE) {
            Some(path) => PathBuf::from(path.strip_prefix("//").unwrap_or(path)),
            None => self.state_dir.join("session-pool.db"),
        }
    }

    /// The CLI runs in other working folders than ours.
    pub(super) fn make_paths_absolute(&mut self) {
        let is_bare_name = self.cli.path.components().count() == 1;
        for path in [
            Some(&mut self.state_dir),
            (!is_bare_name).then_some(&mut self.cli.path),
            self.auth.tokens_file.as_mut(),
            self.tls.cert.as_mut(),
            self.tls.key.as_mut(),
            self.tls.client_ca.as_mut(),
            self.store.url_file.as_mut(),
            self.audit.path_mut(),
        ]
        .into_iter()
        .chain(self.cluster.paths_mut())
        .chain(self.traces.paths_mut())
        .chain(self.gateway.paths_mut())
        .flatten()
        {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
    }
}
