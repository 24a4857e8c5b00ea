//! How much a folder holds on its disk, whatever an agent has made of it: deep, wide, closed to its
//! owner, full of empty files, or changed while it is looked at.

use std::{io, path::Path, path::PathBuf, sync::Arc};

use cap_std::fs::{Dir, MetadataExt as _, ReadDir};

use super::{Folder, opened_up};

/// What each name counts beside its contents: about what a file system keeps for it. A folder full
/// of empty files is no empty folder.
pub const NAME_BYTES: u64 = 1 << 10;

/// Bytes of a path below the last folder that is held open. The kernel takes four times as many.
const LONGEST_PATH: usize = 1 << 10;

/// Folders held open on the way to the deepest one.
const MOST_OPEN: u32 = 64;

/// Folders that are yet to be looked at.
const MOST_PENDING: usize = 100_000;

/// A folder that is held open, from which paths begin.
struct Base {
    dir: Dir,
    /// How many are held open on the way to it.
    level: u32,
}

impl Folder {
    /// Bytes that this folder takes with all that is in it, as its file system counts them, and
    /// [`NAME_BYTES`] for each name. A file with several names counts for each in part. Not counted on
    /// once it is more than `most`; `None` if it is deeper, or has more folders in one place,
    /// than can be counted. What comes and goes meanwhile may be missed.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn held(&self, most: u64) -> io::Result<Option<u64>> {
        let mut held = 0;
        let mut pending =
            vec![(Arc::new(Base { dir: self.dir.try_clone()?, level: 0 }), ".".into())];
        while let Some((base, path)) = pending.pop() {
            let Some((base, path, entries)) = read(base, path)? else { continue };
            if base.level > MOST_OPEN {
                return Ok(None);
            }
            // What is gone meanwhile holds nothing.
            for entry in entries.filter_map(Result::ok) {
                let Ok(found) = entry.metadata() else { continue };
                let contents = found.blocks().saturating_mul(512);
                let names = if found.is_dir() { 1 } else { found.nlink().max(1) };
                held += contents / names + NAME_BYTES;
                if held > most {
                    return Ok(Some(held));
                }
                if found.is_dir() {
                    pending.push((Arc::clone(&base), path.join(entry.file_name())));
                }
            }
            if pending.len() > MOST_PENDING {
                return Ok(None);
            }
        }
        Ok(Some(held))
    }
}

/// The names in a folder, and whence and by which path they are reached; `None` if it is gone.
fn read(base: Arc<Base>, path: PathBuf) -> io::Result<Option<(Arc<Base>, PathBuf, ReadDir)>> {
    let (base, path) = match path.as_os_str().len() > LONGEST_PATH {
        true => match there(opened_up(&base.dir, &path))? {
            Some(dir) => (Arc::new(Base { dir, level: base.level + 1 }), PathBuf::from(".")),
            None => return Ok(None),
        },
        false => (base, path),
    };
    let entries = match base.dir.read_dir(&path) {
        // It is the session's own, as all in it: its owner can open it again.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            opened_up(&base.dir, &path).and_then(|dir| dir.entries())
        }
        entries => entries,
    };
    Ok(there(entries)?.map(|entries| (base, path, entries)))
}

/// Nothing where something has gone, or become something else, meanwhile.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if super::is_meanwhile(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes that a folder holds, none if it is not there: see [`Folder::held`].
///
/// # Errors
///
/// The disk's.
pub fn held_below(folder: &Path, most: u64) -> io::Result<Option<u64>> {
    match Folder::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
        opened => opened?.held(most),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn held(folder: &Path) -> Option<u64> {
        held_below(folder, u64::MAX).expect("measured")
    }

    #[test]
    fn contents_and_names_count_and_what_a_link_leads_to_does_not() {
        let place = tempfile::tempdir().expect("a folder");
        assert_eq!(held(place.path()), Some(0));
        assert_eq!(held(&place.path().join("gone")), Some(0));
        fs::create_dir_all(place.path().join("a/b")).expect("made");
        fs::write(place.path().join("a/b/file"), vec![1; 1 << 20]).expect("written");
        let with_file = held(place.path()).expect("counted");
        assert!((1 << 20..2 << 20).contains(&with_file), "{with_file}");
        for number in 0..100 {
            fs::hard_link(place.path().join("a/b/file"), place.path().join(format!("l{number}")))
                .expect("linked");
        }
        let with_links = held(place.path()).expect("counted");
        assert!(with_links >= with_file + 90 * NAME_BYTES && with_links < with_file + (1 << 19));
        symlink("/usr", place.path().join("elsewhere")).expect("linked");
        assert!(held(place.path()).expect("counted") < with_links + (1 << 16));
        // A hole is no contents.
        File::create(place.path().join("hole")).expect("made").set_len(1 << 40).expect("set");
        assert!(held(place.path()).expect("counted") < with_links + (1 << 17));
    }

    #[test]
    fn a_bound_ends_the_count() {
        let place = tempfile::tempdir().expect("a folder");
        for number in 0..1000 {
            fs::write(place.path().join(number.to_string()), "").expect("written");
        }
        let counted =
            held_below(place.path(), 10 * NAME_BYTES).expect("measured").expect("counted");
        assert!((10 * NAME_BYTES..20 * NAME_BYTES).contains(&counted), "{counted}");
    }

    #[test]
    fn folders_that_are_closed_or_deep_hide_nothing() {
        let place = tempfile::tempdir().expect("a folder");
        let closed = place.path().join("closed");
        fs::create_dir(&closed).expect("made");
        fs::write(closed.join("file"), vec![1; 1 << 20]).expect("written");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("set");
        assert!(held(place.path()).expect("counted") > 1 << 20);

        let mut deep =
            Dir::open_ambient_dir(place.path(), cap_std::ambient_authority()).expect("it");
        let name = "d".repeat(250);
        for _ in 0..40 {
            deep.create_dir(&name).expect("made");
            deep = deep.open_dir(&name).expect("opened");
        }
        deep.write("file", vec![1; 1 << 20]).expect("written");
        assert!(held(place.path()).expect("counted") > 2 << 20);
        for _ in 0..400 {
            deep.create_dir(&name).expect("made");
            deep = deep.open_dir(&name).expect("opened");
        }
        assert_eq!(held(place.path()), None, "deeper than can be counted");
        // The standard library's own removal goes by paths.
        Folder::open(place.path()).expect("opened").remove_tree(Path::new(&name)).expect("removed");
    }
}
