//! Bounds of what a request may hold, and values that are made to be taken for something
//! else.

use session_pool::{
    config::McpServers,
    proto::{
        InputBlock, InputMedia, ListSessionsRequest, PromptAllow, QueryRequest, RespondRequest,
        SessionOptions, input_block::Block, respond_request::Decision,
    },
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::options;
use crate::support::{
    failure, fields,
    service::{Service, query_with, script},
};

#[track_caller]
fn invalid(status: &Status, field: &str) {
    failure(status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(fields(status).iter().any(|found| found == field), "{field}: {status:?}");
    assert!(status.message().len() < 16 * 1024, "{}", status.message().len());
}

async fn open() -> Service {
    Service::start(|config| {
        config.policy.mcp_servers = McpServers::Any;
        config.policy.settings = true;
        config.policy.agents = true;
        config.policy.env = vec!["A*".into()];
        config.policy.setting_sources = vec!["user".into()];
    })
    .await
}

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn options_have_bounds() {
    let service = open().await;
    let servers = |entries: String| Some(format!("{{\"mcpServers\":{{{entries}}}}}"));
    let many =
        |count: usize| (0..count).map(|n| format!("\"s{n}\":{{}}")).collect::<Vec<_>>().join(",");
    let variables = |count: usize, size: usize| {
        (0..count).map(|n| (format!("A{n}"), "x".repeat(size))).collect()
    };
    let long = "x".repeat(65 * 1024);
    let megabyte = "x".repeat((1 << 20) + 1);
    for (field, options) in [
        ("options.mcp_servers", options(|o| o.mcp_servers = Some("{}".into()))),
        ("options.mcp_servers", options(|o| o.mcp_servers = Some("{\"x\":{}}".into()))),
        ("options.mcp_servers", options(|o| o.mcp_servers = servers(many(65)))),
        ("options.mcp_servers", options(|o| o.mcp_servers = servers(format!("\"{long}\":{{}}")))),
        ("options.mcp_servers", options(|o| o.mcp_servers = servers("\"../x\":{}".into()))),
        ("options.mcp_servers.x", options(|o| o.mcp_servers = servers("\"x\":1".into()))),
        ("options.settings", options(|o| o.settings = Some(nested(100)))),
        ("options.settings", options(|o| o.settings = Some("[]".into()))),
        ("options.settings", options(|o| o.settings = Some(format!("{{\"a\":\"{long}\"}}")))),
        ("options.agents", options(|o| o.agents = Some(format!("{{{}}}", many(65))))),
        ("options.agents", options(|o| o.agents = Some(nested(1_000_000)))),
        ("options.agents.x", options(|o| o.agents = Some("{\"x\":[]}".into()))),
        ("options.json_schema", options(|o| o.json_schema = Some(nested(100)))),
        (
            "options.json_schema",
            options(|o| {
                o.json_schema = Some(r#"{"type":"array"}"#.into());
            }),
        ),
        (
            "options.mcp_servers",
            options(|o| {
                o.mcp_servers = Some(r#"{"mcpServers":{"t":{"type":"sdk","name":"t"}}}"#.into());
            }),
        ),
        ("options.env", options(|o| o.env = variables(65, 1))),
        ("options.env", options(|o| o.env = variables(64, 5000))),
        ("options.env.A0", options(|o| o.env = variables(1, 32 * 1024 + 1))),
        ("options.env", options(|o| o.env = [("A=B".into(), "x".into())].into())),
        ("options.env", options(|o| o.env = [(String::new(), "x".into())].into())),
        ("options.env", options(|o| o.env = [("A".repeat(129), "x".into())].into())),
        ("options.env.A", options(|o| o.env = [("A".into(), "a\0b".into())].into())),
        ("options.add_dirs", options(|o| o.add_dirs = vec!["/x".into(); 33])),
        ("options.setting_sources", options(|o| o.setting_sources = vec!["user".into(); 9])),
        ("options.allowed_tools", options(|o| o.allowed_tools = vec!["x".into(); 257])),
        ("options.betas", options(|o| o.betas = vec!["x".into(); 33])),
        ("options.effort", options(|o| o.effort = Some(megabyte.clone()))),
        ("options.resume", options(|o| o.resume = Some(megabyte.clone()))),
        ("options.system_prompt", options(|o| o.system_prompt = Some(megabyte.clone()))),
        (
            "options.append_system_prompt",
            options(|o| {
                o.append_system_prompt = Some("a\0".into());
            }),
        ),
    ] {
        let refused = service.open(query_with("a", "hello", options)).await.expect_err(field);
        invalid(&refused, field);
    }
    assert_eq!(service.stats().await.total_sessions, 0);
    service.stop().await;
}

#[tokio::test]
async fn blocks_have_bounds() {
    let service = open().await;
    let media = |media_type: &str| {
        Block::Image(InputMedia { media_type: media_type.into(), data: vec![1] })
    };
    let document = |media_type: &str| {
        Block::Document(InputMedia { media_type: media_type.into(), data: b"hello".to_vec() })
    };
    let json = |text: &str| Block::BlockJson(text.into());
    for (field, block) in [
        ("content[0].image.media_type", media("image")),
        ("content[0].image.media_type", media("image/")),
        ("content[0].image.media_type", media("image/png\n")),
        ("content[0].image.media_type", media(&format!("image/{}", "x".repeat(128)))),
        ("content[0].image.media_type", media("image/bmp")),
        ("content[0].image.data", media("image/png")),
        ("content[0].document.media_type", document("application/msword")),
        ("content[0].document.data", document("application/pdf")),
        (
            "content[0].block_json.source.media_type",
            json(
                r#"{"type":"document","source":{"type":"base64","media_type":"text/plain","data":"aGk="}}"#,
            ),
        ),
        ("content[0].text", Block::Text("a\0b".into())),
        ("content[0].block_json", json("{}")),
        ("content[0].block_json", json(r#"["x","y"]"#)),
        ("content[0].block_json", json(r#"{"type":1}"#)),
        ("content[0].block_json", json(r#"{"type":""}"#)),
        ("content[0].block_json", json(r#"{"type":"a","type":"text"}"#)),
        ("content[0].block_json", json(r#"{"type":"text"}"#)),
        ("content[0].block_json", json(r#"{"type":"text","text":"\ud800"}"#)),
        ("content[0].block_json", json(r#"{"type":"x"} {"type":"y"}"#)),
        ("content[0].block_json", json(&format!(r#"{{"type":"x","a":{}}}"#, nested(100)))),
    ] {
        let content = vec![InputBlock { block: Some(block) }];
        let request = QueryRequest { session_id: "a".into(), content, ..QueryRequest::default() };
        invalid(&service.open(request).await.expect_err(field), field);
    }
    let content = vec![InputBlock { block: None }; 100_000];
    let request = QueryRequest { session_id: "a".into(), content, ..QueryRequest::default() };
    let refused = service.open(request).await.expect_err("too many");
    invalid(&refused, "request");
    let told = fields(&refused).len();
    let details = refused.get_error_details();
    let last = details.bad_request().and_then(|bad| bad.field_violations.last()).expect("one");
    // The first thousand are looked at, beside their number.
    assert_eq!(last.description, format!("and {} more", 1001 + 1 - told));
    service.stop().await;
}

#[tokio::test]
async fn answers_and_pages_have_bounds() {
    let service = open().await;
    let respond = |prompt_id: &str, decision: Decision| RespondRequest {
        session_id: "a".into(),
        prompt_id: prompt_id.into(),
        decision: Some(decision),
    };
    let allow = |input: &str, permissions: &str| {
        Decision::Allow(PromptAllow {
            updated_input_json: input.into(),
            updated_permissions_json: permissions.into(),
        })
    };
    let deny = |message: String| {
        Decision::Deny(session_pool::proto::PromptDeny { message, interrupt: false })
    };
    let megabyte = "x".repeat((1 << 20) + 1);
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    for (field, request) in [
        ("prompt_id", respond(&"x".repeat(257), allow("", ""))),
        ("prompt_id", respond("a\nb", allow("", ""))),
        ("allow.updated_input_json", respond("p", allow(&nested(100), ""))),
        ("allow.updated_permissions_json", respond("p", allow("", &deep))),
        ("allow.updated_permissions_json", respond("p", allow("", &format!("[\"{megabyte}\"]")))),
        ("deny.message", respond("p", deny(megabyte.clone()))),
        ("deny.message", respond("p", deny("\0".into()))),
        ("response_json", respond("p", Decision::ResponseJson(nested(100)))),
        ("response_json", respond("p", Decision::ResponseJson("[]".into()))),
        (
            "response_json.updatedPermissions",
            respond("p", Decision::ResponseJson(r#"{"updatedPermissions":{}}"#.into())),
        ),
    ] {
        let refused = service.client.clone().respond(request).await.expect_err(field);
        invalid(&refused, field);
    }
    let request = ListSessionsRequest { page_size: 1, page_token: megabyte };
    let refused = service.client.clone().list_sessions(request).await.expect_err("too long");
    invalid(&refused, "page_token");
    service.stop().await;
}

/// Values of options that become arguments.
fn everywhere(value: &str) -> SessionOptions {
    options(|o| {
        o.model = Some(value.into());
        o.fallback_model = Some(value.into());
        o.allowed_tools = vec![value.into(), value.into()];
        o.disallowed_tools = vec![value.into(), value.into()];
        o.tools = vec![value.into(), value.into()];
        o.betas = vec![value.into(), value.into()];
    })
}

#[tokio::test]
async fn a_value_that_looks_like_a_flag_stays_a_value() {
    let service = open().await;
    for (session, value) in
        ["-x", "--", "--dangerously-skip-permissions", "-p --resume", "../..", "=", "$(id)"]
            .iter()
            .enumerate()
    {
        let request = query_with(&format!("s{session}"), &script(&["argv"]), everywhere(value));
        let argv: Vec<String> =
            serde_json::from_str(&service.run(request).await.text()).expect("JSON");
        assert!(argv.iter().all(|arg| arg.starts_with("--")), "{argv:?}");
        let bound = argv.iter().filter(|arg| arg.ends_with(&format!("={value}"))).count();
        assert_eq!(bound, 10, "{argv:?}");
        assert!(!argv.iter().any(|arg| arg.starts_with("--dangerously")), "{argv:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_value_with_characters_that_end_a_line_or_a_text_is_refused() {
    let service = open().await;
    for value in ["a\0b", "a\nb", "a\rb", "a\u{1b}[2Jb", "\u{85}"] {
        let refused = service.open(query_with("a", "hello", everywhere(value))).await;
        let refused = refused.expect_err(value);
        for field in [
            "options.model",
            "options.fallback_model",
            "options.allowed_tools[1]",
            "options.disallowed_tools[1]",
            "options.tools[1]",
            "options.betas[1]",
        ] {
            invalid(&refused, field);
        }
    }
    service.stop().await;
}

/// The other options, which have values of a certain form, of a policy or in JSON.
#[tokio::test]
async fn no_other_option_takes_a_flag_a_path_or_a_line_for_a_value() {
    let service = open().await;
    for value in ["--dangerously-skip-permissions", "-x", "a\0b", "a\nb", "../..", "/etc"] {
        type Change = fn(&mut SessionOptions, String);
        let all: [(&str, Change); 10] = [
            ("options.permission_mode", |o, v| o.permission_mode = Some(v)),
            ("options.effort", |o, v| o.effort = Some(v)),
            ("options.setting_sources[0]", |o, v| o.setting_sources = vec![v]),
            ("options.agents", |o, v| o.agents = Some(v)),
            ("options.json_schema", |o, v| o.json_schema = Some(v)),
            ("options.mcp_servers", |o, v| o.mcp_servers = Some(v)),
            ("options.settings", |o, v| o.settings = Some(v)),
            ("options.resume", |o, v| o.resume = Some(v)),
            ("options.cwd", |o, v| o.cwd = Some(v)),
            ("options.add_dirs[0]", |o, v| o.add_dirs = vec![v]),
        ];
        for (field, change) in all {
            let options = options(|o| change(o, value.to_owned()));
            let refused = service.open(query_with("a", "hello", options)).await;
            let refused = refused.expect_err(&format!("{field} {value:?}"));
            let fields = crate::support::fields(&refused);
            assert!(fields.iter().any(|named| named == field), "{field} {value:?}: {fields:?}");
        }
    }
    let names = ["A=B", "-x", "", "a\0b", "A\nB", "PATH", "LD_PRELOAD", "HOME"];
    for name in names {
        let options = options(|o| o.env = [(name.to_owned(), "x".to_owned())].into());
        let refused = service.open(query_with("a", "hello", options)).await.expect_err(name);
        assert!(
            format!("{:?}", crate::support::fields(&refused)).contains("options.env"),
            "{name}"
        );
    }
    assert_eq!(service.processes(), [0; 0], "nothing was started");
    service.stop().await;
}
