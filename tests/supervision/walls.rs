//! What an agent tries against its sandbox, and what an operator is told about it: faults B1
//! to B8 of `docs/faults.md`. Agents are the real CLI's Bash tool.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Signal, kill_process};
use session_pool::{
    internals::os::procfs::pid,
    proto::{CloseSessionRequest, GetStatsRequest, SessionOptions},
};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    bed::{Bed, MODES},
    support::{
        eventually, failure,
        service::{query, query_with, script},
    },
    view::bash,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_session-pool");
const FAKE: &str = env!("CARGO_BIN_EXE_fake-claude");
const VERSION: &str = "2.1.332";

/// The program, started with settings; what it logs until it listens or ends.
fn start(state: &Path, settings: &[&str]) -> (Child, String) {
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--log-format=json", "--listen=127.0.0.1:0", "--state-dir"])
        .arg(state)
        .args(settings.iter().map(|setting| format!("--set={setting}")))
        .env("SESSION_POOL__CLI__PATH", FAKE)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut told = String::new();
    for line in BufReader::new(child.stderr.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        told.push_str(&line);
        told.push('\n');
        if line.contains("\"listening\"") {
            break;
        }
    }
    (child, told)
}

/// The same, ended at once.
fn log_of_start(settings: &[&str]) -> String {
    let state = TempDir::new().expect("a folder");
    let (mut child, told) = start(state.path(), settings);
    kill_process(pid(child.id()).expect("an id"), Signal::TERM).ok();
    child.wait().expect("it ends");
    told
}

#[tokio::test]
async fn b1_nothing_that_changes_the_kernel_can_be_written_from_inside() {
    let bed = Bed::real("bubblewrap", VERSION, &[]).await;
    let open = "find /proc -path '/proc/[0-9]*' -prune -o -type f -print 2>/dev/null | \
                while read -r f; do if { true >>\"$f\"; } 2>/dev/null; then echo \"open $f\"; fi; done";
    let tried = bash(&bed, "a", open).await;
    assert!(tried.contains("ended with 0") && !tried.contains("open /"), "{tried}");
    let writable = "find /sys /dev -xdev -type f -writable 2>/dev/null | grep -v '^/dev/shm' | head -3; \
                    touch /dev/x /sys/x";
    let tried = bash(&bed, "a", writable).await;
    for closed in ["'/dev/x': Read-only file system", "'/sys/x': Read-only file system"] {
        assert!(tried.contains(closed), "{tried}");
    }
    // Nor by way of namespaces of its own.
    let nested =
        "unshare --user --map-root-user --mount sh -c 'mount -t proc proc /tmp && echo nested'";
    let tried = bash(&bed, "a", nested).await;
    assert!(!tried.contains("ended with 0"), "{tried}");
    bed.stop().await;
}

/// Adds a key to the session's key ring, then looks for one there.
const KEYS: &str = r#"import ctypes, errno
kernel = ctypes.CDLL(None, use_errno=True)
add_key, request_key, keyctl, join, session = 248, 249, 250, 1, -3
for name, call in {
    "add_key": (add_key, b"user", b"mine", b"secret", 6, session),
    "request_key": (request_key, b"user", b"mine", None, session),
    "keyctl": (keyctl, join, None),
}.items():
    done = kernel.syscall(*call)
    print(name, done if done >= 0 else errno.errorcode[ctypes.get_errno()])
"#;

#[tokio::test]
async fn b1_the_kernels_key_rings_are_out_of_reach() {
    let bed = Bed::real("bubblewrap", VERSION, &[]).await;
    let tried =
        bash(&bed, "a", &format!("cat >keys.py <<'END'\n{KEYS}\nEND\npython3 keys.py")).await;
    for call in ["add_key", "request_key", "keyctl"] {
        assert!(tried.contains(&format!("{call} EPERM")), "{tried}");
    }
    bed.stop().await;
}

#[tokio::test]
async fn b1_what_was_tried_against_the_sandbox_is_told() {
    let bed = Bed::fake("bubblewrap", &[]).await;
    let stats = bed.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
    let tried = stats.expect("answered").into_inner().sandbox_attempts.join("\n");
    let attempts = [
        "processes of others: not seen",
        "key rings",
        "kernel settings: none can",
        "mounts: read",
        "over 2048; the kernel refuses more than 2560",
    ];
    for attempt in attempts {
        assert!(tried.contains(attempt), "{tried}");
    }
    let address = bed.daemon.address.clone();
    let health = tokio::task::spawn_blocking(move || {
        Command::new(PROGRAM).args(["health", "--verbose", "--address", &address]).output()
    });
    let output = health.await.expect("joined").expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("kernel settings: none can be written"), "{told}");
    bed.stop().await;
}

