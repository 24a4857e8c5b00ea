//! Which folders of the machine a session may work in: existing ones below the roots, by
//! their real paths. Reads the file system: not for a runtime's own threads.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

/// The longest real path of a working folder, in bytes. The CLI names the folder of its
/// transcripts after it, and shortens longer names in a way that is not known here, so
/// that a conversation could not be taken up.
pub const LONGEST_PATH: usize = 200;

/// The folders below which sessions may work, as real paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    /// Takes the operator's folders, which have to exist. The error names the one that
    /// cannot be used.
    pub fn open(paths: &[String]) -> Result<Self, (String, io::Error)> {
        let real =
            |path: &String| real_root(Path::new(path)).map_err(|error| (path.clone(), error));
        paths.iter().map(real).collect::<Result<_, _>>().map(Self)
    }

    /// The real path of a folder below a root, or of a root itself; `None` for anything
    /// else, whether it exists or not: what is elsewhere is not told.
    pub fn resolve(&self, text: &str) -> Option<String> {
        let path = Path::new(text);
        if self.0.is_empty() || !is_plain(path) {
            return None;
        }
        let real = path.canonicalize().ok()?;
        let below = self.0.iter().any(|root| real.starts_with(root)) && real.is_dir();
        let real = real.into_os_string().into_string().ok()?;
        (below && real.len() <= LONGEST_PATH).then_some(real)
    }

    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        if self.0.is_empty() {
            return "none (policy.cwd_roots)".into();
        }
        let roots: Vec<_> = self.0.iter().map(|root| root.display().to_string()).collect();
        format!(
            "existing folders below {} whose real path has at most {LONGEST_PATH} bytes \
             (policy.cwd_roots)",
            super::listed(&roots)
        )
    }
}

fn real_root(path: &Path) -> io::Result<PathBuf> {
    let real = path.canonicalize()?;
    if real.is_dir() { Ok(real) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// Whether a path is absolute and goes nowhere up.
pub fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_real_folders_below_a_root_are_allowed() {
        let place = tempfile::tempdir().expect("a folder");
        let base = place.path().canonicalize().expect("a real path");
        let text = |name: &str| base.join(name).to_str().expect("UTF-8").to_owned();
        for folder in ["root/in", "root-beside", "elsewhere"] {
            fs::create_dir_all(base.join(folder)).expect("made");
        }
        fs::write(base.join("root/file"), "").expect("written");
        symlink(base.join("elsewhere"), base.join("root/out")).expect("linked");
        symlink(base.join("root/in"), base.join("root/within")).expect("linked");
        symlink(base.join("root"), base.join("door")).expect("linked");
        let roots = Roots::open(&[text("door")]).expect("opened");

        assert_eq!(roots.resolve(&text("root")), Some(text("root")));
        assert_eq!(roots.resolve(&text("door/in")), Some(text("root/in")));
        assert_eq!(roots.resolve(&text("root/within")), Some(text("root/in")));
        for refused in [
            text("root/out"),
            text("root/file"),
            text("root/missing"),
            text("root/in/../in"),
            text("root/../elsewhere"),
            text("root-beside"),
            text("elsewhere"),
            "/".into(),
            "in".into(),
            "-in".into(),
            String::new(),
            "a\0b".into(),
        ] {
            assert_eq!(roots.resolve(&refused), None, "{refused:?}");
        }
        assert_eq!(Roots::default().resolve(&text("root")), None);
    }

    #[test]
    fn a_path_that_would_hide_the_transcript_is_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().to_str().expect("UTF-8").to_owned();
        let long = format!("{root}/{}", "x".repeat(LONGEST_PATH));
        fs::create_dir(&long).expect("made");
        assert_eq!(Roots::open(&[root]).expect("opened").resolve(&long), None);
    }

    #[test]
    fn roots_have_to_be_there() {
        let (path, _) = Roots::open(&["/".into(), "/no/such".into()]).expect_err("missing");
        assert_eq!(path, "/no/such");
        assert!(Roots::open(&["/dev/null".into()]).is_err());
    }
}
