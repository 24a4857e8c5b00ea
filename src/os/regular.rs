//! Files that an operator names and that somebody else may have put something else in the place
//! of: a pipe, which would keep whoever opens it waiting for ever, or a file without end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// Bytes of a file of settings, tokens or certificates.
const LONGEST: u64 = 16 << 20;

/// Opens a file for reading, if it is a regular one. Links are followed: mounted secrets are such.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe without a writer would be waited for; so it is opened, and refused.
    let waits_not = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(waits_not).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is not a regular file")),
    }
}

/// What a file holds. Fails for anything but a regular file of at most 16 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(open(path)?, LONGEST)
}

/// What is read from there. Fails for more than so many bytes.
pub fn read_bounded(source: impl Read, bound: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = source.take(bound + 1).read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read > bound) {
        let text = format!("more than {bound} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(content)
}

/// The same as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::other("is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let [pipe, file, link, large] =
            ["pipe", "file", "link", "large"].map(|name| folder.path().join(name));
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("made");
        std::fs::write(&file, "text").expect("written");
        symlink(&file, &link).expect("linked");
        File::create(&large).and_then(|file| file.set_len(LONGEST + 1)).expect("made");
        assert_eq!(read_text(&link).expect("followed"), "text");
        for (path, problem) in [
            (pipe.as_path(), "is not a regular file"),
            (folder.path(), "is not a regular file"),
            (Path::new("/dev/zero"), "is not a regular file"),
            (large.as_path(), "more than 16777216 bytes"),
        ] {
            let told = read(path).expect_err("refused").to_string();
            assert!(told.contains(problem), "{}: {told}", path.display());
        }
        let missing = read(&folder.path().join("missing")).expect_err("refused");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