#[tokio::test]
async fn d3_the_service_is_ready_once_the_real_cli_has_answered_in_its_sandbox() {
    for mode in MODES {
        let bed = Bed::real(mode, VERSION, &[("CLI__START_CHECK", "true")]).await;
        eventually("it is ready", async || {
            let stats = bed.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
            let stats = stats.expect("answered").into_inner();
            (stats.not_ready_reasons.is_empty() && stats.processes == 0).then_some(())
        })
        .await;
        assert_eq!(bed.daemon.logged("cli_starts").len(), 1, "{mode}");
        assert_eq!(bed.daemon.logged("cli_does_not_start").len(), 0, "{mode}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn b2_files_in_memory_are_bounded() {
    let bed = Bed::real("bubblewrap", VERSION, &[("CLI__TMP_LIMIT", "8 MiB")]).await;
    for place in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
        // What a command prints is kept in /tmp, too: first there has to be room again.
        let fill = format!(
            "head -c 9000000 /dev/zero >{place}/x; code=$?; size=$(stat -c %s {place}/x); \
             rm {place}/x; [ $size -le 8388608 ] && echo code $code"
        );
        let tried = bash(&bed, "a", &fill).await;
        assert!(tried.contains("code 1"), "{place}: {tried}");
    }
    for place in ["/dev", "/root", "/home"] {
        let tried = bash(&bed, "a", &format!("echo x >{place}/x")).await;
        let closed = ["Read-only file system", "No such file", "Permission denied"];
        assert!(closed.iter().any(|said| tried.contains(said)), "{place}: {tried}");
    }
    bed.stop().await;
}

#[tokio::test]
async fn b2_files_in_memory_count_for_the_memory_limit() {
    let limits = [("CLI__TMP_LIMIT", "2 GiB"), ("CLI__MEMORY_LIMIT", "700 MiB")];
    let bed = Bed::real("bubblewrap", VERSION, &limits).await;
    let options = SessionOptions {
        allowed_tools: vec!["Bash".into()],
        permission_mode: Some("dontAsk".into()),
        ..SessionOptions::default()
    };
    let prompt = "[[bash head -c 800000000 /dev/zero >/tmp/x; sleep 60]]";
    let turn = bed.run(query_with("a", prompt, options)).await;
    failure(turn.error(), Code::ResourceExhausted, "MEMORY_LIMIT");
    bed.stop().await;
}

#[tokio::test]
async fn b3_temporary_files_go_with_their_session() {
    for version in ["2.1.197", VERSION] {
        let bed = Bed::real("process-tree", version, &[]).await;
        let marker =
            format!("echo {} >$TMPDIR/mine; echo at $TMPDIR; ls -d $TMPDIR/mine", bed.unique);
        let said = bash(&bed, "a", &marker).await;
        let scratch = bed.daemon.state.path().join("tmp");
        assert!(said.contains(&scratch.display().to_string()), "{version}: {said}");
        let held = || fs::read_dir(&scratch).map_or(0, Iterator::count);
        assert_eq!(held(), 1, "one for the process");
        // What a background command prints is kept there too.
        let long = format!("sleep {} & echo printed", bed.unique);
        bash(&bed, "a", &long).await;
        let request = CloseSessionRequest { session_id: "a".into(), forget: true };
        bed.daemon.client.clone().close_session(request).await.expect("closed");
        assert_eq!(held(), 0, "{version}");
        bed.stop().await;
    }
}

#[test]
fn b4_an_operator_shows_files_that_would_be_hidden_or_is_warned() {
    let place = TempDir::new_in("/var/tmp").expect("a folder");
    let file = place.path().join("ca.pem").display().to_string();
    fs::write(&file, "certificate").expect("written");
    let variable = format!("cli.env.NODE_EXTRA_CA_CERTS={file}");
    let warned = log_of_start(&["cli.sandbox=bubblewrap", &variable]);
    assert!(warned.contains("NODE_EXTRA_CA_CERTS"), "{warned}");
    assert!(!warned.contains(&file), "values are not for the log: {warned}");
    let visible = format!("sandbox.readable=[{file:?}]");
    let shown = log_of_start(&["cli.sandbox=bubblewrap", &variable, &visible]);
    assert!(shown.contains("listening") && !shown.contains("NODE_EXTRA_CA_CERTS"), "{shown}");
}

#[tokio::test]
async fn b4_what_is_shown_can_be_read_inside() {
    let place = TempDir::new_in("/var/tmp").expect("a folder");
    let file = place.path().join("ca.pem").display().to_string();
    fs::write(&file, "the certificate").expect("written");
    let visible = format!("[{file:?}]");
    let bed = Bed::real("bubblewrap", VERSION, &[("SANDBOX__READABLE", &visible)]).await;
    let seen = bash(&bed, "a", &format!("cat {file}; echo x >{file}")).await;
    assert!(seen.contains("the certificate") && seen.contains("Read-only"), "{seen}");
    bed.stop().await;
}

#[tokio::test]
async fn what_the_operator_hides_is_not_seen() {
    // A place that nothing but the operator's word hides.
    let place = TempDir::new_in("/opt").expect("a folder");
    let (folder, file, other) =
        (place.path().join("folder"), place.path().join("file"), place.path().join("other"));
    fs::create_dir(&folder).expect("made");
    let words = ["words-in-folder", "words-of-file", "words-of-other"];
    for (path, word) in [&folder.join("in-it"), &file, &other].into_iter().zip(words) {
        fs::write(path, word).expect("written");
    }
    let hidden = format!("[{folder:?}, {file:?}]");
    let readable = format!("[{:?}]", folder.join("in-it"));
    let say = format!("cat {0}/folder/in-it; cat {0}/file; cat {0}/other", place.path().display());
    for (also, expected) in
        [("[]", &words[2..]), (readable.as_str(), &["words-in-folder", words[2]])]
    {
        let settings = [("SANDBOX__HIDDEN", hidden.as_str()), ("SANDBOX__READABLE", also)];
        let bed = Bed::real("bubblewrap", VERSION, &settings).await;
        let seen = bash(&bed, "a", &say).await;
        let found: Vec<_> = words.into_iter().filter(|word| seen.contains(word)).collect();
        assert_eq!(found, expected, "{seen}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn the_audit_log_is_not_seen_from_its_first_day_on() {
    let place = TempDir::new_in("/opt").expect("a folder");
    // The service makes the folder.
    let file = place.path().join("made/audit.log");
    let settings = [("AUDIT__FILE", file.to_str().expect("text"))];
    let bed = Bed::real("bubblewrap", VERSION, &settings).await;
    let seen = bash(&bed, "a", &format!("ls -A {0}; ls -A {0}/made", place.path().display())).await;
    bed.stop().await;
    assert!(seen.contains("made") && !seen.contains("audit.log"), "{seen}");
    assert!(fs::read_to_string(&file).expect("a log").contains("\"method\":\"Query\""));
}

#[test]
fn a_hidden_path_that_is_not_there_is_warned_about() {
    let hidden = "sandbox.hidden=['/opt/session-pool-is-not-here']";
    let warned = log_of_start(&["cli.sandbox=bubblewrap", hidden]);
    assert!(warned.contains("sandbox_hides_nothing"), "{warned}");
    assert!(warned.contains("/opt/session-pool-is-not-here"), "{warned}");
}

#[test]
fn b5_tenants_that_are_not_kept_apart_are_warned_about_or_refused() {
    let place = TempDir::new().expect("a folder");
    let tokens = place.path().join("tokens.toml");
    let entry = |digit: char, tenant: &str| {
        format!("[[token]]\nsha256 = \"{}\"\ntenant = \"{tenant}\"\n", digit.to_string().repeat(64))
    };
    let file = format!("auth.tokens_file={}", tokens.display());
    fs::write(&tokens, entry('a', "one") + &entry('b', "one")).expect("written");
    let one = log_of_start(&["cli.sandbox=process-tree", &file]);
    assert!(!one.contains("tenants_not_kept_apart"), "{one}");
    fs::write(&tokens, entry('a', "one") + &entry('b', "two")).expect("written");
    let two = log_of_start(&["cli.sandbox=process-tree", &file]);
    let warning = two.lines().find(|line| line.contains("tenants_not_kept_apart"));
    assert!(warning.is_some_and(|line| line.contains("\"WARN\"")), "{two}");
    let refused = log_of_start(&["cli.sandbox=process-tree", &file, "cli.sandbox_required=true"]);
    assert!(
        refused.contains("cli.sandbox_required") && !refused.contains("listening"),
        "{refused}"
    );
    let walled = log_of_start(&["cli.sandbox=bubblewrap", &file, "cli.sandbox_required=true"]);
    assert!(walled.contains("listening") && !walled.contains("tenants_not_kept_apart"), "{walled}");
}

#[tokio::test]
async fn b6_a_folder_that_became_a_link_is_noticed_before_the_next_turn() {
    for mode in MODES {
        let place = TempDir::new_in("/var/tmp").expect("a folder");
        let root = place.path().canonicalize().expect("real");
        let work = root.join("work");
        fs::create_dir(&work).expect("made");
        let roots = format!("[{root:?}]");
        let bed = Bed::fake(mode, &[("POLICY__CWD_ROOTS", &roots)]).await;
        let options =
            SessionOptions { cwd: work.to_str().map(str::to_owned), ..SessionOptions::default() };
        bed.run(query_with("a", "hello", options.clone())).await.result();
        fs::rename(&work, root.join("moved")).expect("moved");
        symlink("/etc", &work).expect("swapped");
        let turn = bed.run(query("a", &script(&["say never"]))).await;
        let metadata = failure(turn.error(), Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], "options.cwd", "{mode}");
        bed.gone().await;
        fs::remove_file(&work).expect("removed");
        fs::rename(root.join("moved"), &work).expect("moved back");
        assert!(bed.run(query("a", "again")).await.text().contains("again"), "{mode}");
        bed.stop().await;
    }
}

#[test]
fn b7_a_start_that_is_cut_short_leaves_nothing() {
    let state = TempDir::new().expect("a folder");
    for delay in [0, 5, 10, 20, 30, 40, 50, 60] {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen=127.0.0.1:0", "--set=cli.sandbox=bubblewrap", "--state-dir"])
            .arg(state.path())
            .env("SESSION_POOL__CLI__PATH", FAKE)
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        // Where in its start it is hit does not matter, only that all places are tried.
        std::thread::sleep(Duration::from_millis(delay));
        kill_process(pid(child.id()).expect("an id"), Signal::TERM).ok();
        child.wait().expect("it ends");
    }
    let trials = || {
        let all = fs::read_dir(state.path()).expect("readable");
        let names = all.map(|entry| entry.expect("readable").file_name().into_string());
        names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("trial-"))).count()
    };
    assert_eq!(trials(), 0, "SIGTERM leaves none");
    // One that was killed cannot clean up; the next start does.
    fs::create_dir_all(state.path().join("trial-left/work")).expect("made");
    let (mut child, told) = start(state.path(), &["cli.sandbox=bubblewrap"]);
    assert!(told.contains("listening"), "{told}");
    assert_eq!(trials(), 0);
    kill_process(pid(child.id()).expect("an id"), Signal::TERM).ok();
    child.wait().expect("it ends");
}

