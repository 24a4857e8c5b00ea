use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
    duplex, split,
};

use super::*;
use crate::{
    cli::connection::Connection,
    domain::ids::{SessionId, SessionKey, TenantId},
    tools::{Backend, Message as Told, Offer, Served, ToolServers},
};

/// A CLI, as it speaks to a connection whose session uses the server `shop`.
struct Cli {
    servers: ToolServers,
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    output: WriteHalf<DuplexStream>,
    reading: JoinHandle<()>,
}

impl Drop for Cli {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Cli {
    fn start() -> Self {
        let servers = ToolServers::new(Duration::from_secs(300));
        let (ours, cli) = duplex(1 << 20);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1 << 20);
        let key = SessionKey::new(TenantId::default(), SessionId::parse("s").expect("a name"));
        let names = vec!["shop".to_owned()];
        connection.serve_tools(SessionTools::unbounded(servers.clone(), key, names));
        // Nobody else may see what is between the CLI and its servers.
        let reading = spawn_owned(async move {
            let mut frames = Vec::new();
            while connection.read(&mut frames).await.is_ok() {
                assert!(frames.iter().all(|frame| frame.text().contains("\"x\"")), "{frames:?}");
            }
        });
        let (input, output) = split(cli);
        Self { servers, lines: BufReader::new(input).lines(), output, reading }
    }

