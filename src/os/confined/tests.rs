use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use rustix::{
    fs::{CWD, FileType, Mode, Uid, mknodat},
    process::{DumpableBehavior, set_dumpable_behavior},
};

use super::{super::regular::read_bounded, *};

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

    /// What a file contains; `None` if there is nothing of that name.
    fn read(&self, file: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.folder.open_regular(file).and_then(|opened| read_bounded(opened, 1 << 20)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
        assert!(place.read(file).is_err(), "{target}");
        place.folder.replace(file, b"own").expect("the link is replaced");
        assert_eq!(place.read(file).expect("read"), Some(b"own".to_vec()));
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
        assert!(place.read(secret).is_err());
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
    for (name, is_link) in
        [("projects", true), ("projects", false), ("projects/work", true), ("projects/work", false)]
    {
        plant(name, is_link);
        place.folder.clear_way(file).expect("cleared");
        assert_eq!(place.read(file).expect("nothing is there"), None, "{name}");
        plant(name, is_link);
        place.folder.replace(file, b"own").expect("written");
        assert_eq!(fs::read(place.inside.join(file)).expect("a file"), b"own", "{name}");
        assert!(place.is_untouched());
    }
    fs::remove_file(place.inside.join(file)).expect("removed");
    fs::create_dir(place.inside.join(file)).expect("made");
    place.folder.clear_way(file).expect("cleared");
    assert_eq!(place.read(file).expect("nothing is there"), None);
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
    let folder = Folder::open(&place.inside).expect("opened").within(Duration::from_millis(200));
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
    assert!(place.read(file).expect_err("a pipe").to_string().contains("regular"));
    place.folder.replace(file, b"own").expect("replaced");
    assert_eq!(fs::read(pipe).expect("a file"), b"own");
}

#[test]
fn a_file_is_read_up_to_a_bound() {
    let place = Place::new();
    let path = place.inside.join("file");
    fs::write(&path, "12345").expect("written");
    let open = || place.folder.open_regular(Path::new("file")).expect("opened");
    assert_eq!(read_bounded(open(), 5).expect("fits"), b"12345");
    assert!(read_bounded(open(), 4).is_err());
    assert_eq!(place.read(Path::new("none")).expect("nothing"), None);
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

/// Does some work as a user that may not do everything, on a thread of its own.
fn as_another_user(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(Uid::from_raw(OTHER)).expect("root may");
                // Otherwise `/proc/self`, by which permissions are set, stays root's.
                set_dumpable_behavior(DumpableBehavior::Dumpable).expect("one's own");
            }
            work();
        });
        thread.join().expect("no panic");
    });
}

/// Somebody who is not root.
const OTHER: u32 = 12_345;

#[test]
fn a3_folders_that_their_owner_has_closed_can_be_worked_in() {
    let place = Place::new();
    for folder in ["projects/p/tree", "projects/q"] {
        fs::create_dir_all(place.inside.join(folder)).expect("made");
    }
    fs::write(place.inside.join("projects/p/file"), "mine").expect("written");
    for path in ["", "projects", "projects/p", "projects/p/tree", "projects/p/file", "projects/q"] {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(place.inside.join(path), Some(OTHER), None).expect("root may");
        }
    }
    as_another_user(|| {
        let close = |path: &str, mode: u32| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(place.inside.join(path), mode).expect("one's own");
        };
        close("projects/p", 0o500);
        close("projects", 0o000);
        let found = place.folder.folders(Path::new("projects")).expect("opened");
        assert_eq!(found.len(), 2);
        close("projects", 0o100);
        place.folder.remove_file(Path::new("projects/p/file")).expect("removed");
        close("projects/p", 0o000);
        place.folder.remove_tree(Path::new("projects/p/tree")).expect("removed");
        close("projects", 0o500);
        place.folder.remove_tree(Path::new("projects/q")).expect("removed");
        // Nor from being written and read: a conversation goes on.
        close("projects/p", 0o500);
        close("projects", 0o000);
        let file = Path::new("projects/p/file");
        place.folder.replace(file, b"own").expect("written");
        close("projects/p", 0o000);
        assert_eq!(place.read(file).expect("read").as_deref(), Some(&b"own"[..]));
        place.folder.remove_file(file).expect("removed");
        assert_eq!(fs::read_dir(place.inside.join("projects/p")).expect("there").count(), 0);
    });
    assert!(place.is_untouched());
}
