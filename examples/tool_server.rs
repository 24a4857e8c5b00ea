//! A tool server in Rust: offers a tool `temperature` to all sessions, and answers its calls.
//!
//! ```sh
//! cargo run --example tool_server -- weather
//! ```
//!
//! The service needs `policy.tool_servers = true`, and a session `options.tool_servers =
//! ["weather"]`. `SESSION_POOL_SERVER` is the service's address (default
//! `http://127.0.0.1:50051`). See `docs/tools.md`.

use std::{collections::HashMap, env, process::ExitCode, time::Duration};

use session_pool::proto::{
    RegisterTools, ServeToolsRequest, Tool, ToolCall, ToolContent, ToolResult, ToolSessions,
    serve_tools_request::Message, serve_tools_response::Message as Told,
    session_pool_service_client::SessionPoolServiceClient, tool_content::Block,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

fn register(server: String) -> RegisterTools {
    let schema = r#"{"type": "object", "properties": {"city": {"type": "string"}},
        "required": ["city"]}"#;
    let temperature = Tool {
        name: "temperature".to_owned(),
        description: "The temperature in a city, in degrees Celsius.".to_owned(),
        input_schema_json: schema.to_owned(),
        annotations_json: r#"{"readOnlyHint": true}"#.to_owned(),
    };
    let sessions = Some(ToolSessions { all: true, ids: Vec::new() });
    RegisterTools { server, tools: vec![temperature], sessions }
}

/// The tool itself. An error is told to the model, which may try again.
async fn temperature(arguments_json: &str) -> Result<String, String> {
    let arguments: serde_json::Value =
        serde_json::from_str(arguments_json).map_err(|error| error.to_string())?;
    match arguments["city"].as_str() {
        Some("Atlantis") => Err("there is no city Atlantis".to_owned()),
        Some("Godot") => {
            // Waits to be cancelled.
            sleep(Duration::from_secs(3600)).await;
            Err("nobody came".to_owned())
        }
        Some(city) => Ok(format!("{} degrees in {city}", 10 + city.len())),
        None => Err("the argument city is missing".to_owned()),
    }
}

async fn answer(call: ToolCall) -> ServeToolsRequest {
    let given = temperature(&call.arguments_json).await;
    let is_error = given.is_err();
    let text = given.unwrap_or_else(|problem| problem);
    let content = vec![ToolContent { block: Some(Block::Text(text)) }];
    said(Message::Result(ToolResult { call_id: call.call_id, content, is_error }))
}

fn said(message: Message) -> ServeToolsRequest {
    ServeToolsRequest { message: Some(message) }
}

async fn serve(server: String) -> Result<(), Box<dyn std::error::Error>> {
    let address = env::var("SESSION_POOL_SERVER");
    let address = address.unwrap_or_else(|_| "http://127.0.0.1:50051".to_owned());
    let mut client = SessionPoolServiceClient::connect(address).await?;
    let (requests, stream) = mpsc::channel(16);
    requests.send(said(Message::Register(register(server)))).await?;
    let mut told = client.serve_tools(ReceiverStream::new(stream)).await?.into_inner();
    // Each call in a task of its own: a slow one holds up no other, and can be cancelled.
    let (mut calls, mut open) = (JoinSet::new(), HashMap::new());
    loop {
        tokio::select! {
            response = told.message() => match response?.and_then(|response| response.message) {
                Some(Told::Registered(_)) => println!("registered"),
                Some(Told::Call(call)) => {
                    println!("call of {} by session {}", call.tool, call.session_id);
                    let id = call.call_id.clone();
                    open.insert(id, calls.spawn(answer(call)));
                }
                Some(Told::Cancel(cancel)) => {
                    println!("cancelled: {}", cancel.reason);
                    if let Some(call) = open.remove(&cancel.call_id) {
                        call.abort();
                    }
                }
                None => return Ok(()),
            },
            Some(answered) = calls.join_next() => {
                // One that was cancelled has no answer.
                let Ok(answer) = answered else { continue };
                if let Some(Message::Result(result)) = &answer.message {
                    open.remove(&result.call_id);
                }
                requests.send(answer).await?;
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(server) = env::args().nth(1) else {
        eprintln!("tool_server: the name of the tool server is needed");
        return ExitCode::from(2);
    };
    match serve(server).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Status>() {
            Some(status) => eprintln!("tool_server: {}", status.message()),
            None => eprintln!("tool_server: {error}"),
        },
    }
    ExitCode::FAILURE
}
