//! Each option that the operator has opened reaches the CLI, and stays with the session.

use session_pool::{
    config::McpServers,
    proto::{OptionsMismatchPolicy, QueryRequest, SessionOptions, UpdateSessionRequest},
};
use tonic::Code;

use super::options;
use crate::support::{
    failure, processes,
    service::{Service, fake_cli, query_with, script},
};

const REMOTE: &str =
    r#"{ "mcpServers": {"r": {"type": "http", "url": "https://x/", "headers": {"k": "v"}}} }"#;
const LOCAL: &str = r#"{"mcpServers":{"l":{"command":"--help","args":["-x","a\nb"]}}}"#;

fn mcp(text: &str) -> SessionOptions {
    options(|o| o.mcp_servers = Some(text.into()))
}

#[tokio::test]
async fn remote_servers_can_be_opened_alone() {
    let service = Service::start(|config| config.policy.mcp_servers = McpServers::Remote).await;
    let argv = service.run(query_with("a", &script(&["argv"]), mcp(REMOTE))).await.text();
    let argv: Vec<String> = serde_json::from_str(&argv).expect("JSON");
    let given = argv.iter().find_map(|arg| arg.strip_prefix("--mcp-config=")).expect("there");
    let same = serde_json::from_str::<serde_json::Value>(REMOTE).expect("JSON");
    assert_eq!(serde_json::from_str::<serde_json::Value>(given).expect("JSON"), same);

    let refused = service.open(query_with("b", "hello", mcp(LOCAL))).await.expect_err("denied");
    let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], "options.mcp_servers.l");
    service.stop().await;
}

#[tokio::test]
async fn any_server_can_be_opened_and_stays_one_argument() {
    let service = Service::start(|config| config.policy.mcp_servers = McpServers::Any).await;
    let argv = service.run(query_with("a", &script(&["argv"]), mcp(LOCAL))).await.text();
    let argv: Vec<String> = serde_json::from_str(&argv).expect("JSON");
    assert!(argv.contains(&format!("--mcp-config={}", sorted(LOCAL))), "{argv:?}");
    assert!(argv.iter().all(|arg| arg.starts_with("--")), "{argv:?}");
    service.stop().await;
}

/// As the service passes JSON on.
fn sorted(text: &str) -> String {
    serde_json::from_str::<serde_json::Value>(text).expect("JSON").to_string()
}

#[tokio::test]
async fn settings_agents_and_sources_reach_the_cli() {
    let service = Service::start(|config| {
        config.policy.settings = true;
        config.policy.agents = true;
        config.policy.setting_sources = vec!["project".into()];
    })
    .await;
    let settings = r#"{"permissions":{"deny":["Bash"]}}"#;
    let agents = r#"{"fox":{"description":"d","prompt":"-p"}}"#;
    let wanted = options(|o| {
        o.settings = Some(settings.into());
        o.agents = Some(agents.into());
        o.setting_sources = vec!["project".into()];
    });
    let prompt = script(&["argv", "initialize-payload"]);
    let text = service.run(query_with("a", &prompt, wanted)).await.text();
    let quoted = serde_json::to_string(&format!("--settings={settings}")).expect("JSON");
    for part in [quoted.as_str(), "\"--setting-sources=project\"", &format!("\"agents\":{agents}")]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let user = options(|o| o.setting_sources = vec!["user".into()]);
    let refused = service.open(query_with("b", "hello", user)).await.expect_err("denied");
    let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
    assert!(metadata["limit"].starts_with("project"), "{metadata:?}");
    service.stop().await;
}

