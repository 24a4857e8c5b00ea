//! Files in folders that agents write to as well. Whatever is planted there, nothing leads
//! out of such a folder, nothing waits, and nothing is read without bound. Knows nothing
//! of what the files are for.
//!
//! An agent can put a link where the service expects a file, a pipe that nobody writes to,
//! a file of any size, folders without permissions, or folders as deep as it likes.

mod pieces;

use std::{
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions, OpenOptionsExt as _, Permissions},
};
use rustix::fs::OFlags;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use pieces::{Draft, Lines};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 256 << 20;

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

    /// What a file contains; `None` if there is nothing of that name. Fails for anything
    /// but a regular file, and for one that is larger than 256 MiB.
    pub fn read(&self, file: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.open_regular(file).and_then(|opened| read_bounded(opened, LARGEST_FILE)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(file, &error)),
        }
    }

    fn open_regular(&self, file: &Path) -> io::Result<File> {
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

    /// Moves a file, and makes the folders on the way to its new place.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.make_way(to)?;
        self.dir.rename(from, &self.dir, to).map_err(|error| named(from, &error))
    }

    /// Removes a file, or a link, if it is there.
    pub fn remove_file(&self, file: &Path) -> io::Result<()> {
        if_there(self.dir.remove_file(file)).map_err(|error| named(file, &error))
    }

    /// The folders in a folder, by their paths; links are none. Empty if it is not there.
    pub fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
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

