//! A last look at options before a process is started with them. They were allowed when
//! they were asked for; a session that is taken up again may have been asked for under
//! another policy, and a folder may have become a link to elsewhere. Knows who to ask,
//! not what is allowed.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{cli::options::Options, failure::Cause};

/// Says whether a process may be started with these options. May look at the file
/// system.
#[derive(Clone)]
pub struct Permit(Arc<Judge>);

type Judge = dyn Fn(&Options) -> Result<(), Cause> + Send + Sync;

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit(..)")
    }
}

impl Permit {
    /// Asks `judge`.
    pub fn new(judge: impl Fn(&Options) -> Result<(), Cause> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Looks at the options and at the folders that they name. Not for a runtime's own
    /// threads.
    pub(super) fn check(&self, options: &Options) -> Result<(), Cause> {
        (self.0)(options)?;
        let cwd = options.cwd.iter().map(|path| ("options.cwd", path));
        let add_dirs = options.add_dirs.iter().map(|path| ("options.add_dirs", path));
        match cwd.chain(add_dirs).find(|(_, path)| !is_unchanged(Path::new(path))) {
            Some((field, _)) => Err(Cause::NotAllowed {
                field: field.to_owned(),
                allowed: "a folder that is still what it was when it was asked for".to_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether a real path still is one: no part of it has become a link.
fn is_unchanged(path: &Path) -> bool {
    path.is_dir() && path.canonicalize().is_ok_and(|real: PathBuf| real == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_became_a_link_is_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let cwd = place.path().canonicalize().expect("a real path").join("work");
        std::fs::create_dir(&cwd).expect("made");
        let options = Options { cwd: cwd.to_str().map(str::to_owned), ..Options::default() };
        let permit = Permit::new(|_| Ok(()));
        assert_eq!(permit.check(&options), Ok(()));
        std::fs::remove_dir(&cwd).expect("removed");
        assert!(permit.check(&options).is_err());
        std::os::unix::fs::symlink("/", &cwd).expect("swapped");
        assert!(permit.check(&options).is_err());
    }
}