#[tokio::test]
async fn b7_a_session_of_its_own_that_cannot_start_leaves_no_folder() {
    for mode in MODES {
        let bed = Bed::fake(mode, &[("CLI__ENV__FAKE_CLAUDE", "exit=3")]).await;
        let turn = bed.run(query("", "hello")).await;
        failure(turn.error(), Code::Unavailable, "CONNECT_FAILED");
        let state = bed.daemon.state.path().to_owned();
        let left = || {
            let work = fs::read_dir(state.join("tenants/default/work")).map_or(0, Iterator::count);
            let scratch = fs::read_dir(state.join("tmp")).map_or(0, Iterator::count);
            work + scratch
        };
        eventually("an empty folder", async || (left() == 0).then_some(())).await;
        bed.stop().await;
    }
}

#[tokio::test]
async fn b8_a_cli_that_cannot_be_run_has_one_reason_in_both_sandboxes() {
    let place = TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let [closed, foreign, script, folder] =
        ["closed", "foreign", "script", "folder"].map(|name| place.path().join(name));
    fs::write(&closed, "#!/bin/sh\n").expect("written");
    // An executable for another machine (e_machine 0xf3 is RISC-V).
    let mut header = [0_u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18], header[20]) = (2, 0xf3, 1);
    fs::write(&foreign, header).expect("written");
    fs::write(&script, "#!/nonexistent/interpreter\n").expect("written");
    for file in [&foreign, &script] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    fs::create_dir(&folder).expect("made");
    let missing = Path::new("/nonexistent/claude").to_owned();
    for mode in MODES {
        for program in [&missing, &closed, &foreign, &script, &folder] {
            let path = program.display().to_string();
            // A later key wins over the one that the bed sets itself.
            let bed = Bed::fake(mode, &[("CLI__PATH", &path)]).await;
            let began = Instant::now();
            let turn = bed.run(query("a", "hello")).await;
            failure(turn.error(), Code::FailedPrecondition, "CLI_NOT_FOUND");
            let told = turn.error().message();
            assert!(told.contains(&path), "{mode}: {told}");
            assert!(began.elapsed() < Duration::from_secs(10), "{mode} {path}");
            bed.stop().await;
        }
    }
}
