//! A last look at options before a process is started with them. They were allowed when
//! they were asked for; a session that is taken up again may have been asked for under
//! another policy, and a folder may have become a link to elsewhere. Knows who to ask,
//! not what is allowed.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cli::{acquired::Acquired, options::Options},
    failure::Cause,
};

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

    /// What is left of what a session has come to: of the mode, the model and the folders
    /// those that an option could ask for. Rules are a caller's own, as `allowed_tools` are.
    /// Not for a runtime's own threads.
    pub(super) fn hold(&self, acquired: Acquired) -> Acquired {
        let allows = |options: Options| self.check(&options).is_ok();
        let mode = |mode: &String| {
            let permission_mode = Some(mode.clone());
            allows(Options { permission_mode, ..Options::default() })
        };
        let model =
            |model: &String| allows(Options { model: Some(model.clone()), ..Options::default() });
        let folder = |folder: &String| {
            allows(Options { add_dirs: vec![folder.clone()], ..Options::default() })
        };
        let mut held = acquired;
        held.mode = held.mode.filter(mode);
        held.model = held.model.filter(model);
        held.grants.folders.retain(folder);
        held
    }
}

/// Whether a real path still is one: no part of it has become a link.
fn is_unchanged(path: &Path) -> bool {
    path.is_dir() && path.canonicalize().is_ok_and(|real: PathBuf| real == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::permissions::Grants;

    #[test]
    fn e3_of_what_a_session_has_come_to_only_what_is_allowed_stays() {
        let place = tempfile::tempdir().expect("a folder");
        let real = place.path().canonicalize().expect("a real path");
        let path = |name: &str| real.join(name).to_str().expect("UTF-8").to_owned();
        for name in ["stays", "closed"] {
            std::fs::create_dir(path(name)).expect("made");
        }
        std::os::unix::fs::symlink(path("stays"), path("link")).expect("linked");
        let closed = path("closed");
        let refused = Cause::NotAllowed { field: String::new(), allowed: String::new() };
        let permit = Permit::new(move |options| {
            let mode = options.permission_mode.as_deref() == Some("acceptEdits");
            let model = options.model.as_deref() == Some("\0");
            if mode || model || options.add_dirs.contains(&closed) {
                return Err(refused.clone());
            }
            Ok(())
        });
        let acquired = |mode: &str, model: &str, folders: &[&str]| Acquired {
            mode: Some(mode.to_owned()),
            model: Some(model.to_owned()),
            grants: Grants {
                deny: vec!["Write".to_owned()],
                folders: folders.iter().map(|name| path(name)).collect(),
                ..Grants::default()
            },
            ..Acquired::default()
        };
        let allowed = acquired("plan", "m", &["stays"]);
        assert_eq!(permit.hold(allowed.clone()), allowed);
        let held = permit.hold(acquired("acceptEdits", "\0", &["closed", "stays", "link", "gone"]));
        assert_eq!(held, Acquired { mode: None, model: None, ..allowed });
    }

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
