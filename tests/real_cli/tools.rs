//! Tools that callers serve, as the real CLI uses them: what the model is told of each end of a
//! call, by the requests that the API gets, and what their backend hears.

use serde_json::{Value, json};
use session_pool::proto::{
    PromptAllow, PromptKind, QueryRequest, SessionOptions, TurnOrigin, respond_request::Decision,
    tool_content::Block, turn_event::Kind,
};

use crate::{
    bed::{Bed, Version, each_version, init, origin},
    support::{
        eventually,
        service::query_with,
        tools::{Backend, offer, pixel, words},
        turn::Turn,
    },
};

each_version!(pinned:
    the_model_is_told_what_a_tool_gives,
    the_model_is_told_why_a_tool_gives_nothing,
    a_tool_asks_like_any_other_and_a_spare_has_it,
);

const LOOK: &str = r#"[[tool mcp__shop__look {"q":"x"}]] [[say after]]"#;

async fn bed(version: Version) -> Bed {
    Bed::with(version, |config| {
        config.policy.tool_servers = true;
        config.policy.mcp_servers = session_pool::config::McpServers::Remote;
    })
    .await
}

async fn backend(bed: &Bed, tools: &[&str]) -> Backend {
    let mut client = bed.service.another_client().await;
    let open = Backend::open(|stream| async move { client.serve_tools(stream).await });
    open.await.expect("open").register(offer("shop", tools)).await.expect("offered")
}

fn options(allowed: &[&str]) -> SessionOptions {
    SessionOptions {
        tool_servers: vec!["shop".into()],
        allowed_tools: allowed.iter().map(|rule| (*rule).to_owned()).collect(),
        ..SessionOptions::default()
    }
}

fn looking() -> QueryRequest {
    query_with("a", LOOK, options(&["mcp__shop__look"]))
}

/// What the API was told that the tool gave.
fn given(bed: &Bed, turn: &Turn) -> Value {
    let request = bed.last_request(&turn.started().cli_session_id);
    let messages = request.body["messages"].as_array().expect("messages").clone();
    let mut blocks = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    blocks.rfind(|block| block["type"] == "tool_result").expect("a tool result").clone()
}

/// Runs a turn whose tool is answered with this.
async fn answered(bed: &Bed, backend: &mut Backend, blocks: Vec<Block>, failed: bool) -> Value {
    let mut turn = bed.open(looking()).await;
    let call = backend.call().await;
    assert_eq!(serde_json::from_str::<Value>(&call.arguments_json).ok(), Some(json!({"q": "x"})));
    backend.progress(&call).await;
    backend.answer(&call, blocks, failed).await;
    turn.finish().await;
    assert_eq!((call.session_id.as_str(), &call.turn_id), ("a", &turn.started().turn_id));
    assert_eq!(turn.result().result, "after");
    given(bed, &turn)
}

async fn the_model_is_told_what_a_tool_gives(version: Version) {
    let bed = bed(version).await;
    let mut backend = backend(&bed, &["look"]).await;
    let text = answered(&bed, &mut backend, words("found"), false).await;
    assert!(text["content"].to_string().contains("found") && text["is_error"] != true, "{text}");
    let image = vec![Block::Text("see".to_owned()), pixel()];
    let image = answered(&bed, &mut backend, image, false).await;
    let blocks = image["content"].as_array().expect("blocks");
    let source = blocks.iter().find(|block| block["type"] == "image").expect("an image");
    assert_eq!(source["source"]["media_type"], "image/png");
    let value = vec![Block::ValueJson(r#"{"n": 1.50}"#.to_owned())];
    let value = answered(&bed, &mut backend, value, false).await;
    assert!(value["content"].to_string().contains("1.50"), "{value}");
    let error = answered(&bed, &mut backend, words("out of order"), true).await;
    let said = error["content"].to_string();
    assert!(said.contains("out of order") && error["is_error"] == true, "{error}");
    bed.stop().await;
}

async fn the_model_is_told_why_a_tool_gives_nothing(version: Version) {
    let bed = bed(version).await;
    let mut first = backend(&bed, &["look"]).await;
    // Interrupted in the call, which is cancelled; the session goes on.
    let mut turn = bed.open(looking()).await;
    let call = first.call().await;
    assert!(bed.service.interrupt("a", true).await.interrupted);
    first.cancelled(&call).await;
    turn.finish().await;
    assert!(turn.result().interrupted);
    // The backend dies in the call; nobody is there; it returns.
    let mut turn = bed.open(looking()).await;
    first.call().await;
    drop(first);
    turn.finish().await;
    assert_eq!(origin(&turn), TurnOrigin::Reused);
    let gone = given(&bed, &turn).to_string();
    assert!(
        gone.contains("went away during the call") && gone.contains("\"is_error\":true"),
        "{gone}"
    );
    let nobody = bed.run(looking()).await;
    let text = given(&bed, &nobody).to_string();
    assert!(text.contains("nobody serves the tool server"), "{text}");
    let mut second = backend(&bed, &["look"]).await;
    let back = answered(&bed, &mut second, words("back"), false).await;
    assert!(back["content"].to_string().contains("back"), "{back}");
    bed.stop().await;
}

async fn a_tool_asks_like_any_other_and_a_spare_has_it(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.tool_servers = true;
        config.policy.mcp_servers = session_pool::config::McpServers::Remote;
        config.pool.spares = 1;
    })
    .await;
    eventually("a spare", async || (bed.service.stats().await.spares == 1).then_some(())).await;
    let mut first = backend(&bed, &["look"]).await;
    // Other servers beside it, which a spare is given in a request of its own.
    let none = r#"{"mcpServers":{"none":{"type":"http","url":"http://127.0.0.1:9/"}}}"#;
    let options = SessionOptions { mcp_servers: Some(none.into()), ..options(&[]) };
    let mut turn = bed.open(query_with("a", LOOK, options)).await;
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { unreachable!("just seen") };
    assert_eq!(
        (prompt.kind(), prompt.tool_name.as_str()),
        (PromptKind::ToolPermission, "mcp__shop__look")
    );
    bed.respond("a", &prompt.prompt_id, Decision::Allow(PromptAllow::default()))
        .await
        .expect("taken");
    let call = first.call().await;
    first.answer(&call, words("found"), false).await;
    turn.finish().await;
    assert_eq!(origin(&turn), TurnOrigin::CreatedFromSpare);
    let shown = init(&turn);
    assert!(shown.tools.iter().any(|tool| tool == "mcp__shop__look"), "{:?}", shown.tools);
    let status = shown.mcp_servers.iter().find(|server| server.name == "shop");
    assert_eq!(status.expect("listed").status, "connected");
    assert!(given(&bed, &turn)["content"].to_string().contains("found"));
    bed.stop().await;
}
