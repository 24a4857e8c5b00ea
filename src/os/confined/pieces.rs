//! Files that are read and written piece by piece: none of them is held whole, however
//! large an agent has made it.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

use cap_std::fs::{File, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;
use uuid::Uuid;

use super::{Folder, named};

/// The largest file that is read by its lines, in bytes.
const LARGEST_FILE: u64 = 4 << 30;

/// Bytes that a line may leave behind as room for the next.
const LINE_ROOM: usize = 1 << 20;

/// The lines of a file, one after the other.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    longest: usize,
    line: Vec<u8>,
}

impl Lines {
    /// The next line with its end; `None` behind the last. Fails for one that is longer than
    /// the lines of this file may be.
    pub fn read(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.line.shrink_to(LINE_ROOM);
        let bound = u64::try_from(self.longest).unwrap_or(u64::MAX).saturating_add(1);
        let mut reader = (&mut self.reader).take(bound);
        let read = reader.read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| named(&self.path, &error))?;
        if read > self.longest {
            let text =
                format!("{}: a line of more than {} bytes", self.path.display(), self.longest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok((read > 0).then_some(&self.line))
    }
}

/// A file that is being written, to be put in the place of another. It is nothing that
/// anybody reads before that.
#[derive(Debug)]
pub struct Draft {
    new: PathBuf,
    file: PathBuf,
}

impl Folder {
    /// The lines of a file, each of up to `longest` bytes; `None` if there is nothing of that
    /// name. Fails for anything but a regular file, and for one that is larger than 4 GiB.
    pub fn lines(&self, file: &Path, longest: usize) -> io::Result<Option<Lines>> {
        let opened = match self.open_regular(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(file, &error)),
        };
        if opened.metadata()?.len() > LARGEST_FILE {
            let text = format!("{}: more than {LARGEST_FILE} bytes", file.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let (path, reader) = (file.to_owned(), BufReader::new(opened));
        Ok(Some(Lines { path, reader, longest, line: Vec::new() }))
    }

    /// Begins to write a file, and makes the folders on the way to it.
    pub fn draft(&self, file: &Path) -> io::Result<Draft> {
        self.make_way(file)?;
        let new = self.new_name(file);
        self.write_new(&new, b"").map_err(|error| named(file, &error))?;
        Ok(Draft { new, file: file.to_owned() })
    }

    /// Adds to it. Nothing is open in between: there may be as many as an agent likes.
    pub fn add(&self, draft: &Draft, content: &[u8]) -> io::Result<()> {
        self.wanted()?;
        let mut options = OpenOptions::new();
        // Who lists the folder knows the name by now.
        options.append(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let opened = self.dir.open_with(&draft.new, &options);
        let added = opened.and_then(|mut file| file.write_all(content));
        added.map_err(|error| named(&draft.file, &error))
    }

    /// Puts it in the place of whatever is there. A crash leaves the old or the new.
    pub fn finish(&self, draft: &Draft) -> io::Result<()> {
        self.place(&draft.new, &draft.file).map_err(|error| named(&draft.file, &error))
    }

    /// Removes what was written so far.
    pub fn abandon(&self, draft: &Draft) {
        // What is left has a name that nobody looks for.
        self.dir.remove_file(&draft.new).ok();
    }

    /// A name beside a file under which nobody can have planted something.
    pub(super) fn new_name(&self, file: &Path) -> PathBuf {
        file.with_file_name(format!(".{}.new", Uuid::new_v4()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a6_lines_come_one_by_one_up_to_a_bound() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(place.path()).expect("opened");
        let file = Path::new("file");
        assert!(folder.lines(file, 5).expect("nothing is there").is_none());
        fs::write(place.path().join(file), "1234\n\n12345").expect("written");
        let mut lines = folder.lines(file, 5).expect("opened").expect("there");
        for wanted in ["1234\n", "\n", "12345"] {
            assert_eq!(lines.read().expect("read"), Some(wanted.as_bytes()));
        }
        assert_eq!(lines.read().expect("the end"), None);
        let mut lines = folder.lines(file, 4).expect("opened").expect("there");
        let error = lines.read().expect_err("too long").to_string();
        assert!(error.contains("more than 4 bytes"), "{error}");
        let large = fs::File::create(place.path().join(file)).expect("made");
        large.set_len(LARGEST_FILE + 1).expect("sparse");
        let error = folder.lines(file, 5).expect_err("too large").to_string();
        assert!(error.contains("4294967296 bytes"), "{error}");
    }

    #[test]
    fn a6_a_draft_is_no_file_before_it_is_finished() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(place.path()).expect("opened");
        let file = Path::new("a/file");
        let draft = folder.draft(file).expect("begun");
        for piece in ["one ", "two"] {
            folder.add(&draft, piece.as_bytes()).expect("added");
        }
        assert!(!place.path().join(file).exists(), "nothing yet");
        folder.finish(&draft).expect("placed");
        assert_eq!(fs::read(place.path().join(file)).expect("read"), b"one two");
        let other = folder.draft(file).expect("begun");
        folder.abandon(&other);
        assert_eq!(fs::read_dir(place.path().join("a")).expect("there").count(), 1);
        std::os::unix::fs::symlink("/etc/passwd", place.path().join(&draft.new)).expect("linked");
        assert!(folder.add(&draft, b"x").is_err(), "a link is not followed");
    }
}
