//! The arguments of bubblewrap. Pure: the same scene and folders give the same arguments.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
};

use super::{opened::Opened, scene::Scene};

/// The program, looked up on PATH.
pub const BWRAP: &str = "bwrap";

/// Namespaces of processes, of shared memory and of host names; no capabilities; no
/// terminal to put words into. The network is the machine's: the CLI needs it.
const ALWAYS: [&str; 7] = [
    "--die-with-parent",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--new-session",
    "--cap-drop",
    "ALL",
];

/// The arguments before the command. Later ones lie over earlier ones: the machine read
/// only, over it what is hidden, over that what is shown, and the session's folders last.
/// Those are given as they were opened: their names may have become links meanwhile.
pub fn arguments(
    scene: &Scene,
    writable: &[Opened],
    work: &Path,
    announce: RawFd,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ALWAYS.map(OsString::from).into();
    let mut add = |option: &str, paths: &[&Path]| {
        arguments.push(option.into());
        arguments.extend(paths.iter().map(|path| path.as_os_str().to_owned()));
    };
    add("--info-fd", &[Path::new(&announce.to_string())]);
    add("--ro-bind", &[Path::new("/"), Path::new("/")]);
    add("--dev", &[Path::new("/dev")]);
    add("--proc", &[Path::new("/proc")]);
    for folder in &scene.folders {
        add("--tmpfs", &[folder]);
    }
    for file in &scene.files {
        add("--ro-bind", &[Path::new("/dev/null"), file]);
    }
    for (place, shown_at) in &scene.shown {
        add("--ro-bind", &[place, shown_at]);
    }
    for folder in writable {
        add("--bind-fd", &[Path::new(&folder.fd.as_raw_fd().to_string()), &folder.path]);
    }
    add("--chdir", &[work]);
    arguments
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_sessions_folders_lie_over_what_is_hidden() {
        let scene = Scene {
            folders: vec!["/home".into(), "/tmp".into(), "/var/lib/pool".into()],
            files: vec!["/etc/pool.toml".into()],
            shown: vec![("/home/pool/claude".into(), "/home/pool/claude".into())],
        };
        let folder = |path: &str| Opened {
            fd: File::open("/dev/null").expect("opened").into(),
            path: path.into(),
        };
        let writable = [folder("/var/lib/pool/work"), folder("/srv/shared")];
        let [work, shared] = writable.each_ref().map(|folder| folder.fd.as_raw_fd());
        let arguments = arguments(&scene, &writable, Path::new("/var/lib/pool/work"), 7);
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words.join(" "),
            format!(
                "--die-with-parent --unshare-pid --unshare-ipc --unshare-uts --new-session \
                 --cap-drop ALL --info-fd 7 --ro-bind / / --dev /dev --proc /proc \
                 --tmpfs /home --tmpfs /tmp --tmpfs /var/lib/pool \
                 --ro-bind /dev/null /etc/pool.toml \
                 --ro-bind /home/pool/claude /home/pool/claude \
                 --bind-fd {work} /var/lib/pool/work \
                 --bind-fd {shared} /srv/shared \
                 --chdir /var/lib/pool/work"
            )
        );
    }
}
