//! Tools that callers serve, on the fake CLI: calls out, answers in, and how each of them ends.

use std::time::Duration;

use session_pool::{
    config::Config,
    proto::{
        RegisterTools, SessionOptions, ToolSessions, TurnOrigin, serve_tools_request::Message,
        tool_content::Block,
    },
};
use tonic::{Code, Request, Status};

use crate::support::{
    eventually, failure,
    service::{Service, query_with, script},
    tools::{Backend, offer, words},
    turn::Turn,
};

fn open_to_tools(config: &mut Config) {
    config.policy.tool_servers = true;
}

fn uses(servers: &[&str]) -> SessionOptions {
    let tool_servers = servers.iter().map(|name| (*name).to_owned()).collect();
    SessionOptions { tool_servers, ..SessionOptions::default() }
}

async fn backend(service: &Service, register: RegisterTools) -> Result<Backend, Status> {
    // A connection of its own, which can be cut.
    let mut client = service.another_client().await;
    Backend::open(|stream| async move { client.serve_tools(stream).await })
        .await?
        .register(register)
        .await
}

/// A turn of session `a` that calls the tool `look` of the server `shop`.
async fn calling(service: &Service) -> Turn {
    let prompt = script(&[r#"mcp shop look {"q":"x"}"#, "say after"]);
    service.open(query_with("a", &prompt, uses(&["shop"]))).await.expect("taken")
}

/// What the tool gave, and whether it failed.
fn given(turn: &Turn) -> (String, bool) {
    let result = turn.tool_result();
    (result.text.clone(), result.is_error)
}

#[tokio::test]
async fn a_tool_is_called_and_its_answer_is_its_result() {
    let service = Service::start(open_to_tools).await;
    let mut backend = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    let call = backend.call().await;
    assert_eq!((call.session_id.as_str(), call.tool.as_str()), ("a", "look"));
    assert_eq!(call.arguments_json, r#"{"q":"x"}"#);
    assert!(call.deadline.is_some());
    backend.progress(&call).await;
    backend.answer(&call, words("found"), false).await;
    turn.finish().await;
    assert_eq!(call.turn_id, turn.started().turn_id);
    assert_eq!(given(&turn), ("found".to_owned(), false));
    assert_eq!(turn.result().result, "after");
    // Nothing of what goes to and from tool servers is an event.
    assert!(turn.events.iter().all(|event| !format!("{event:?}").contains("mcp_message")));
    let list = service.query("a", &script(&["mcp-list shop"])).await;
    assert_eq!(list.text(), "look");
    service.stop().await;
}

#[tokio::test]
async fn a_call_that_nobody_can_answer_fails_with_words_and_the_turn_goes_on() {
    let service = Service::start(open_to_tools).await;
    let mut turn = calling(&service).await;
    turn.finish().await;
    let (text, failed) = given(&turn);
    assert!(failed && text.contains(r#"nobody serves the tool server "shop""#), "{text}");
    // The backend dies in the next call, and returns for the one after.
    let mut first = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    first.call().await;
    drop(first);
    turn.finish().await;
    let (text, failed) = given(&turn);
    assert!(failed && text.contains("went away during the call"), "{text}");
    assert_eq!(turn.result().result, "after");
    let mut second = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    let call = second.call().await;
    second.answer(&call, words("back"), true).await;
    turn.finish().await;
    assert_eq!(given(&turn), ("back".to_owned(), true));
    service.stop().await;
}

#[tokio::test]
async fn a_call_has_so_long() {
    let service = Service::start(|config| {
        open_to_tools(config);
        config.policy.tool_call_timeout = Duration::from_millis(200);
    })
    .await;
    let _silent = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    turn.finish().await;
    let (text, failed) = given(&turn);
    assert!(failed && text.contains("did not answer within 200ms"), "{text}");
    assert_eq!(turn.result().result, "after");
    service.stop().await;
}

#[tokio::test]
async fn an_answer_out_of_its_bounds_fails_its_call_alone() {
    let service = Service::start(open_to_tools).await;
    let mut backend = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    let call = backend.call().await;
    backend.answer(&call, vec![Block::ValueJson("{".into())], false).await;
    turn.finish().await;
    let (text, failed) = given(&turn);
    assert!(failed && text.contains("result.content[0].value_json must be JSON"), "{text}");
    assert!(backend.cancelled(&call).await.contains("the result was refused"));
    // One to a call that is over is ignored.
    backend.answer(&call, words("late"), false).await;
    let mut turn = calling(&service).await;
    let call = backend.call().await;
    backend.answer(&call, words("found"), false).await;
    turn.finish().await;
    assert_eq!(given(&turn), ("found".to_owned(), false));
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_cancels_the_call_and_the_session_goes_on() {
    let service = Service::start(open_to_tools).await;
    let mut backend = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    let call = backend.call().await;
    assert!(service.interrupt("a", true).await.interrupted);
    backend.cancelled(&call).await;
    turn.finish().await;
    assert!(turn.result().interrupted);
    // So does the end of the process.
    let _turn = calling(&service).await;
    let call = backend.call().await;
    service.close("a", false).await.expect("closed");
    backend.cancelled(&call).await;
    service.stop().await;
}

#[tokio::test]
async fn two_backends_share_the_calls() {
    let service = Service::start(open_to_tools).await;
    let mut first = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut second = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let prompt = script(&[r#"mcp shop look {}"#, "say after"]);
    let turns: Vec<_> = ["a", "b"].map(|id| query_with(id, &prompt, uses(&["shop"]))).into();
    let mut open = Vec::new();
    for turn in turns {
        open.push(service.open(turn).await.expect("taken"));
    }
    let (one, other) = tokio::join!(first.call(), second.call());
    assert_ne!(one.session_id, other.session_id);
    first.answer(&one, words("one"), false).await;
    second.answer(&other, words("other"), false).await;
    for turn in &mut open {
        turn.finish().await;
        assert!(!given(turn).1);
    }
    service.stop().await;
}

#[tokio::test]
async fn tools_are_closed_by_default_and_fixed_for_a_process() {
    let closed = Service::start(|_| {}).await;
    let refused = backend(&closed, offer("shop", &["look"])).await.err().expect("refused");
    let metadata = failure(&refused, Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(
        (metadata["field"].as_str(), metadata["limit"].as_str()),
        ("register", "none (policy.tool_servers = false)")
    );
    let turn = closed.run(query_with("a", "hello", uses(&["shop"]))).await;
    let metadata = failure(turn.error(), Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(metadata["field"], "options.tool_servers");
    closed.stop().await;

    let service = Service::start(open_to_tools).await;
    let payload = service.run(query_with("a", &script(&["initialize-payload"]), uses(&["shop"])));
    let payload: serde_json::Value = serde_json::from_str(&payload.await.text()).expect("JSON");
    assert_eq!(payload["sdkMcpServers"], serde_json::json!(["shop"]));
    let other = service.run(query_with("a", "hello", uses(&["files"]))).await;
    let metadata = failure(other.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "tool_servers");
    service.stop().await;
}

#[tokio::test]
async fn a_spare_is_given_its_sessions_tools() {
    let service = Service::start(|config| {
        open_to_tools(config);
        config.pool.spares = 1;
    })
    .await;
    eventually("a spare", async || (service.stats().await.spares == 1).then_some(())).await;
    let mut backend = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let mut turn = calling(&service).await;
    let call = backend.call().await;
    backend.answer(&call, words("found"), false).await;
    turn.finish().await;
    assert_eq!(turn.started().origin(), TurnOrigin::CreatedFromSpare);
    assert_eq!(given(&turn), ("found".to_owned(), false));
    service.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_the_contract_ends() {
    let service = Service::start(open_to_tools).await;
    let sessions = Some(ToolSessions::default());
    let nobody = RegisterTools { sessions, ..offer("a b", &["look"]) };
    let refused = backend(&service, nobody).await.err().expect("refused");
    let metadata = failure(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(metadata["field"], "register.server,register.sessions");
    let mut again = backend(&service, offer("shop", &["look"])).await.expect("offered");
    again.say(Message::Register(offer("shop", &["look"]))).await;
    let twice = again.told().await.expect_err("registered twice");
    let metadata = failure(&twice, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(metadata["field"], "register");
    let mut last = backend(&service, offer("shop", &["look"])).await.expect("offered");
    let (stopped, ended) = tokio::join!(service.stop(), last.told());
    assert!(stopped);
    failure(&ended.expect_err("the service stops"), Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn a_stream_has_so_long_to_begin_and_as_long_as_its_caller_likes_to_go_on() {
    let service = Service::start(|config| {
        open_to_tools(config);
        config.server.limits.body_timeout = Duration::from_millis(100);
    })
    .await;
    let limited = async || {
        let mut client = service.another_client().await;
        let open = |stream| async move {
            let mut request = Request::new(stream);
            request.set_timeout(Duration::from_millis(500));
            client.serve_tools(request).await
        };
        Backend::open(open).await.expect("open")
    };
    let late = limited().await.told().await.expect_err("nothing was offered");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("server.limits.body_timeout"), "{late}");
    // On a busy machine the first message may come too late.
    let mut in_time = eventually("an offer in time", async || {
        limited().await.register(offer("shop", &["look"])).await.ok()
    })
    .await;
    let ended = in_time.told().await.expect_err("its own deadline has passed");
    failure(&ended, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    service.stop().await;
}
