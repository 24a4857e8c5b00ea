//! INVALID_ARGUMENT: every field out of bounds is named, all at once.

use session_pool::proto::{
    self, InputBlock, InputMedia, QueryRequest, SessionOptions, input_block::Block,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{
    failure, fields,
    service::{Service, query, query_with, script},
};

#[track_caller]
fn invalid(status: &Status, wanted: &[&str]) {
    let metadata = failure(status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(fields(status), wanted, "{status:?}");
    assert_eq!(metadata["field"], wanted.join(","));
}

async fn refused(service: &Service, request: QueryRequest) -> Status {
    service.open(request).await.expect_err("refused")
}

#[tokio::test]
async fn every_violation_of_a_query_is_listed_at_once() {
    let service = Service::start(|_| {}).await;
    let options = SessionOptions {
        model: Some(String::new()),
        fallback_model: Some("x".repeat(257)),
        allowed_tools: vec![" ".into()],
        disallowed_tools: vec!["Bash\n".into()],
        tools: vec!["x".repeat(1025), "Read".into()],
        max_turns: Some(0),
        max_budget_usd: Some(-1.0),
        max_thinking_tokens: Some(1_000_001),
        effort: Some("extreme".into()),
        json_schema: Some("[]".into()),
        setting_sources: vec!["user".into(), "elsewhere".into()],
        betas: vec![String::new()],
        fork_session: Some(true),
        ..SessionOptions::default()
    };
    let request = QueryRequest {
        session_id: "a b".into(),
        prompt: " \n".into(),
        turn_id: "x".repeat(129),
        options: Some(options),
        on_busy: 77,
        on_disconnect: 78,
        on_options_mismatch: 79,
        payload: 80,
        ..QueryRequest::default()
    };
    let status = refused(&service, request).await;
    invalid(
        &status,
        &[
            "session_id",
            "turn_id",
            "prompt",
            "options.model",
            "options.fallback_model",
            "options.allowed_tools[0]",
            "options.disallowed_tools[0]",
            "options.tools[0]",
            "options.betas[0]",
            "options.setting_sources[1]",
            "options.effort",
            "options.max_turns",
            "options.max_budget_usd",
            "options.max_thinking_tokens",
            "options.json_schema",
            "options.fork_session",
            "on_busy",
            "on_disconnect",
            "on_options_mismatch",
            "payload",
        ],
    );
    assert!(status.message().contains("must be 1 to 10000, is 0"), "{}", status.message());
    assert_eq!(service.stats().await.total_sessions, 0);
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_has_a_size_and_one_form() {
    let service = Service::start(|config| config.policy.max_prompt_bytes = 100).await;
    let blocks = |blocks: Vec<Option<Block>>| QueryRequest {
        session_id: "a".into(),
        content: blocks.into_iter().map(|block| InputBlock { block }).collect(),
        ..QueryRequest::default()
    };
    let text = |text: &str| Some(Block::Text(text.into()));
    let long = "x".repeat(101);
    invalid(&refused(&service, query("a", &long)).await, &["prompt"]);
    invalid(&refused(&service, query("a", "a\0b")).await, &["prompt"]);
    invalid(&refused(&service, query("a", "")).await, &["prompt"]);
    invalid(&refused(&service, blocks(vec![text(&long)])).await, &["content"]);
    let both = QueryRequest { prompt: "hello".into(), ..blocks(vec![text("hello")]) };
    invalid(&refused(&service, both).await, &["prompt"]);
    let broken = blocks(vec![
        None,
        text(""),
        Some(Block::Image(InputMedia::default())),
        Some(Block::Document(InputMedia { media_type: "application/pdf".into(), data: vec![] })),
        Some(Block::BlockJson("[1]".into())),
    ]);
    invalid(
        &refused(&service, broken).await,
        &[
            "content[0]",
            "content[1].text",
            "content[2].image.media_type",
            "content[2].image.data",
            "content[3].document.data",
            "content[4].block_json",
        ],
    );
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_and_options_that_look_like_flags_are_text() {
    let service = Service::start(|_| {}).await;
    let options = SessionOptions {
        model: Some("--version".into()),
        allowed_tools: vec!["--dangerously-skip-permissions".into()],
        ..SessionOptions::default()
    };
    let request = query_with("--resume", &script(&["argv"]), options);
    let argv = service.run(request).await.text();
    assert!(argv.contains(r#""--model=--version""#), "{argv}");
    assert!(argv.contains(r#""--allowedTools=--dangerously-skip-permissions""#), "{argv}");
    assert_eq!(service.query("--resume", "--version").await.result().result, "echo: --version");
    service.stop().await;
}

#[tokio::test]
async fn a_conversation_to_resume_has_a_uuid_and_exists() {
    let service = Service::start(|_| {}).await;
    let resume = |id: &str| SessionOptions { resume: Some(id.into()), ..SessionOptions::default() };
    let title = query_with("a", "hello", resume("/etc/passwd"));
    invalid(&refused(&service, title).await, &["options.resume"]);

    let unknown = Uuid::new_v4().to_string();
    let turn = service.run(query_with("a", "hello", resume(&unknown))).await;
    let metadata = failure(turn.error(), Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(fields(turn.error()), ["options.resume"]);
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["field"], "options.resume");
    // A session that never was does not keep a place.
    crate::support::eventually("the session is gone", async || {
        service.session("a").await.is_err().then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn the_other_rpcs_check_their_fields_too() {
    let service = Service::start(|_| {}).await;
    let mut client = service.client.clone();
    let bad = String::from("a/b");

    invalid(&service.session(&bad).await.expect_err("refused"), &["session_id"]);
    invalid(&service.session("").await.expect_err("refused"), &["session_id"]);
    invalid(&service.close(&bad, false).await.expect_err("refused"), &["session_id"]);
    invalid(
        &service.attach(&bad, "x y", 0).await.expect_err("refused"),
        &["session_id", "turn_id"],
    );

    let request = proto::InterruptRequest { session_id: bad.clone(), ..Default::default() };
    invalid(&client.interrupt(request).await.expect_err("refused"), &["session_id"]);

    let request = proto::RespondRequest { session_id: bad.clone(), ..Default::default() };
    let wanted = ["session_id", "prompt_id", "decision"];
    invalid(&client.respond(request).await.expect_err("refused"), &wanted);

    let allow = proto::PromptAllow {
        updated_input_json: "[]".into(),
        updated_permissions_json: "{}".into(),
    };
    let request = proto::RespondRequest {
        session_id: "a".into(),
        prompt_id: "p".into(),
        decision: Some(proto::respond_request::Decision::Allow(allow)),
    };
    let wanted = ["allow.updated_input_json", "allow.updated_permissions_json"];
    invalid(&client.respond(request).await.expect_err("refused"), &wanted);

    let request = proto::ListSessionsRequest { page_size: 1001, page_token: "?".into() };
    let wanted = ["page_size", "page_token"];
    invalid(&client.list_sessions(request).await.expect_err("refused"), &wanted);

    let options = SessionOptions {
        effort: Some("none".into()),
        resume: Some(Uuid::new_v4().to_string()),
        ..SessionOptions::default()
    };
    let request = proto::UpdateSessionRequest { session_id: bad, options: Some(options) };
    let wanted = ["session_id", "options.effort", "options.resume"];
    invalid(&client.update_session(request).await.expect_err("refused"), &wanted);
    service.stop().await;
}

#[tokio::test]
async fn d6_only_options_that_are_not_set_can_be_reset_each_once() {
    let service = Service::start(|_| {}).await;
    let reset = |names: &[&str]| SessionOptions {
        reset_options: names.iter().map(ToString::to_string).collect(),
        max_turns: Some(3),
        json_schema: Some(String::new()),
        ..SessionOptions::default()
    };
    let names = ["effort", "fork_session", "Model", "", "effort", "max_turns", "json_schema"];
    let status = refused(&service, query_with("a", "hello", reset(&names))).await;
    let wanted =
        ["[1]", "[2]", "[3]", "[4]", "[5]", "[6]"].map(|at| format!("options.reset_options{at}"));
    invalid(&status, &wanted.each_ref().map(String::as_str));
    let details = status.get_error_details();
    let told = &details.bad_request().expect("violations").field_violations;
    for (at, words) in [
        (0, r#"must be one of model, fallback_model, system_prompt, "#),
        (0, r#"is "fork_session""#),
        (3, r#"that is not named before, is "effort""#),
        (4, r#"that the request does not set, is "max_turns""#),
    ] {
        assert!(told[at].description.contains(words), "{words} is not in {:?}", told[at]);
    }
    let many = vec!["model"; 24];
    let update = proto::UpdateSessionRequest {
        session_id: "a".into(),
        options: Some(SessionOptions { max_turns: None, ..reset(&many) }),
    };
    let status = service.client.clone().update_session(update).await.expect_err("refused");
    let bound = "must have at most 23 entries, has 24";
    assert_eq!(fields(&status)[0], "options.reset_options");
    assert!(status.message().contains(bound), "{}", status.message());
    service.stop().await;
}
