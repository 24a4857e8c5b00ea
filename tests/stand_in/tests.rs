//! The stand-in over HTTP, with a client that is as plain as it can be.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use axum::http::StatusCode;

use super::{StandIn, Times};

/// The key that the client has.
const KEY: &str = "sk-ant-test";

/// A connection with a request sent; the answer is still to be read.
async fn send(api: &StandIn, head: &str, body: &str) -> TcpStream {
    send_bytes(api, head, KEY, body.as_bytes()).await
}

async fn send_bytes(api: &StandIn, head: &str, key: &str, body: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(api.addr()).await.expect("connects");
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n"
    );
    let sent = connection.write_all(&[request.as_bytes(), body].concat()).await;
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
    let result = |call: &Value, text: &str| {
        let block = json!({ "type": "tool_result", "tool_use_id": call["id"], "content": text });
        json!({ "role": "user", "content": [block] })
    };
    let mut messages = json!([prompt]);
    let mut said = Vec::new();
    for outcome in ["hi", "written", ""] {
        let answer =
            rest(send(&api, "POST /v1/messages", &request("s", false, &messages)).await).await;
        let message = message(&answer);
        said.push((message["stop_reason"].clone(), message["content"][0].clone()));
        let history = messages.as_array_mut().expect("a list");
        history.push(json!({ "role": "assistant", "content": message["content"] }));
        history.push(result(&message["content"][0], outcome));
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

/// Sends a body as it is; the answer's status line and its error.
async fn refusal(api: &StandIn, key: &str, body: &[u8]) -> (String, Value) {
    let answer = rest(send_bytes(api, "POST /v1/messages", key, body).await).await;
    let status = answer.lines().next().unwrap_or_default().to_owned();
    assert!(answer.contains("request-id: req_"), "{answer}");
    (status, message(&answer))
}

#[tokio::test]
async fn a_broken_history_is_refused_in_the_shape_of_the_api_and_noted() {
    let api = start().await;
    let call = json!({ "type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {} });
    let messages = json!([
        { "role": "user", "content": "go" },
        { "role": "assistant", "content": [call] },
        { "role": "user", "content": "and?" },
    ]);
    let (status, error) = refusal(&api, KEY, request("s", true, &messages).as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert_eq!(
        (&error["type"], &error["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
    let said = error["error"]["message"].as_str().expect("a message");
    assert!(said.starts_with("messages.1: `tool_use` ids were found without"), "{said}");
    assert_eq!(api.refused(), [said]);
    let counted =
        rest(send(&api, "POST /v1/messages/count_tokens", &request("s", true, &messages)).await)
            .await;
    assert!(counted.starts_with("HTTP/1.1 400"), "{counted}");
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_body_that_is_no_text_or_has_half_a_character_is_refused() {
    let api = start().await;
    let whole = request("s", false, &json!([{ "role": "user", "content": "<here>" }]));
    let bodies: [&[u8]; 5] = [b"\xff", b"\xed\xa0\xbd", br"\ud83d", br"\udc00", b"\x01"];
    for wrong in bodies {
        let (before, after) = whole.split_once("<here>").expect("a place");
        let body = [before.as_bytes(), wrong, after.as_bytes()].concat();
        let (status, error) = refusal(&api, KEY, &body).await;
        let said = error["error"]["message"].to_string();
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{wrong:?}");
        assert!(said.contains("The request body is not valid JSON"), "{said}");
    }
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn keys_and_outages_are_as_a_test_sets_them() {
    let api = start().await;
    let body = request("s", false, &json!([{ "role": "user", "content": "hi" }]));
    assert!(ask(&api, "s", false, "hi").await.starts_with("HTTP/1.1 200"), "any key is good");
    let (status, error) = refusal(&api, "", body.as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 401 Unauthorized");
    assert_eq!(error["error"]["type"], "authentication_error");
    api.accept_only(&["another"]);
    let (_, error) = refusal(&api, KEY, body.as_bytes()).await;
    assert_eq!(error["error"]["message"], "invalid x-api-key");
    api.accept_only(&["another", KEY]);
    assert!(ask(&api, "s", false, "hi").await.starts_with("HTTP/1.1 200"));
    for (code, kind) in [(429, "rate_limit_error"), (529, "overloaded_error")] {
        let status = StatusCode::from_u16(code).expect("a status");
        api.refuse(status, Some(7), Times::Count(1));
        let answer = ask(&api, "s", false, "hi").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
        assert!(answer.contains("retry-after: 7") && answer.contains(kind), "{answer}");
        assert!(ask(&api, "s", false, "hi").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(api.refused(), [] as [&str; 0], "nothing was wrong with what was sent");
    api.shutdown().await.expect("stops");
}

#[tokio::test]
async fn figures_of_tokens_are_those_of_the_script() {
    let api = start().await;
    let prompt = "[[usage input 11 output 22 cache-read 33 cache-write 44]] [[say hi]]";
    let figures = |usage: &Value| {
        ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]
            .map(|key| usage[key].as_u64().expect("a figure"))
    };
    let whole = message(&ask(&api, "s", false, prompt).await);
    assert_eq!(figures(&whole["usage"]), [11, 22, 33, 44]);
    let stream = ask(&api, "s", true, prompt).await;
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = events.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    let event = |kind: &str| events.iter().find(|event| event["type"] == kind).expect("an event");
    assert_eq!(figures(&event("message_start")["message"]["usage"]), [11, 1, 33, 44]);
    assert_eq!(figures(&event("message_delta")["usage"]), [11, 22, 33, 44]);
    api.shutdown().await.expect("stops");
}
