//! Files in folders that agents write to as well. Whatever is planted there, nothing leads
//! out of such a folder, nothing waits, and nothing is read without bound. Knows nothing
//! of what the files are for.
//!
//! An agent can put a link where the service expects a file, a pipe that nobody writes to,
//! a file of any size, folders without permissions, or folders as deep as it likes.

mod measure;
mod pieces;

use std::{
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _},
};
use rustix::fs::OFlags;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use measure::{NAME_BYTES, held_below};
pub use pieces::{Draft, Lines};

/// How long folders are emptied where nobody says otherwise.
const LONGEST_REMOVAL: Duration = Duration::from_secs(60);

/// A folder that is not left, by way of no link. Paths are relative to it. Every call may
/// wait for a disk: not for a runtime's own threads.
#[derive(Debug)]
pub struct Folder {
    dir: Dir,
    /// Nothing is written any more once this is cancelled.
    given_up: CancellationToken,
    /// Until when folders are emptied.
    patience: Instant,
}

impl Folder {
    /// Opens a folder, which itself has to be out of the reach of agents.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        let patience = Instant::now() + LONGEST_REMOVAL;
        Ok(Self { dir, given_up: CancellationToken::new(), patience })
    }

    /// Writes nothing any more once `given_up` is cancelled: what would come too late fails
    /// as interrupted.
    #[must_use]
    pub fn until(self, given_up: CancellationToken) -> Self {
        Self { given_up, ..self }
    }

    /// Empties folders for so long, all together: whoever fills them as fast does not keep
    /// a thread for ever. A minute otherwise.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience: Instant::now() + patience, ..self }
    }

    fn wanted(&self) -> io::Result<()> {
        if self.given_up.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "given up"));
        }
        Ok(())
    }

    /// Makes sure that nothing but folders is on the way to a file, and nothing but a
    /// regular file at its place, if anything.
    pub fn clear_way(&self, file: &Path) -> io::Result<()> {
        self.wanted()?;
        self.open_way(file);
        let way: Vec<&Path> =
            file.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for folder in way.into_iter().rev() {
            match self.dir.symlink_metadata(folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => self.remove_file(folder)?,
                // Nor is anything below it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(named(folder, &error)),
            }
        }
        match self.dir.symlink_metadata(file) {
            Ok(found) if found.is_file() => Ok(()),
            Ok(_) => self.remove_tree(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(named(file, &error)),
        }
    }

    fn open_regular(&self, file: &Path) -> io::Result<File> {
        self.open_way(file);
        if !self.dir.symlink_metadata(file)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut options = OpenOptions::new();
        // It may have become another one meanwhile. Of a pipe, the end that nobody writes
        // to is opened at once this way.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        options.read(true).custom_flags(flags.bits().cast_signed());
        let opened = self.dir.open_with(file, &options)?;
        match opened.metadata()?.is_file() {
            true => Ok(opened),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file")),
        }
    }

    /// Puts a file in the place of whatever is there, and makes the folders on the way to
    /// it. A crash leaves the old or the new.
    pub fn replace(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        self.make_way(file)?;
        let new = self.new_name(file);
        let placed = self.write_new(&new, content).and_then(|()| self.place(&new, file));
        placed.map_err(|error| {
            self.dir.remove_file(&new).ok();
            named(file, &error)
        })
    }

    fn write_new(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        self.dir.open_with(file, &options)?.write_all(content)
    }

    fn place(&self, new: &Path, file: &Path) -> io::Result<()> {
        self.wanted()?;
        self.dir.rename(new, &self.dir, file)
    }

    fn make_way(&self, file: &Path) -> io::Result<()> {
        self.clear_way(file)?;
        match file.parent() {
            Some(folder) => self.dir.create_dir_all(folder).map_err(|error| named(folder, &error)),
            None => Ok(()),
        }
    }

    /// Makes a folder, and those on the way to it, in the place of whatever else is there.
    pub fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.make_way(&folder.join("entry"))
    }

    /// Whether there is something of this name, be it a link to nowhere.
    pub fn exists(&self, path: &Path) -> bool {
        self.dir.symlink_metadata(path).is_ok()
    }

    /// What is in a regular file.
    ///
    /// # Errors
    ///
    /// It is not there, is something else, or has more than `most` bytes.
    pub fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.open_regular(file)?.take(most + 1).read_to_end(&mut content)?;
        match content.len() as u64 > most {
            true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large")),
            false => Ok(content),
        }
    }

    /// Moves a file, and makes the folders on the way to its new place.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.make_way(to)?;
        self.dir.rename(from, &self.dir, to).map_err(|error| named(from, &error))
    }

    /// Removes a file, or a link, if it is there, whatever the permissions of the folders that
    /// it lies in.
    pub fn remove_file(&self, file: &Path) -> io::Result<()> {
        self.open_way(file);
        if_there(self.dir.remove_file(file)).map_err(|error| named(file, &error))
    }

    /// Opens the folders on the way to a path, as far as their owner has closed them to itself:
    /// an agent could otherwise keep what is to be forgotten, or its conversation from going on.
    fn open_way(&self, path: &Path) {
        let way: Vec<&Path> = path.ancestors().skip(1).collect();
        for folder in way.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            match self.dir.symlink_metadata(folder) {
                Ok(found) if !found.is_dir() => return,
                Ok(found) if found.permissions().mode() & 0o700 == 0o700 => {}
                Ok(_) => open_up(&self.dir, folder),
                // What comes next says what is wrong.
                Err(_) => return,
            }
        }
    }

    /// The folders in a folder, by their paths; links are none. Empty if it is not there.
    pub fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.open_way(&folder.join("entry"));
        let entries = match self.dir.read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| named(folder, &error))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(folder.join(entry.file_name()));
            }
        }
        Ok(found)
    }

    /// Removes a folder with all that is in it, if it is there, whatever its permissions
    /// and however deep it is. A link goes, what it leads to stays.
    pub fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.open_way(path);
        match self.dir.symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(named(path, &error)),
            Ok(found) if found.is_dir() => {
                self.empty_and_remove(path).map_err(|error| named(path, &error))
            }
            Ok(_) => self.remove_file(path),
        }
    }

    /// Somebody may be writing there: what is gone or has come meanwhile is seen in the next
    /// round.
    fn empty_and_remove(&self, path: &Path) -> io::Result<()> {
        loop {
            let emptied = opened_up(&self.dir, path).and_then(|tree| flatten(&tree, self.patience));
            let removed = match emptied {
                Ok(false) => continue,
                Ok(true) => self.dir.remove_dir(path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if is_meanwhile(&error) && Instant::now() < self.patience => {
                    match self.dir.symlink_metadata(path) {
                        Ok(found) if found.is_dir() => {}
                        Ok(_) => return self.remove_file(path),
                        Err(error) => return if_there(Err(error)),
                    }
                }
                removed => return removed,
            }
        }
    }
}

