//! POLICY_DENIED: what would run commands or leave the session's folder is refused.

use std::collections::HashMap;

use session_pool::proto::{self, InputBlock, QueryRequest, input_block::Block};
use tonic::{Code, Status};

use super::options;
use crate::support::{
    failure, fields,
    service::{Service, query, query_with},
};

#[track_caller]
fn denied(status: &Status, field: &str) -> HashMap<String, String> {
    let metadata = failure(status, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], field);
    assert!(!metadata["limit"].is_empty(), "{metadata:?}");
    metadata
}

#[tokio::test]
async fn options_that_run_commands_or_leave_the_folder_are_denied() {
    let service = Service::start(|_| {}).await;
    let json = || Some("{}".to_owned());
    let servers = || Some(r#"{"mcpServers":{"x":{"type":"http","url":"http://x"}}}"#.to_owned());
    let cases = [
        ("options.cwd", options(|o| o.cwd = Some("/".into()))),
        ("options.add_dirs[0]", options(|o| o.add_dirs = vec!["/".into()])),
        ("options.mcp_servers", options(|o| o.mcp_servers = servers())),
        ("options.agents", options(|o| o.agents = json())),
        ("options.settings", options(|o| o.settings = json())),
        ("options.env.A", options(|o| o.env = HashMap::from([("A".into(), "b".into())]))),
        ("options.setting_sources[0]", options(|o| o.setting_sources = vec!["project".into()])),
    ];
    for (field, options) in cases {
        let refused = service.open(query_with("a", "hello", options.clone())).await;
        denied(&refused.expect_err(field), field);
        let request =
            proto::UpdateSessionRequest { session_id: "a".into(), options: Some(options) };
        let refused = service.client.clone().update_session(request).await;
        denied(&refused.expect_err(field), field);
    }
    assert_eq!(service.stats().await.total_sessions, 0);
    service.stop().await;
}

#[tokio::test]
async fn permission_modes_are_those_of_the_policy() {
    let service = Service::start(|config| {
        config.policy.permission_modes = vec!["default".into(), "plan".into()];
    })
    .await;
    for mode in ["bypassPermissions", "acceptEdits", "--dangerously-skip-permissions", ""] {
        let options = options(|o| o.permission_mode = Some(mode.into()));
        let refused = service.open(query_with("a", "hello", options)).await;
        let metadata = denied(&refused.expect_err(mode), "options.permission_mode");
        assert!(metadata["limit"].contains("default, plan"), "{metadata:?}");
    }
    let allowed = options(|o| o.permission_mode = Some("plan".into()));
    let turn = service.run(query_with("a", "hello", allowed)).await;
    assert_eq!(turn.result().result, "echo: hello");
    service.stop().await;
}

#[tokio::test]
async fn bypassing_permissions_is_denied_by_default() {
    let service = Service::start(|_| {}).await;
    let options = options(|o| o.permission_mode = Some("bypassPermissions".into()));
    let refused = service.open(query_with("a", "hello", options)).await;
    denied(&refused.expect_err("denied"), "options.permission_mode");
    service.stop().await;
}

#[tokio::test]
async fn slash_commands_can_be_switched_off() {
    let service = Service::start(|config| config.policy.slash_commands = false).await;
    let refused = service.open(query("a", " /clear")).await;
    denied(&refused.expect_err("denied"), "prompt");
    let blocks = QueryRequest {
        session_id: "a".into(),
        content: vec![InputBlock { block: Some(Block::Text("/clear".into())) }],
        ..QueryRequest::default()
    };
    denied(&service.open(blocks).await.expect_err("denied"), "content[0].text");
    assert_eq!(service.query("a", "a / b").await.result().result, "echo: a / b");
    service.stop().await;
}

#[tokio::test]
async fn d8_files_are_named_in_prompts_only_where_the_operator_lets_them() {
    use session_pool::config::FileMentions;
    let json = |text: &str| Block::BlockJson(format!(r#"{{"type":"text","text":"{text}"}}"#));
    // Whether files anywhere may be named, and those below the working folder.
    for (mentions, slash, anywhere, below) in [
        (FileMentions::Auto, true, false, true),
        (FileMentions::Auto, false, false, false),
        (FileMentions::Below, false, false, true),
        (FileMentions::On, false, true, true),
        (FileMentions::Off, true, false, false),
    ] {
        let service = Service::start(|config| {
            config.policy.file_mentions = mentions;
            config.policy.slash_commands = slash;
        })
        .await;
        for (field, block, allowed) in [
            ("content[1].text", Block::Text("@/etc/passwd".into()), anywhere),
            ("content[1].text", Block::Text("see\n(@\"/etc/a b\")".into()), anywhere),
            ("content[1].text", Block::Text("\u{feff}@x".into()), below),
            ("content[1].block_json", json(r"\u0040/etc/passwd"), anywhere),
            ("content[1].block_json", json(r"\u0040notes.txt"), below),
        ] {
            let blocks = [Block::Text("see".into()), block];
            let content = blocks.map(|block| InputBlock { block: Some(block) }).into();
            let request =
                QueryRequest { session_id: "a".into(), content, ..QueryRequest::default() };
            match service.open(request).await {
                Ok(mut turn) => {
                    assert!(allowed, "{mentions:?} {slash} {field}");
                    turn.finish().await;
                }
                Err(refused) => {
                    assert!(!allowed, "{mentions:?} {slash} {field}");
                    denied(&refused, field);
                }
            }
        }
        let plain = service.query("a", "write to a@b.org @ noon").await;
        assert_eq!(plain.result().result, "echo: write to a@b.org @ noon");
        service.stop().await;
    }
}

#[tokio::test]
async fn d5_a_server_inside_of_a_callers_program_is_refused_by_name() {
    use session_pool::config::McpServers;
    let service = Service::start(|config| config.policy.mcp_servers = McpServers::Any).await;
    let servers = r#"{"mcpServers":{"good":{"command":"x"},"inner":{"type":"sdk","name":"t"}}}"#;
    let options = options(|o| o.mcp_servers = Some(servers.into()));
    let refused = service.open(query_with("a", "hello", options)).await.expect_err("refused");
    failure(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(fields(&refused), ["options.mcp_servers"]);
    let told = format!("{:?}", tonic_types::StatusExt::get_error_details(&refused));
    assert!(told.contains("inner") && !told.contains("good"), "{told}");
    service.stop().await;
}

#[tokio::test]
async fn a_violation_comes_before_the_policy() {
    let service = Service::start(|_| {}).await;
    let options = options(|o| {
        o.cwd = Some("/".into());
        o.effort = Some("none".into());
    });
    let refused = service.open(query_with("a", "hello", options)).await.expect_err("refused");
    failure(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    service.stop().await;
}

#[tokio::test]
async fn everything_denied_is_told_at_once() {
    let service = Service::start(|_| {}).await;
    let options = options(|o| {
        o.cwd = Some("/".into());
        o.permission_mode = Some("bypassPermissions".into());
        o.settings = Some("{}".into());
    });
    let request = query_with("a", "hello", options);
    let refused = service.open(request).await.expect_err("refused");
    let wanted = ["options.permission_mode", "options.cwd", "options.settings"];
    assert_eq!(fields(&refused), wanted);
    assert_eq!(denied(&refused, &wanted.join(","))["limit"].matches("(policy.").count(), 3);
    service.stop().await;
}

#[tokio::test]
async fn a_slash_command_is_found_in_any_block_of_text() {
    let service = Service::start(|config| config.policy.slash_commands = false).await;
    for (field, block) in [
        ("content[1].text", Block::Text("\u{feff} /clear".into())),
        (
            "content[1].block_json",
            Block::BlockJson(r#"{"type":"text","text":"\u002fclear"}"#.into()),
        ),
        (
            "content[1].block_json",
            Block::BlockJson(r#"{"te\u0078t":"/clear","type":"text"}"#.into()),
        ),
    ] {
        let blocks = [Block::Text("see".into()), block];
        let request = QueryRequest {
            session_id: "a".into(),
            content: blocks.map(|block| InputBlock { block: Some(block) }).into(),
            ..QueryRequest::default()
        };
        denied(&service.open(request).await.expect_err("denied"), field);
    }
    service.stop().await;
}
