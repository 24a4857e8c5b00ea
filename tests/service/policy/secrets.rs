//! Secrets that callers and operators give stay between them and the CLI.

use prost::Message as _;
use session_pool::{
    config::{self, McpServers},
    proto::{SessionOptions, UpdateSessionRequest},
};

use super::options;
use crate::support::{
    log,
    service::{Service, fake_cli, query_with, script},
};

/// Texts that occur nowhere else.
const PLANTED: [&str; 7] = [
    "planted-9d1f-operator",
    "planted-9d1f-variable",
    "planted-9d1f-settings",
    "planted-9d1f-header",
    "planted-9d1f-prompt",
    "planted-9d1f-system",
    "planted-9d1f-url",
];

fn secrets() -> SessionOptions {
    options(|o| {
        o.env = [("APP_TOKEN".to_owned(), PLANTED[1].to_owned())].into();
        o.settings = Some(format!(r#"{{"apiKeyHelper":"echo {}"}}"#, PLANTED[2]));
        o.mcp_servers = Some(format!(
            r#"{{"mcpServers":{{"x":{{"type":"http","url":"https://x/?k={}","headers":{{"Authorization":"{}"}}}}}}}}"#,
            PLANTED[6], PLANTED[3]
        ));
        o.append_system_prompt = Some(PLANTED[5].into());
    })
}

#[track_caller]
fn clean(what: &str, text: &str, allowed: &[&str]) {
    for planted in PLANTED.iter().filter(|planted| !allowed.contains(planted)) {
        assert!(!text.contains(planted), "{planted} in {what}: {text}");
    }
}

#[tokio::test]
async fn planted_secrets_are_found_nowhere() {
    let open = |config: &mut config::Config| {
        config.policy.env = vec!["APP_*".into()];
        config.policy.settings = true;
        config.policy.mcp_servers = McpServers::Any;
        config.cli.env.insert("ANTHROPIC_API_KEY".into(), PLANTED[0].into());
    };
    let service = Service::start(open).await;
    let client = || service.client.clone();
    // A turn, a resumed one, a mismatch, a start that fails, a policy that refuses.
    service.run(query_with("a", PLANTED[4], secrets())).await.result();
    service.interrupt("a", false).await;
    service.run(query_with("a", PLANTED[4], secrets())).await.result();
    let shown = service.session("a").await.expect("there");
    let shown_options = shown.options.clone().expect("options");
    assert_eq!(shown_options.env["APP_TOKEN"], "<hidden>");
    assert_eq!(shown_options.settings(), r#"{"apiKeyHelper":"<hidden>"}"#);
    assert_eq!(shown_options.mcp_servers(), r#"{"mcpServers":{"x":"<hidden>"}}"#);
    // The prompts of a session are shown to its caller, who wrote them.
    clean("GetSession", &format!("{shown:?}"), &[PLANTED[5]]);
    clean("GetStats", &format!("{:?}", service.stats().await), &[]);

    let mut errors = Vec::new();
    let mut changed = secrets();
    changed.env.insert("APP_TOKEN".into(), format!("{} changed", PLANTED[1]));
    changed.settings = Some(format!(r#"{{"env":{{"A":"{}"}}}}"#, PLANTED[2]));
    errors.push(service.run(query_with("a", PLANTED[4], changed.clone())).await.error().clone());
    let update = UpdateSessionRequest { session_id: "a".into(), options: Some(changed) };
    errors.push(client().update_session(update).await.expect_err("fixed"));
    let failing = SessionOptions { model: Some("fake:exit-at-start:3".into()), ..secrets() };
    let failed = service.run(query_with("b", PLANTED[4], failing)).await;
    errors.extend(failed.end.and_then(Result::err));
    // A CLI that complains about its credentials.
    let prompt = script(&[&format!("stderr {} and {}", PLANTED[0], PLANTED[1]), "exit 3"]);
    let ended = service.run(query_with("d", &prompt, secrets())).await;
    assert!(format!("{:?}", ended.error()).contains("<hidden> and <hidden>"), "{ended:?}");
    errors.extend(ended.end.and_then(Result::err));
    let mut denied = secrets();
    denied.env.insert("OTHER".into(), PLANTED[1].into());
    errors.push(service.open(query_with("c", PLANTED[4], denied)).await.expect_err("denied"));
    let mut broken = secrets();
    broken.settings = Some(format!(r#"["{}"]"#, PLANTED[2]));
    broken.mcp_servers = Some(format!(r#"{{"x":"{}""#, PLANTED[3]));
    broken.env.insert("APP_X".into(), format!("{}\0", PLANTED[1]));
    errors.push(service.open(query_with("c", PLANTED[4], broken)).await.expect_err("broken"));
    assert!(errors.len() >= 4);
    for error in errors {
        let details = String::from_utf8_lossy(error.details()).into_owned();
        clean("an error", &format!("{error:?} {details}"), &[]);
    }
    clean("an encoded session", &String::from_utf8_lossy(&shown.encode_to_vec()), &[PLANTED[5]]);
    service.stop().await;
    for planted in PLANTED {
        let found = log::mentioning(planted);
        assert!(found.is_empty(), "{planted} in the log: {found:?}");
    }
    assert!(!log::named("cli_starting").is_empty(), "the log is looked at from debug on");

    let mut config = fake_cli(std::path::Path::new("/state"));
    open(&mut config);
    config.cli.extra_args = vec![format!("--settings={{\"apiKeyHelper\":\"{}\"}}", PLANTED[2])];
    config.cli.env.insert("HTTPS_PROXY".into(), format!("http://user:{}@proxy", PLANTED[6]));
    clean("config print", &config::print(&config), &[]);
    clean("the configuration's Debug form", &format!("{config:?}"), &[]);
}
