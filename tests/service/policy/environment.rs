//! A CLI's environment is made from nothing: the service's own reaches it by name only.

use std::fs;

use crate::support::service::Service;

/// Names and values of a process's environment.
fn environment(pid: u32) -> Vec<(String, String)> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).expect("readable");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let entries = text.split_terminator('\0').filter_map(|entry| entry.split_once('='));
    entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn a_cli_gets_the_names_on_the_list_and_no_others() {
    // The programs that run tests have set these in this process: planted, so to say.
    let planted = ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"];
    assert!(planted.iter().all(|name| std::env::var_os(name).is_some()));
    let service = Service::start(|config| {
        config.cli.env.insert("OPERATOR".into(), "said so".into());
        config.cli.env_passthrough = vec!["CARGO_PKG_NAME".into(), "NOT_SET_ANYWHERE".into()];
    })
    .await;
    service.query("a", "hello").await.result();
    let pid = service.session("a").await.expect("there").process_id;
    let found = environment(pid);
    let allowed = [
        "CARGO_PKG_NAME",
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_TMPDIR",
        "CLAUDE_CONFIG_DIR",
        "DISABLE_AUTOUPDATER",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "MCP_TIMEOUT",
        "MCP_TOOL_TIMEOUT",
        "OPERATOR",
        "PATH",
        "PWD",
        "SESSION_POOL_CLIENT",
        "SESSION_POOL_STATE",
        "TEMP",
        "TMP",
        "TMPDIR",
        "TZ",
    ];
    for (name, _) in &found {
        assert!(allowed.contains(&name.as_str()), "{name} leaked");
    }
    let value = |name: &str| found.iter().find(|(found, _)| found == name).map(|(_, v)| v.as_str());
    assert_eq!(value("OPERATOR"), Some("said so"));
    assert_eq!(value("CARGO_PKG_NAME"), Some("session-pool"));
    assert_ne!(value("HOME"), std::env::var("HOME").ok().as_deref());
    service.stop().await;
}