    fn offer(&self, names: &[&str]) -> Backend {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let tool = |name: &&str| Tool {
            name: (*name).to_owned(),
            description: "does it".to_owned(),
            input_schema: raw(r#"{"type":"object","n":1.50}"#),
            annotations: Some(raw(r#"{"readOnlyHint":true}"#)),
        };
        let tools = names.iter().map(tool).collect();
        let offer = Offer { server: "shop".to_owned(), tools, sessions: Served::All };
        self.servers.register(&TenantId::default(), offer).expect("room")
    }

    async fn says(&mut self, request_id: &str, server: &str, message: &Value) {
        let line = json!({"type": "control_request", "request_id": request_id, "request":
            {"subtype": "mcp_message", "server_name": server, "message": message}});
        self.output.write_all(format!("{line}\n").as_bytes()).await.expect("written");
    }

    async fn reads(&mut self) -> Value {
        let line = self.lines.next_line().await.expect("open").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What a server answers to a request.
    async fn asks(&mut self, method: &str, params: &Value) -> Value {
        let id = json!("j-1");
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.says("r", "shop", &message).await;
        self.answer_to("r", &id).await
    }

    async fn answer_to(&mut self, request_id: &str, id: &Value) -> Value {
        let line = self.reads().await;
        assert_eq!(line["type"], "control_response");
        let mut response = line["response"].clone();
        assert_eq!(
            (&response["subtype"], &response["request_id"]),
            (&json!("success"), &json!(request_id))
        );
        let answer = response["response"]["mcp_response"].take();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), id));
        answer
    }
}

fn call(id: u32) -> Value {
    let params = json!({"name": "look", "arguments": {"q": "x"}, "_meta": {"progressToken": 7}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

async fn told(backend: &Backend) -> crate::tools::Call {
    match backend.next().await {
        Told::Call(call) => call,
        Told::Cancel { id, reason } => panic!("{id} is cancelled: {reason}"),
    }
}

#[tokio::test]
async fn a_process_finds_its_servers_before_it_has_a_turn() {
    let mut cli = Cli::start();
    let _backend = cli.offer(&["look"]);
    let answer = cli.asks("initialize", &json!({"protocolVersion": "2025-06-18"})).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answer["result"]["capabilities"], json!({"tools": {"listChanged": true}}));
    assert_eq!(answer["result"]["serverInfo"]["name"], "shop");
    let noted = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    cli.says("n", "shop", &noted).await;
    cli.answer_to("n", &json!(0)).await;
    assert_eq!(cli.asks("ping", &json!({})).await["result"], json!({}));
    let answer = cli.asks("tools/list", &json!({})).await;
    let tool = json!({"name": "look", "description": "does it",
        "inputSchema": {"type": "object", "n": 1.5}, "annotations": {"readOnlyHint": true}});
    assert_eq!(answer["result"], json!({"tools": [tool]}));
    let answer = cli.asks("prompts/list", &json!({})).await;
    assert_eq!(answer["error"]["code"], -32601);
    let answer = cli.asks("tools/call", &json!({})).await;
    assert_eq!(answer["error"]["code"], -32602);
}

#[tokio::test]
async fn a_message_to_no_server_is_refused() {
    let mut cli = Cli::start();
    cli.says("x", "other", &call(1)).await;
    let line = cli.reads().await;
    assert_eq!(line["response"]["subtype"], "error", "{line}");
}

#[tokio::test]
async fn a_call_is_answered_with_what_the_tool_gives() {
    let mut cli = Cli::start();
    let backend = cli.offer(&["look"]);
    cli.says("r", "shop", &call(3)).await;
    let given = told(&backend).await;
    assert_eq!((given.tool.as_str(), given.arguments.as_str()), ("look", r#"{"q":"x"}"#));
    // Another message is answered meanwhile.
    cli.asks("ping", &json!({})).await;
    let report = Progress { progress: 1.0, total: Some(2.0), message: "half".to_owned() };
    backend.progress(given.id, report);
    let line = cli.reads().await;
    assert_eq!(
        (&line["type"], &line["request"]["server_name"], &line["request"]["message"]["params"]),
        (
            &json!("control_request"),
            &json!("shop"),
            &json!({"progressToken": 7, "progress": 1.0, "total": 2.0, "message": "half"})
        )
    );
    let image = Content::Image { media_type: "image/png".to_owned(), data: "png".into() };
    let content = vec![Content::Text("two\nlines".to_owned()), image];
    backend.answer(given.id, Ok(Answer { content, is_error: true }));
    let answer = cli.answer_to("r", &json!(3)).await;
    let content = json!([{"type": "text", "text": "two\nlines"},
        {"type": "image", "mimeType": "image/png", "data": "cG5n"}]);
    assert_eq!(answer["result"], json!({"content": content, "isError": true}));
}

#[tokio::test]
async fn a_call_that_fails_says_why_to_the_model() {
    let mut cli = Cli::start();
    cli.says("r", "shop", &call(1)).await;
    let answer = cli.answer_to("r", &json!(1)).await;
    assert_eq!(answer["result"]["isError"], true);
    let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains(r#"nobody serves the tool server "shop""#), "{text}");
}

#[tokio::test]
async fn a_call_ends_when_the_cli_cancels_it_and_when_its_process_goes() {
    let mut cli = Cli::start();
    let backend = cli.offer(&["look"]);
    cli.says("r", "shop", &call(1)).await;
    let given = told(&backend).await;
    let params = json!({"requestId": 1, "reason": "AbortError"});
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
    cli.says("n", "shop", &cancelled).await;
    cli.answer_to("n", &json!(0)).await;
    assert!(matches!(backend.next().await, Told::Cancel { id, .. } if id == given.id));
    cli.says("r", "shop", &call(2)).await;
    let given = told(&backend).await;
    drop(cli);
    assert!(matches!(backend.next().await, Told::Cancel { id, .. } if id == given.id));
}

#[tokio::test]
async fn a_process_is_told_of_new_tools_once_and_keeps_those_that_it_was_shown() {
    let mut cli = Cli::start();
    let first = cli.offer(&["look"]);
    let names = |answer: &Value| {
        let tools = answer["result"]["tools"].as_array().expect("a list").clone();
        tools
            .iter()
            .map(|tool| tool["name"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&cli.asks("tools/list", &json!({})).await), ["look"]);
    drop(first);
    // It is not told of that: the next it reads is of the new tool.
    let _second = cli.offer(&["buy"]);
    let line = cli.reads().await;
    let message = &line["request"]["message"];
    assert_eq!(message["method"], "notifications/tools/list_changed", "{line}");
    let _third = cli.offer(&["buy"]);
    assert_eq!(names(&cli.asks("tools/list", &json!({})).await), ["buy", "look"]);
}
