//! What a session in `bubblewrap` can see and do, tried by the real CLI's Bash tool.

use std::{fs, path::PathBuf};

use session_pool::proto::{SessionOptions, turn_event::Kind};

use crate::{
    bed::Bed,
    support::{
        service::{query, query_with},
        turn::Turn,
    },
};

/// Runs a command in a session and returns what it printed.
pub async fn bash(bed: &Bed, session: &str, command: &str) -> String {
    printed(&bash_turn(bed, session, command).await)
}

/// A turn that runs a command.
pub async fn bash_turn(bed: &Bed, session: &str, command: &str) -> Turn {
    let options = SessionOptions {
        allowed_tools: vec!["Bash".into()],
        permission_mode: Some("dontAsk".into()),
        ..SessionOptions::default()
    };
    let prompt = format!("[[bash {{ {command}; }} 2>&1; echo \"ended with $?\"]]");
    bed.run(query_with(session, &prompt, options)).await
}

/// What the commands of a turn printed.
pub fn printed(turn: &Turn) -> String {
    let results = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::User(_) => Some(format!("{event:?}")),
        _ => None,
    });
    results.collect::<Vec<_>>().join("\n")
}

fn work_folder(bed: &Bed, session: &str) -> PathBuf {
    bed.daemon.state.path().join(format!("tenants/default/work/s-{session}"))
}

#[tokio::test]
async fn a_session_sees_its_own_processes_and_folders_only() {
    for version in ["2.1.197", "2.1.332"] {
        let bed = Bed::real("bubblewrap", version, &[]).await;
        let state = bed.daemon.state.path().display().to_string();

        // The other session has a process, a file in its folder and one in /tmp.
        let sleeper = format!("sleep {} >/dev/null 2>&1 & echo planted >mine", bed.unique);
        bash(&bed, "other", &format!("echo planted >/tmp/planted; {sleeper}")).await;
        bed.until_sleeping(1).await;
        let theirs = work_folder(&bed, "other");
        assert_eq!(fs::read_to_string(theirs.join("mine")).expect("written"), "planted\n");

        // Processes: a few of its own, and not one that sleeps.
        let seen = bash(&bed, "a", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        assert!(seen.contains("ended with 0"), "{seen}");
        let quoted = seen.matches(&bed.unique).count();
        assert_eq!(quoted, 0, "{seen}");
        let count = bash(&bed, "a", "ls -d /proc/[0-9]* | wc -l | tr -d ' '").await;
        assert!((1..30).any(|n| count.contains(&format!("{n}\\nended with 0"))), "{count}");

        // Files: neither theirs nor another tenant's nor the service's, by a link neither.
        let tenant = bed.daemon.state.path().join("tenants/else/claude");
        fs::create_dir_all(&tenant).expect("made");
        fs::write(tenant.join("secret"), "another tenant's").expect("written");
        let link = format!("{state}/tenants/default/claude/projects/link");
        bash(&bed, "a", &format!("ln -s {} {link}", tenant.display())).await;
        assert!(PathBuf::from(&link).is_symlink(), "it can write in its own");
        for hidden in [
            tenant.join("secret").display().to_string(),
            format!("{link}/secret"),
            theirs.join("mine").display().to_string(),
            "/tmp/planted".to_owned(),
            format!("{state}/lock"),
            format!("{state}/tenants/default/work/s-other"),
        ] {
            let seen = bash(&bed, "a", &format!("cat {hidden} || ls {hidden}")).await;
            assert!(seen.contains("No such file or directory"), "{hidden}: {seen}");
            assert!(!seen.contains("ended with 0"), "{hidden}: {seen}");
        }

        // Writing: nowhere but in its own folder and its own /tmp.
        for closed in ["/etc/x", "/usr/x", "/x", "/var/lib/x"] {
            let tried = bash(&bed, "a", &format!("echo x >{closed}")).await;
            assert!(tried.contains("Read-only file system"), "{closed}: {tried}");
            assert!(!PathBuf::from(closed).exists());
        }
        bash(&bed, "a", &format!("mkdir -p {state}/tenants/new && echo x >{state}/tenants/new/x"))
            .await;
        assert!(!bed.daemon.state.path().join("tenants/new").exists());

        // What is open: no folder of the machine, from which a way would lead up.
        let open = bash(&bed, "a", "ls -l /proc/[0-9]*/fd").await;
        assert!(open.contains("/dev/null"), "{open}");
        for folder in ["work/s-a", "claude", "claude/projects", "homes/s-a"] {
            let path = format!("-> {state}/tenants/default/{folder}\\n");
            assert!(!open.contains(&path), "{path}: {open}");
        }

        // The environment: nothing of the service's own but what is on its list.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "the service has it");
        let environment = bash(&bed, "a", "env | cut -d = -f 1").await;
        assert!(environment.contains("CLAUDE_CONFIG_DIR"), "{environment}");
        assert!(!environment.contains("CARGO"), "{environment}");

        // Signals: there is nobody to be hit.
        let tried = bash(&bed, "a", &format!("kill -0 {}", bed.daemon.id())).await;
        assert!(tried.contains("No such process"), "{tried}");

        // And what it may do works.
        let own =
            bash(&bed, "a", "echo mine >file && cat file && echo t >/tmp/t && cat /tmp/t").await;
        assert!(own.contains("mine\\nt\\nended with 0"), "{own}");
        assert_eq!(
            fs::read_to_string(work_folder(&bed, "a").join("file")).expect("kept"),
            "mine\n"
        );
        let turn = bed.run(query("other", "still there?")).await;
        assert!(turn.text().contains("still there?"), "{}", turn.text());
        bed.stop().await;
    }
}

#[tokio::test]
async fn a_session_writes_in_the_folders_that_its_caller_chose_and_nowhere_beside_them() {
    for version in ["2.1.197", "2.1.332"] {
        let place = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let base = place.path().canonicalize().expect("a real path");
        let [work, more, beside] = ["work", "more", "beside"].map(|name| base.join(name));
        for folder in [&work, &more, &beside] {
            fs::create_dir(folder).expect("made");
        }
        let file = place.path().join("pool.toml");
        fs::write(&file, format!("[policy]\ncwd_roots = [{base:?}]\n")).expect("written");
        let bed = Bed::configured("bubblewrap", version, &file.display().to_string()).await;
        let path = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
        let options = SessionOptions {
            cwd: Some(path(&work)),
            add_dirs: vec![path(&more)],
            allowed_tools: vec!["Bash".into()],
            permission_mode: Some("dontAsk".into()),
            ..SessionOptions::default()
        };
        let command = format!(
            "pwd; echo x >here; echo x >{}/there; echo x >{}/no || echo refused",
            more.display(),
            beside.display()
        );
        let turn = bed.run(query_with("a", &format!("[[bash {command}]]"), options)).await;
        let said = &turn.result().result;
        assert!(said.contains(&path(&work)) && said.contains("refused"), "{version}: {said}");
        assert!(work.join("here").is_file() && more.join("there").is_file(), "{version}");
        assert!(!beside.join("no").exists(), "{version}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn the_services_configuration_is_hidden_where_it_lies() {
    // Not below a folder that is hidden anyway.
    let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let file = folder.path().join("config.toml");
    fs::write(&file, "[cli.env]\nPLANTED_TOKEN = \"planted-secret\"\n").expect("written");
    let path = file.display().to_string();
    let bed = Bed::configured("bubblewrap", "2.1.332", &path).await;
    let seen = bash(&bed, "a", &format!("cat {path}")).await;
    assert!(seen.contains("ended with 1") && !seen.contains("planted-secret"), "{seen}");
    bed.stop().await;
}
