//! Folders and files that are held open from the last look at them until a CLI sees them. An
//! agent that can write beside one could put a link in its place at any time between.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat, readlink};

use crate::cli::{command::Folders, config_folder};

/// A folder that was at its path when it was opened.
#[derive(Debug)]
pub struct PinnedDir {
    /// The folder or file, whatever becomes of its name.
    pub fd: OwnedFd,
    /// Its path, without links.
    pub path: PathBuf,
}

impl PinnedDir {
    /// Opens all that a session may write to. Fails if one of them is not a folder at the
    /// path that was allowed any more.
    pub fn all(folders: &Folders) -> io::Result<Vec<Self>> {
        folders.writable().iter().map(|path| Self::folder(path)).collect()
    }

    /// Opens what an operator has placed for a session to read. What is a link is not shown: it
    /// may lead to what is hidden.
    pub fn placed(folders: &Folders) -> io::Result<Vec<Self>> {
        let is_there = |path: &PathBuf| {
            let found = path.symlink_metadata();
            found.is_ok_and(|found| found.is_dir() || found.is_file())
        };
        let paths = config_folder::placed(&folders.config).filter(is_there);
        paths.map(|path| Self::open(&path, OFlags::empty())).collect()
    }

    fn folder(path: &Path) -> io::Result<Self> {
        Self::open(path, OFlags::DIRECTORY)
    }

    fn open(path: &Path, kind: OFlags) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(|error| named(error.into()))?;
        let real = place_of(&fd).map_err(named)?;
        if real != path {
            return Err(named(io::Error::other("it is not what it was when it was asked for")));
        }
        Ok(Self { fd, path: real })
    }
}

/// Where what is open is.
fn place_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::{fd::AsRawFd as _, unix::ffi::OsStringExt as _};
    let link = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(std::ffi::OsString::from_vec(link.into_bytes()).into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_folder_whose_path_has_become_a_link_is_not_opened() {
        let place = tempfile::tempdir().expect("a folder");
        let base = place.path().canonicalize().expect("real");
        let folder = base.join("root/project");
        fs::create_dir_all(&folder).expect("made");
        let opened = PinnedDir::folder(&folder).expect("as it was");

        // Another session that works in the root puts links in its place.
        fs::rename(&folder, base.join("root/aside")).expect("moved");
        symlink("/etc", &folder).expect("linked");
        assert!(PinnedDir::folder(&folder).is_err());
        fs::create_dir_all(base.join("elsewhere/project")).expect("made");
        fs::rename(base.join("root"), base.join("old")).expect("moved");
        symlink(base.join("elsewhere"), base.join("root")).expect("linked");
        let error = PinnedDir::folder(&folder).expect_err("a link on the way");
        assert!(error.to_string().contains(folder.to_str().expect("UTF-8")), "{error}");

        // What was opened before is what it was.
        assert_eq!(place_of(&opened.fd).expect("there"), base.join("old/aside"));
    }
}
