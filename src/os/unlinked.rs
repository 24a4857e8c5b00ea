//! Files that have no name any more and are held open: they take room on a disk, and no look at its
//! folders finds them.

use std::{collections::HashSet, fs, path::Path};

use rustix::fs::{FileType, stat};

/// Bytes that such files take on the disk that a folder lies on, each counted once, of these
/// processes. What cannot be looked at is left out. Reads `/proc`: not for a runtime's own
/// threads.
pub fn unlinked_bytes(processes: impl IntoIterator<Item = u32>, disk: &Path) -> u64 {
    let Ok(disk) = stat(disk) else { return 0 };
    let (mut seen, mut bytes) = (HashSet::new(), 0_u64);
    for process in processes {
        let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for file in open.filter_map(Result::ok).filter_map(|entry| stat(entry.path()).ok()) {
            let is_file = FileType::from_raw_mode(file.st_mode) == FileType::RegularFile;
            let counts = is_file && file.st_nlink == 0 && file.st_dev == disk.st_dev;
            if counts && seen.insert(file.st_ino) {
                bytes += u64::try_from(file.st_blocks).unwrap_or_default().saturating_mul(512);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_counts_as_long_as_somebody_has_it_open() {
        let place = tempfile::tempdir().expect("a folder");
        let own = || unlinked_bytes([std::process::id(), u32::MAX], place.path());
        let path = place.path().join("file");
        let mut file = fs::File::create(&path).expect("made");
        file.write_all(&[1; 16 << 20]).expect("written");
        let twice = file.try_clone().expect("a second descriptor");
        let with_name = own();
        fs::remove_file(&path).expect("removed");
        let without = own();
        // Other tests of this process may hold such files, too, of some bytes.
        assert!((15 << 20..25 << 20).contains(&(without - with_name)), "{with_name} {without}");
        drop((file, twice));
        assert!(own() < without);
    }
}
