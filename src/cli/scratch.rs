//! The temporary directory of one process, where no sandbox gives it a `/tmp` of its own.
//! The CLI keeps the output of background commands and its sockets there, and tools whatever
//! they like; it is removed with the process, and what an earlier life of the service left is
//! removed at the start.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{domain::ids::ClientId, os::confined::Folder};

/// The directory of all of them, below the state folder.
const ALL: &str = "tmp";

/// Variables that name it: those of POSIX and of other systems, and the CLI's own.
pub const VARIABLES: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "CLAUDE_CODE_TMPDIR"];

/// Where the CLI puts its socket if the path in its own directory would be too long for one.
const SOCKETS: [&str; 2] = ["/tmp/cc-socks", "/tmp/cc-socks-"];

/// The path for a process. It is short, since paths of sockets have at most 107 bytes.
pub fn path(state_dir: &Path, process: ClientId) -> PathBuf {
    state_dir.join(ALL).join(process.short())
}

/// Makes the directory, for the service's user only.
pub fn make(scratch: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(scratch)
}

/// Removes it with all that is in it, and the socket of a CLI that was killed. Agents have
/// filled it: it may be deep, and closed to its owner.
pub fn remove(scratch: &Path, cli: Option<u32>) -> io::Result<()> {
    if let Some(cli) = cli {
        let user = rustix::process::geteuid().as_raw();
        let [own, of_user] = SOCKETS;
        for folder in [own.to_owned(), format!("{of_user}{user}")] {
            // Only the CLI's user can have made it, and most CLIs have removed it.
            fs::remove_file(format!("{folder}/{cli}.sock")).ok();
        }
    }
    let (Some(parent), Some(name)) = (scratch.parent(), scratch.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match Folder::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        parent => parent?.remove_tree(Path::new(name)),
    }
}

/// Removes all of them. Not while there are processes.
pub fn sweep(state_dir: &Path) -> io::Result<()> {
    remove(&state_dir.join(ALL), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b3_a_scratch_directory_goes_with_its_process() {
        let state = tempfile::tempdir().expect("a folder");
        let (one, other) = (ClientId::fresh(), ClientId::fresh());
        let (one, other) = (path(state.path(), one), path(state.path(), other));
        for scratch in [&one, &other] {
            make(scratch).expect("made");
            fs::create_dir_all(scratch.join("claude-0/tasks")).expect("made");
            fs::write(scratch.join("claude-0/tasks/output"), "text").expect("written");
        }
        remove(&one, Some(u32::MAX)).expect("removed");
        assert!(!one.exists() && other.exists());
        sweep(state.path()).expect("swept");
        assert!(!other.exists());
        sweep(state.path()).expect("nothing to sweep");
    }
}
