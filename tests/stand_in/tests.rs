//! The stand-in over HTTP, with a client that is as plain as it can be.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::StandIn;

/// A connection with a request sent; the answer is still to be read.
async fn send(api: &StandIn, head: &str, body: &str) -> TcpStream {
    let mut connection = TcpStream::connect(api.addr()).await.expect("connects");
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let sent = connection.write_all(request.as_bytes()).await;
    sent.expect("sends");
    connection
}

/// All there is to read; what breaks the connection ends it as well.
async fn rest(mut connection: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = connection.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(session: &str, stream: bool, messages: &Value) -> String {
    json!({
        "model": "claude-test",
        "max_tokens": 100,
        "stream": stream,
        "messages": messages,
        "metadata": { "user_id": json!({ "session_id": session }).to_string() },
    })
    .to_string()
}

async fn ask(api: &StandIn, session: &str, stream: bool, prompt: &str) -> String {
    let messages = json!([{ "role": "user", "content": prompt }]);
    rest(send(api, "POST /v1/messages", &request(session, stream, &messages)).await).await
}

/// The message in a plain answer.
fn message(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

async fn start() -> StandIn {
    StandIn::start().await.expect("starts")
}

#[tokio::test]
async fn a_stream_has_the_events_of_the_api_in_order() {
    let api = start().await;
    let answer = ask(&api, "s", true, "[[think hm]] [[say hi]]").await;
    let mut events: Vec<&str> =
        answer.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    events.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let expected =
        [&["message_start", "ping"], &block[..], &block[..], &["message_delta", "message_stop"]];
    assert_eq!(events, expected.concat());
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_script_goes_on_where_the_tool_results_say() {
    let api = start().await;
    let prompt = json!({ "role": "user", "content": "[[bash echo hi]] [[write /x y]]" });
    let result = |text: &str| json!({ "role": "user", "content": [{ "type": "tool_result", "content": text }] });
    let mut messages = json!([prompt]);
    let mut said = Vec::new();
    for outcome in ["hi", "written", ""] {
        let answer =
            rest(send(&api, "POST /v1/messages", &request("s", false, &messages)).await).await;
        let message = message(&answer);
        said.push((message["stop_reason"].clone(), message["content"][0].clone()));
        let history = messages.as_array_mut().expect("a list");
        history.push(json!({ "role": "assistant", "content": message["content"] }));
        history.push(result(outcome));
    }
    assert_eq!(said[0].0, "tool_use");
    assert_eq!(said[0].1["input"]["command"], "echo hi");
    assert_eq!(said[1].1["name"], "Write");
    assert_eq!(
        said[2],
        (json!("end_turn"), json!({ "type": "text", "text": "Tool said: written" }))
    );
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn sessions_spend_their_own_failures() {
    let api = start().await;
    let prompt = "[[status 529 times 1]] hello";
    for session in ["a", "b"] {
        let refused = ask(&api, session, true, prompt).await;
        assert!(refused.starts_with("HTTP/1.1 529"), "{refused}");
        assert!(refused.contains("overloaded_error"), "{refused}");
        assert!(ask(&api, session, true, prompt).await.contains("message_stop"));
    }
    let limited = ask(&api, "a", true, "[[status 429 retry-after 3]]").await;
    assert!(limited.contains("retry-after: 3"), "{limited}");
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_dropped_stream_ends_behind_what_was_said_and_without_its_end() {
    let api = start().await;
    let answer = ask(&api, "s", true, "[[say hello]] [[drop]]").await;
    assert!(answer.contains("hello") || answer.contains("\"he\""), "{answer}");
    assert!(answer.contains("So far so "), "{answer}");
    assert!(!answer.contains("message_stop") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    let error = ask(&api, "s", true, "[[sse-error]]").await;
    assert!(error.contains("event: error") && !error.contains("message_stop"), "{error}");
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn shutdown_ends_every_silence() {
    let api = start().await;
    let mut silent = Vec::new();
    for place in ["before-headers", "after-headers", "mid"] {
        let messages = json!([{ "role": "user", "content": format!("[[stall {place}]]") }]);
        silent.push(send(&api, "POST /v1/messages", &request(place, true, &messages)).await);
        api.wait_for_request(|request| request.session.as_deref() == Some(place)).await;
    }
    let stopped = tokio::time::timeout(Duration::from_secs(3), api.shutdown()).await;
    stopped.expect("in time").expect("stops");
    for connection in silent {
        assert!(!rest(connection).await.contains("message_stop"));
    }
}

#[tokio::test]
async fn the_record_is_there_over_http_and_can_be_cleared() {
    let api = start().await;
    ask(&api, "a", true, "one").await;
    ask(&api, "b", true, "two").await;
    let unknown = rest(send(&api, "GET /v1/nothing", "").await).await;
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains("not_found_error"),
        "{unknown}"
    );
    assert_eq!(api.requests().len(), 3);
    assert_eq!(api.requests_of("b").len(), 1);
    let listed = message(&rest(send(&api, "GET /_stand_in/requests?session=a", "").await).await);
    assert_eq!(listed[0]["body"]["messages"][0]["content"], "one");
    assert!(listed[0]["arrived_unix_ms"].is_u64() && listed[1].is_null());
    let cleared = rest(send(&api, "DELETE /_stand_in/requests", "").await).await;
    assert!(cleared.starts_with("HTTP/1.1 204"), "{cleared}");
    assert_eq!(api.requests(), []);
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    let refused = StandIn::start_on(([0, 0, 0, 0], 0).into()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("loopback")));
}