#[tokio::test]
async fn subagents_bring_only_what_the_policy_knows() {
    let service = Service::start(|config| config.policy.agents = true).await;
    for (place, agent) in [
        ("hooks", r#"{"hooks":{"Stop":[]}}"#),
        ("mcpServers", r#"{"mcpServers":[{"x":{"command":"sh"}}]}"#),
        ("permissionMode", r#"{"permissionMode":"bypassPermissions"}"#),
    ] {
        let wanted = options(|o| o.agents = Some(format!("{{\"fox\":{agent}}}")));
        let refused = service.open(query_with("a", "hello", wanted)).await.expect_err("denied");
        let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], format!("options.agents.fox.{place}"));
    }
    service.stop().await;
}

#[tokio::test]
async fn variables_are_set_by_name_and_replaced_as_a_whole() {
    let service = Service::start(|config| {
        config.policy.env = vec!["TOKEN".into(), "APP_*".into(), "P*".into(), "L*".into()];
        config.cli.env.insert("TOKEN".into(), "the operator's".into());
    })
    .await;
    let env = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        options(|o| o.env = pairs.collect())
    };
    let prompt = script(&["env TOKEN", "env APP_A", "env APP_B"]);
    let first = query_with("a", &prompt, env(&[("TOKEN", "-x"), ("APP_A", "a\nb")]));
    assert_eq!(service.run(first).await.text(), "-x\na\nb\nunset");

    let other = query_with("a", &prompt, env(&[("APP_B", "")]));
    let refused = service.run(other.clone()).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "env");
    let restart =
        QueryRequest { on_options_mismatch: OptionsMismatchPolicy::Restart.into(), ..other };
    assert_eq!(service.run(restart).await.text(), "the operator's\nunset\n");

    for name in ["PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "OTHER", "TOKEN2", "app_a"] {
        let refused = service.open(query_with("b", "hello", env(&[(name, "x")]))).await;
        let status = refused.expect_err(name);
        let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], format!("options.env.{name}"));
    }
    service.stop().await;
}

#[tokio::test]
async fn what_was_opened_outlives_the_process_and_can_be_updated() {
    let service = Service::start(|config| {
        config.policy.env = vec!["APP".into()];
        config.policy.settings = true;
    })
    .await;
    let first = options(|o| o.env = [("APP".to_owned(), "one".to_owned())].into());
    service.run(query_with("a", "hello", first)).await.result();
    let settings = options(|o| o.settings = Some("{ }".into()));
    let request = UpdateSessionRequest { session_id: "a".into(), options: Some(settings) };
    let refused = service.client.clone().update_session(request.clone()).await;
    failure(&refused.expect_err("fixed"), Code::FailedPrecondition, "OPTIONS_MISMATCH");

    // Without a process any of them can change.
    service.kill_cli("a", "hello").await;
    crate::support::eventually("the loss is noticed", async || {
        (service.session("a").await.ok()?.process_id == 0).then_some(())
    })
    .await;
    let updated = service.client.clone().update_session(request).await.expect("taken");
    assert_eq!(updated.into_inner().changed_options, ["settings"]);
    let text = service.query("a", &script(&["env APP", "argv"])).await.text();
    assert!(text.starts_with("one\n[") && text.contains("\"--settings={}\""), "{text}");
    assert_eq!(processes::of_state(service.state.path()).len(), 1);
    assert_eq!(service.query("a", "on").await.text(), "echo: on");
    service.stop().await;
}

#[tokio::test]
async fn a_session_from_before_a_restart_is_held_to_the_policy_of_today() {
    let service = Service::start(|config| {
        config.policy.settings = true;
        config.policy.env = vec!["APP".into()];
    })
    .await;
    let wanted = options(|o| {
        o.settings = Some("{}".into());
        o.env = [("APP".to_owned(), "kept".to_owned())].into();
    });
    let prompt = script(&["env APP"]);
    service.run(query_with("a", &prompt, wanted)).await.result();
    let (_, state) = service.end().await;

    // As it was: the options are the session's still.
    let mut config = fake_cli(state.path());
    config.policy.settings = true;
    config.policy.env = vec!["APP".into()];
    let service = Service::with(config, state).await;
    assert_eq!(service.query("a", &prompt).await.text(), "kept");
    let (_, state) = service.end().await;

    // Closed since: nothing is started with them.
    let mut config = fake_cli(state.path());
    config.policy.env = vec!["APP".into()];
    let service = Service::with(config, state).await;
    let turn = service.query("a", &prompt).await;
    let metadata = failure(turn.error(), Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], "options.settings");
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}