/// Whether an error says that something was removed, moved or made by somebody else.
fn is_meanwhile(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound};
    matches!(error.kind(), DirectoryNotEmpty | NotADirectory | NotFound)
}

/// Removes what is in a folder, and brings up what was two levels below it. Returns
/// whether nothing was left to do. By steps of one level no depth needs a stack.
fn flatten(tree: &Dir, patience: Instant) -> io::Result<bool> {
    let in_time = || match Instant::now() < patience {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long to empty")),
    };
    let mut is_empty = true;
    for entry in tree.entries()? {
        in_time()?;
        is_empty = false;
        let entry = entry?;
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            if_there(tree.remove_file(&name))?;
            continue;
        }
        let folder = opened_up(tree, Path::new(&name))?;
        for entry in folder.entries()? {
            in_time()?;
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // A folder that moves is written to: it has a new parent.
                open_up(&folder, Path::new(&entry.file_name()));
                folder.rename(entry.file_name(), tree, Uuid::new_v4().to_string())?;
            } else {
                if_there(folder.remove_file(entry.file_name()))?;
            }
        }
        if_there(tree.remove_dir(&name))?;
    }
    Ok(is_empty)
}

/// Opens a folder that its owner may have closed to itself.
fn opened_up(parent: &Dir, name: &Path) -> io::Result<Dir> {
    open_up(parent, name);
    parent.open_dir(name)
}

fn open_up(parent: &Dir, name: &Path) {
    let own = Permissions::from_std(std::fs::Permissions::from_mode(0o700));
    // Where it does not work, what comes next says why.
    parent.set_permissions(name, own).ok();
}

fn if_there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
