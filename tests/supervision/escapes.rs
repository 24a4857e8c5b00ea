//! Ways past the sandbox that do not lead through a path: devices and descriptors of the
//! machine, and the process that ends a session with the service. Agents are the real CLI's
//! Bash tool.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use session_pool::proto::SessionOptions;

use crate::{
    bed::{Bed, MODES},
    support::{
        eventually,
        service::{query, query_with},
    },
    view::bash,
};

const VERSION: &str = "2.1.332";

fn mode_of(path: &str) -> u32 {
    fs::metadata(path).expect("a device").permissions().mode() & 0o7777
}

#[tokio::test]
async fn b1_the_devices_of_the_machine_can_be_used_and_not_changed() {
    let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let before = devices.map(mode_of);
    let bed = Bed::real("bubblewrap", VERSION, &[]).await;
    for device in devices {
        // A mode that harms nobody, should it be set all the same.
        let tried = bash(&bed, "a", &format!("chmod 0667 {device}")).await;
        assert!(tried.contains("ended with 1"), "{device}: {tried}");
        let tried =
            bash(&bed, "a", &format!("touch -d 2001-01-01 {device}; ln {device} dev")).await;
        assert!(!tried.contains("ended with 0"), "{device}: {tried}");
    }
    assert_eq!(devices.map(mode_of), before);
    let used = bash(&bed, "a", "echo x >/dev/null && head -c 3 /dev/zero | wc -c").await;
    assert!(used.contains("3\\nended with 0"), "{used}");
    bed.stop().await;
}

/// Traces the first process of the namespace, or writes into its memory.
const TRACE: &str = r#"import ctypes, errno
kernel = ctypes.CDLL(None, use_errno=True)
attach, seize, pidfd_open, pidfd_getfd = 16, 0x4206, 434, 438
for name, request in {"attach": attach, "seize": seize}.items():
    done = kernel.ptrace(request, 1, 0, 0)
    print(name, done if done >= 0 else errno.errorcode[ctypes.get_errno()])
first = kernel.syscall(pidfd_open, 1, 0)
done = kernel.syscall(pidfd_getfd, first, 4, 0)
print("getfd", done if done >= 0 else errno.errorcode[ctypes.get_errno()])
for file in "mem", "environ", "maps", "fd/0":
    try:
        open("/proc/1/" + file, "rb").read(1)
        print(file, "read")
    except OSError as error:
        print(file, errno.errorcode[error.errno])
"#;

#[tokio::test]
async fn b1_the_process_that_ends_a_session_with_the_service_is_out_of_its_reach() {
    let bed = Bed::real("bubblewrap", VERSION, &[]).await;
    let tried =
        bash(&bed, "a", &format!("cat >trace.py <<'END'\n{TRACE}\nEND\npython3 trace.py")).await;
    for refused in ["attach EPERM", "seize EPERM", "getfd EPERM"] {
        assert!(tried.contains(refused), "{refused}: {tried}");
    }
    for file in ["mem", "environ", "maps", "fd/0"] {
        assert!(tried.contains(&format!("{file} EACCES")), "{file}: {tried}");
    }
    bash(&bed, "a", "kill -STOP 1; kill -KILL 1; kill -TERM -1").await;
    let turn = bed.run(query("a", "still there?")).await;
    assert!(turn.text().contains("still there?"), "{}", turn.text());
    bed.stop().await;
}

#[tokio::test]
async fn b4_what_the_service_inherited_is_passed_on_to_nobody() {
    let by = ["bash", "-c", r#"exec 200</etc 201>>/dev/null; exec "$@""#, "bash"];
    for mode in MODES {
        let bed = Bed::fake_by(&by, mode, &[]).await;
        let inherited = |pid: u32| {
            let open = |fd: u32| Path::new(&format!("/proc/{pid}/fd/{fd}")).exists();
            open(200) || open(201)
        };
        assert!(inherited(bed.daemon.started()), "{mode}: it has them itself");
        let turn = bed.hang("a", &[]).await;
        let processes = eventually("the CLI and its children", async || {
            let alive = bed.alive();
            (alive.len() > 3).then_some(alive)
        })
        .await;
        for (pid, line) in processes {
            assert!(!inherited(pid), "{mode}: {line}");
        }
        drop(turn);
        bed.stop().await;
    }
}

#[tokio::test]
async fn b1_what_is_mounted_while_the_service_runs_is_what_a_session_works_in() {
    let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let base = place.path().canonicalize().expect("a real path");
    let (file, mounted) = (base.join("pool.toml"), base.join("mounted"));
    fs::create_dir(&mounted).expect("made");
    fs::write(&file, format!("[policy]\ncwd_roots = [{base:?}]\n")).expect("written");
    let bed = Bed::configured("bubblewrap", VERSION, &file.display().to_string()).await;
    bash(&bed, "before", "true").await;
    // Only where the service may make a mount namespace of its own could it miss this.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &mounted, "tmpfs", flags, None).expect("mounted");
    }
    let options = SessionOptions {
        cwd: mounted.to_str().map(str::to_owned),
        allowed_tools: vec!["Bash".into()],
        permission_mode: Some("dontAsk".into()),
        ..SessionOptions::default()
    };
    bed.run(query_with("a", "[[bash echo data >written]]", options)).await.result();
    let written = fs::read_to_string(mounted.join("written"));
    bed.stop().await;
    if is_root {
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
    assert_eq!(written.expect("it is where the caller looks"), "data\n");
}
