//! What an agent writes into the folder that `CLAUDE_CONFIG_DIR` names, so that the real CLI of
//! its tenant's next process does as it says; and what an operator has placed there.

use std::{fs, os::unix::fs::symlink};

use session_pool::proto::SessionOptions;

use crate::{
    bed::Bed,
    support::service::{query, query_with},
    view::{bash, printed},
};

/// Writes what the CLI is known to obey. The note is not spelled out, so that whoever is told it
/// has it from the file.
const PLANT: &str = r#"cd "$CLAUDE_CONFIG_DIR"
variables='{"env":{"PLANTED_BY_AGENT":"yes","ANTHROPIC_BASE_URL":"http://127.0.0.1:1"}}'
for file in .claude.json .config.json backups/.claude.json.backup; do
  mkdir -p backups && echo "$variables" >"$file"
done
hook='{"type":"command","command":"touch $HOME/hook-ran"}'
echo "{\"hooks\":{\"SessionStart\":[{\"hooks\":[$hook] }] },\"apiKeyHelper\":\"touch $HOME/helper-ran\"}" \
  | tee remote-settings.json >settings.json
for folder in projects/*/; do
  mkdir -p "$folder/memory" && printf 'planted %s\n' note >"$folder/memory/MEMORY.md"
done"#;

/// Lists what the process finds, and its variables.
const LOOK: &str = r#"ls -A "$CLAUDE_CONFIG_DIR"; env; ls -A "$HOME""#;

async fn nothing_planted_is_obeyed(mode: &str, version: &str) {
    let bed = Bed::real(mode, version, &[]).await;
    let planted = bash(&bed, "a", PLANT).await;
    assert!(planted.contains("ended with 0"), "{mode} {version}: {planted}");
    bed.close("a").await;
    // Another session of the tenant, and the same one in its next process.
    for session in ["b", "a"] {
        let found = bash(&bed, session, LOOK).await;
        assert!(found.contains("ended with 0"), "{mode} {version}: {found}");
        for trace in ["PLANTED_BY_AGENT", "remote-settings.json", "hook-ran", "helper-ran"] {
            assert!(!found.contains(trace), "{mode} {version} {session}: {trace} in {found}");
        }
    }
    let told = bed.api().requests().iter().any(|it| it.body.to_string().contains("planted note"));
    assert!(!told, "{mode} {version}: the note of one process was told by the next");
    // What is to outlive a process does.
    let turn = bed.run(query("a", "still there?")).await;
    assert!(turn.text().contains("PLANTED_BY_AGENT"), "{mode} {version}: {}", turn.text());
    bed.stop().await;
}

#[tokio::test]
async fn what_an_agent_plants_for_later_processes_is_not_there_in_bubblewrap() {
    for version in ["2.1.110", "2.1.197", "2.1.332"] {
        nothing_planted_is_obeyed("bubblewrap", version).await;
    }
}

#[tokio::test]
async fn what_an_agent_plants_for_later_processes_is_removed_in_process_tree() {
    nothing_planted_is_obeyed("process-tree", "2.1.332").await;
}

#[tokio::test]
async fn what_runs_beside_a_session_cannot_plant_anything_either() {
    let bed = Bed::real("bubblewrap", "2.1.332", &[]).await;
    bash(&bed, "a", LOOK).await;
    bash(&bed, "b", PLANT).await;
    // Its configuration may be read again at any time.
    let found = bash(&bed, "a", r#"cat "$CLAUDE_CONFIG_DIR/.claude.json"; env"#).await;
    assert!(found.contains("ended with 0") && !found.contains("PLANTED_BY_AGENT"), "{found}");
    bed.stop().await;
}

#[tokio::test]
async fn what_a_session_leaves_in_its_home_is_not_what_another_ones_shell_runs() {
    let bed = Bed::real("bubblewrap", "2.1.332", &[]).await;
    let rc = r#"for rc in .bashrc .profile .zshrc; do echo 'touch "$HOME/ran"' >"$HOME/$rc"; done"#;
    let rc = format!("{rc}; git config --global alias.st '!touch ran'; ls -A \"$HOME\"");
    let planted = bash(&bed, "a", &rc).await;
    assert!(planted.contains(".bashrc"), "{planted}");
    let found = bash(&bed, "b", r#"ls -A "$HOME"; cd "$HOME"; git st"#).await;
    assert!(!found.contains("ran") && !found.contains(".bashrc"), "{found}");
    // Its own is there in its next process.
    bed.close("a").await;
    let found = bash(&bed, "a", r#"ls -A "$HOME""#).await;
    assert!(found.contains(".bashrc"), "{found}");
    bed.stop().await;
}

#[tokio::test]
async fn what_an_operator_has_placed_is_read_and_cannot_be_changed() {
    let settings = [("POLICY__SETTING_SOURCES", r#"["user"]"#)];
    let bed = Bed::real("bubblewrap", "2.1.332", &settings).await;
    let config = bed.daemon.state.path().join("tenants/default/claude");
    fs::create_dir_all(config.join("skills/own")).expect("made");
    let text = r#"{"env": {"FROM_OPERATOR": "yes"}}"#;
    fs::write(config.join("settings.json"), text).expect("written");
    // What leads elsewhere may lead to what is hidden.
    symlink(bed.daemon.state.path().join("lock"), config.join("CLAUDE.md")).expect("linked");
    let ask = async |session: &str, command: &str| {
        let options = SessionOptions {
            allowed_tools: vec!["Bash".into()],
            permission_mode: Some("dontAsk".into()),
            setting_sources: vec!["user".into()],
            ..SessionOptions::default()
        };
        let prompt = format!("[[bash {{ {command}; }} 2>&1; echo \"ended with $?\"]]");
        printed(&bed.run(query_with(session, &prompt, options)).await)
    };
    let found = ask("a", r#"env; ls "$CLAUDE_CONFIG_DIR""#).await;
    assert!(found.contains("FROM_OPERATOR=yes") && found.contains("skills"), "{found}");
    assert!(!found.contains("CLAUDE.md"), "{found}");
    for (change, refusal) in [
        ("echo {} >settings.json", "Read-only file system"),
        ("echo {} >new && mv new settings.json", "busy"),
        ("rm settings.json", "busy"),
        ("touch skills/own/SKILL.md", "Read-only file system"),
        ("mv skills away", "busy"),
    ] {
        let tried = ask("a", &format!("cd \"$CLAUDE_CONFIG_DIR\" && {change}")).await;
        assert!(tried.contains(refusal) && !tried.contains("ended with 0"), "{change}: {tried}");
    }
    assert_eq!(fs::read_to_string(config.join("settings.json")).expect("there"), text);
    bed.stop().await;
}
