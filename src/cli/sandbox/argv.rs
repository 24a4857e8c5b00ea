//! The arguments of bubblewrap. Pure: the same scene and folders give the same arguments.

use std::{ffi::OsString, os::fd::RawFd, path::Path};

use super::scene::Scene;
use crate::cli::launch::Folders;

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
pub fn arguments(scene: &Scene, folders: &Folders, announce: RawFd) -> Vec<OsString> {
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
    for folder in folders.writable() {
        add("--bind", &[folder, folder]);
    }
    add("--chdir", &[&folders.work]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_folders_lie_over_what_is_hidden() {
        let scene = Scene {
            folders: vec!["/root".into(), "/tmp".into(), "/var/lib/pool".into()],
            files: vec!["/etc/pool.toml".into()],
            shown: vec![("/root/bin/claude".into(), "/root/bin/claude".into())],
        };
        let folders = Folders {
            work: "/var/lib/pool/work".into(),
            config: "/var/lib/pool/config".into(),
            home: "/var/lib/pool/home".into(),
            extra: vec!["/srv/shared".into()],
        };
        let arguments = arguments(&scene, &folders, 7);
        let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words.join(" "),
            "--die-with-parent --unshare-pid --unshare-ipc --unshare-uts --new-session \
             --cap-drop ALL --info-fd 7 --ro-bind / / --dev /dev --proc /proc \
             --tmpfs /root --tmpfs /tmp --tmpfs /var/lib/pool \
             --ro-bind /dev/null /etc/pool.toml \
             --ro-bind /root/bin/claude /root/bin/claude \
             --bind /var/lib/pool/work /var/lib/pool/work \
             --bind /var/lib/pool/config /var/lib/pool/config \
             --bind /var/lib/pool/home /var/lib/pool/home \
             --bind /srv/shared /srv/shared \
             --chdir /var/lib/pool/work"
        );
    }
}