fn read_bounded(file: File, bound: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.take(bound + 1).read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read > bound) {
        let text = format!("more than {bound} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(content)
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
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A folder of an agent's, and beside it something that is not.
    struct Place {
        folder: Folder,
        inside: PathBuf,
        outside: PathBuf,
        _all: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let all = tempfile::tempdir().expect("a folder");
            let [inside, outside] = ["inside", "outside"].map(|name| all.path().join(name));
            fs::create_dir(&inside).expect("made");
            fs::create_dir(&outside).expect("made");
            fs::write(outside.join("secret"), "secret").expect("written");
            let folder = Folder::open(&inside).expect("opened");
            Self { folder, inside, outside, _all: all }
        }

        fn is_untouched(&self) -> bool {
            let names = fs::read_dir(&self.outside).expect("there").count();
            fs::read_to_string(self.outside.join("secret")).is_ok_and(|text| text == "secret")
                && names == 1
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_neither_read_nor_written_through() {
        let place = Place::new();
        for target in ["../outside/secret", "../outside/new", "/etc/passwd"] {
            symlink(target, place.inside.join("file")).expect("linked");
            let file = Path::new("file");
            assert!(place.folder.read(file).is_err(), "{target}");
            place.folder.replace(file, b"own").expect("the link is replaced");
            assert_eq!(place.folder.read(file).expect("read"), Some(b"own".to_vec()));
            place.folder.remove_file(file).expect("removed");
        }
        assert!(place.is_untouched());
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_does_not_lead_out() {
        let place = Place::new();
        for target in [place.outside.clone(), PathBuf::from("../outside")] {
            symlink(&target, place.inside.join("projects")).expect("linked");
            let secret = Path::new("projects/secret");
            assert!(place.folder.read(secret).is_err());
            assert!(place.folder.rename(secret, Path::new("mine")).is_err());
            assert!(place.folder.remove_file(secret).is_err());
            assert!(place.folder.remove_tree(secret).is_err());
            assert!(place.folder.folders(Path::new("projects")).is_err());
            place.folder.remove_tree(Path::new("projects")).expect("only the link");
            assert!(place.is_untouched());
        }
        fs::create_dir_all(place.inside.join("folders/own")).expect("made");
        symlink(&place.outside, place.inside.join("folders/out")).expect("linked");
        let found = place.folder.folders(Path::new("folders")).expect("listed");
        assert_eq!(found, [Path::new("folders/own")]);
    }

    #[test]
    fn what_is_in_the_way_of_a_file_gives_way() {
        let place = Place::new();
        let file = Path::new("projects/work/file");
        let plant = |name: &str, is_link: bool| {
            place.folder.remove_tree(Path::new("projects")).expect("removed");
            let at = place.inside.join(name);
            fs::create_dir_all(at.parent().expect("a parent")).expect("made");
            match is_link {
                true => symlink(&place.outside, at).expect("linked"),
                false => fs::write(at, "in the way").expect("written"),
            }
        };
        for (name, is_link) in [
            ("projects", true),
            ("projects", false),
            ("projects/work", true),
            ("projects/work", false),
        ] {
            plant(name, is_link);
            place.folder.clear_way(file).expect("cleared");
            assert_eq!(place.folder.read(file).expect("nothing is there"), None, "{name}");
            plant(name, is_link);
            place.folder.replace(file, b"own").expect("written");
            assert_eq!(fs::read(place.inside.join(file)).expect("a file"), b"own", "{name}");
            assert!(place.is_untouched());
        }
        fs::remove_file(place.inside.join(file)).expect("removed");
        fs::create_dir(place.inside.join(file)).expect("made");
        place.folder.clear_way(file).expect("cleared");
        assert_eq!(place.folder.read(file).expect("nothing is there"), None);
    }

    #[test]
    fn who_has_given_up_writes_nothing_any_more() {
        let place = Place::new();
        let given_up = CancellationToken::new();
        let folder = Folder::open(&place.inside).expect("opened").until(given_up.clone());
        folder.replace(Path::new("file"), b"before").expect("written");
        given_up.cancel();
        let late = folder.replace(Path::new("file"), b"after").expect_err("too late");
        assert_eq!(late.kind(), io::ErrorKind::Interrupted);
        assert!(folder.rename(Path::new("file"), Path::new("other")).is_err());
        assert_eq!(fs::read(place.inside.join("file")).expect("a file"), b"before");
        assert_eq!(fs::read_dir(&place.inside).expect("there").count(), 1);
    }

    #[test]
    fn a_folder_that_is_filled_meanwhile_is_emptied_up_to_a_bound() {
        let place = Place::new();
        let folder =
            Folder::open(&place.inside).expect("opened").within(Duration::from_millis(200));
        let full = place.inside.join("full");
        fs::create_dir(&full).expect("made");
        let stop = CancellationToken::new();
        let (filling, at) = (stop.clone(), full.clone());
        let filler = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !filling.is_cancelled() {
                number += 1;
                fs::create_dir_all(at.join(format!("{number}/below"))).ok();
                fs::rename(at.join(number.to_string()), at.join("moved")).ok();
            }
        });
        let outcome = folder.remove_tree(Path::new("full"));
        stop.cancel();
        filler.join().expect("no panic");
        // It may have been gone for a moment.
        if let Err(error) = outcome {
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        place.folder.remove_tree(Path::new("full")).expect("nobody fills it now");
        assert!(!full.exists() && place.is_untouched());
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_keeps_nobody_waiting() {
        let place = Place::new();
        let pipe = place.inside.join("file");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        let file = Path::new("file");
        assert!(place.folder.read(file).expect_err("a pipe").to_string().contains("regular"));
        place.folder.replace(file, b"own").expect("replaced");
        assert_eq!(fs::read(pipe).expect("a file"), b"own");
    }

    #[test]
    fn a_file_is_read_up_to_a_bound() {
        let place = Place::new();
        let path = place.inside.join("file");
        fs::File::create(&path).expect("made").set_len(LARGEST_FILE + 1).expect("sparse");
        let error = place.folder.read(Path::new("file")).expect_err("too large");
        assert!(error.to_string().contains("268435456 bytes"), "{error}");
        fs::write(&path, "12345").expect("written");
        let open = || place.folder.open_regular(Path::new("file")).expect("opened");
        assert_eq!(read_bounded(open(), 5).expect("fits"), b"12345");
        assert!(read_bounded(open(), 4).is_err());
        assert_eq!(place.folder.read(Path::new("none")).expect("nothing"), None);
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_goes_with_all_that_is_in_it() {
        let place = Place::new();
        fs::create_dir_all(place.inside.join("a/file/b/c")).expect("made");
        symlink(&place.outside, place.inside.join("a/file/b/out")).expect("linked");
        place.folder.replace(Path::new("a/file"), b"own").expect("replaced");
        assert_eq!(fs::read(place.inside.join("a/file")).expect("a file"), b"own");
        assert!(place.is_untouched());
        assert_eq!(fs::read_dir(place.inside.join("a")).expect("there").count(), 1);
    }

    #[test]
    fn a_tree_of_any_depth_and_without_permissions_can_be_removed() {
        let place = Place::new();
        // Deeper than a path can name, and than a stack or open folders would reach.
        let mut at = Dir::open_ambient_dir(&place.inside, ambient_authority()).expect("opened");
        for _ in 0..5_000 {
            at.create_dir("d").expect("made");
            at.write("f", "").expect("written");
            at.symlink_contents("/etc", "l").expect("linked");
            let next = at.open_dir("d").expect("opened");
            let closed = Permissions::from_std(fs::Permissions::from_mode(0o000));
            at.set_permissions("d", closed).expect("closed");
            at = next;
        }
        place.folder.remove_tree(Path::new("d")).expect("removed");
        assert!(!place.inside.join("d").exists() && place.inside.join("f").exists());
        place.folder.remove_tree(Path::new("d")).expect("nothing to remove");
        assert!(place.is_untouched() && Path::new("/etc/passwd").exists());
    }
}
