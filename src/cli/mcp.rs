//! The tool servers of a session as the CLI sees them: MCP servers inside of the program that
//! runs it (`sdkMcpServers` in `initialize`), spoken to by control requests `mcp_message` over
//! the same pipe as all else. Knows the few methods that the CLI uses.
//!
//! The messages are taken apart here and not by a library of MCP (`rmcp`): what is needed of it
//! is five methods of JSON-RPC, ids and schemas go on byte for byte, and it brings a runtime of
//! services and some thirty crates along that nothing here would use.
//!
//! Observed on 2.1.110, 2.1.197 and 2.1.332:
//! - 2.1.332 sends `initialize` to the servers before it answers its own `initialize`, older
//!   ones after the first prompt; each asks for `tools/list` once before the first prompt.
//! - An interrupt cancels a call by `notifications/cancelled` with the id of the JSON-RPC
//!   request; no `control_cancel_request` comes, and the call needs no answer any more.
//! - `notifications/tools/list_changed` has 2.1.332 ask for the list again, with the next
//!   prompt. Older versions take it and do nothing.
//!
//! What a process has been shown it is shown for as long as it lives: a tool whose backend is
//! away for a moment is called in vain, and says why, where it would otherwise be unknown.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    frame::{Frame, Prompt},
    request::{ControlRequest, control_response},
};
use crate::{
    tasks::spawn_owned,
    tools::{Answer, Content, Progress, SessionTools, Tool},
};

/// Answers of one process that may be under way, open calls of its tools among them.
const MAX_UNDER_WAY: usize = 64;
/// What is spoken where the CLI does not say.
const PROTOCOL: &str = "2025-11-25";
/// Reports of progress that may wait for one call.
const PROGRESS: usize = 4;

/// The tools of one server, by name.
type Tools = BTreeMap<String, Arc<Tool>>;

/// What a process has been shown of each server.
#[derive(Debug, Default)]
struct Shown(Mutex<HashMap<String, Tools>>);

impl Shown {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Tools>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what can be called now to what was shown, and returns all of it.
    fn show(&self, server: &str, now: Tools) -> Tools {
        let mut shown = self.lock();
        let tools = shown.entry(server.to_owned()).or_default();
        tools.extend(now);
        tools.clone()
    }

    /// The servers of which something can be called that was not shown.
    fn outdated(&self, tools: &SessionTools) -> BTreeMap<String, Tools> {
        let shown = self.lock();
        let new = |(server, shown): (&String, &Tools)| {
            let now = tools.list(server);
            let is_new = now.iter().any(|(name, tool)| shown.get(name) != Some(tool));
            is_new.then(|| (server.clone(), now))
        };
        shown.iter().filter_map(new).collect()
    }
}

/// The tool servers of one process. What is under way ends when this is dropped.
#[derive(Debug)]
pub(super) struct Mcp {
    tools: SessionTools,
    outbox: mpsc::WeakSender<Bytes>,
    shown: Arc<Shown>,
    /// Answers under way, by the JSON-RPC id and the server of what they answer.
    under_way: HashMap<(String, String), Task>,
    _notifier: Task,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A control request `mcp_message`.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    server_name: Cow<'a, str>,
    #[serde(borrow)]
    message: Message<'a>,
}

/// A JSON-RPC message. Without an id it is a notification.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CallParams<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow, rename = "requestId")]
    request_id: &'a RawValue,
}

impl Mcp {
    /// Serves `tools` to the process that reads `outbox`.
    pub(super) fn new(tools: SessionTools, outbox: &mpsc::Sender<Bytes>) -> Self {
        let shown = Arc::<Shown>::default();
        let outbox = outbox.downgrade();
        let notifying = notify(tools.clone(), tools.changes(), Arc::clone(&shown), outbox.clone());
        let notifier = Task(spawn_owned(notifying));
        Self { tools, outbox, shown, under_way: HashMap::new(), _notifier: notifier }
    }

    /// Takes a message to one of the servers; returns whether it is one. Its answer is written
    /// when it is there.
    pub(super) fn take(&mut self, frame: &Frame, prompt: &Prompt) -> bool {
        let Ok(Line { request }) = serde_json::from_slice::<Line<'_>>(&frame.raw) else {
            return false;
        };
        let Request { server_name: server, message } = request;
        if !self.tools.has(&server) {
            return false;
        }
        self.under_way.retain(|_, task| !task.0.is_finished());
        let Some(id) = message.id else {
            if message.method == "notifications/cancelled" {
                self.cancel(&server, message.params);
            }
            // The CLI waits for an answer to the frame, and looks for none in it.
            let answer = r#"{"mcp_response":{"jsonrpc":"2.0","id":0,"result":{}}}"#;
            self.send(control_response(&prompt.raw_id, answer));
            return true;
        };
        let answering = Answering { request_id: prompt.raw_id.clone(), id: id.get().to_owned() };
        let params = message.params.map_or("{}", RawValue::get);
        let answered = match message.method.as_ref() {
            "initialize" => Ok(initialized(&server, params).to_string()),
            "ping" => Ok("{}".to_owned()),
            "tools/list" => Ok(listed(&self.shown.show(&server, self.tools.list(&server)))),
            "tools/call" => {
                self.call(&server, answering, params);
                return true;
            }
            method => Err((-32601, format!("the tool server has no method {method:?}"))),
        };
        self.send(answering.line(answered));
        true
    }

    /// Calls a tool. A failure is an answer, too: the model reads it, and goes on.
    fn call(&mut self, server: &str, answering: Answering, params: &str) {
        let Ok(CallParams { name, arguments, meta }) = serde_json::from_str(params) else {
            let problem = "tools/call needs params with the name of a tool".to_owned();
            self.send(answering.line(Err((-32602, problem))));
            return;
        };
        if self.under_way.len() >= MAX_UNDER_WAY {
            let problem = format!("the session has {MAX_UNDER_WAY} calls under way, at most");
            self.send(answering.line(Ok(failed(&problem).to_string())));
            return;
        }
        let key = (server.to_owned(), answering.id.clone());
        let (tools, outbox) = (self.tools.clone(), self.outbox.clone());
        let token = meta.and_then(|meta| meta.progress_token).map(|token| token.get().to_owned());
        let arguments = arguments.map_or("{}", RawValue::get).to_owned();
        let (server, name) = (server.to_owned(), name.into_owned());
        let calling = async move {
            let (progress, mut reports) = mpsc::channel(PROGRESS);
            let mut call = std::pin::pin!(tools.call(&server, &name, &arguments, progress));
            let answered = loop {
                tokio::select! {
                    biased;
                    answered = &mut call => break answered,
                    Some(report) = reports.recv() => {
                        if let Some(token) = &token {
                            let line = told(&server, &progressed(token, &report));
                            send(&outbox, line).await;
                        }
                    }
                }
            };
            let result = match &answered.answer {
                Ok(answer) => result(answer),
                Err(failure) => failed(&failure.to_string()),
            };
            // What it holds of the memory is given back once the CLI reads it.
            send(&outbox, answering.line(Ok(result.to_string()))).await;
        };
        self.under_way.insert(key, Task(spawn_owned(calling)));
    }

    /// The CLI waits for the answer to a call no longer.
    fn cancel(&mut self, server: &str, params: Option<&RawValue>) {
        let cancelled = params.and_then(|params| serde_json::from_str(params.get()).ok());
        if let Some(Cancelled { request_id }) = cancelled {
            self.under_way.remove(&(server.to_owned(), request_id.get().to_owned()));
        }
    }

    /// Sends a line at once, or as soon as there is room.
    fn send(&mut self, line: Bytes) {
        let Some(outbox) = self.outbox.upgrade() else { return };
        let Err(mpsc::error::TrySendError::Full(line)) = outbox.try_send(line) else { return };
        // One that does not read gets no more than so many.
        if self.under_way.len() < MAX_UNDER_WAY {
            let key = (String::new(), uuid::Uuid::new_v4().to_string());
            let outbox = self.outbox.clone();
            let sending = async move { send(&outbox, line).await };
            self.under_way.insert(key, Task(spawn_owned(sending)));
        }
    }
}

/// What an answer names: the control request, and the JSON-RPC request in it.
struct Answering {
    request_id: String,
    id: String,
}

impl Answering {
    fn line(&self, answer: Result<String, (i32, String)>) -> Bytes {
        let id = &self.id;
        let outcome = match answer {
            Ok(result) => format!(r#""result":{result}"#),
            Err((code, message)) => {
                format!(r#""error":{}"#, json!({"code": code, "message": message}))
            }
        };
        let response = format!(r#"{{"mcp_response":{{"jsonrpc":"2.0","id":{id},{outcome}}}}}"#);
        control_response(&self.request_id, &response)
    }
}

async fn send(outbox: &mpsc::WeakSender<Bytes>, line: Bytes) {
    if let Some(outbox) = outbox.upgrade() {
        // A CLI whose input is closed reads nothing.
        outbox.send(line).await.ok();
    }
}

/// Tells the process when there is something to be called that it has not been shown: once for
/// each state of a server, since older versions do not ask for the list again.
async fn notify(
    tools: SessionTools,
    mut changes: watch::Receiver<()>,
    shown: Arc<Shown>,
    outbox: mpsc::WeakSender<Bytes>,
) {
    let mut announced: HashMap<String, Tools> = HashMap::new();
    while changes.changed().await.is_ok() {
        for (server, now) in shown.outdated(&tools) {
            if announced.get(&server) == Some(&now) {
                continue;
            }
            let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
            send(&outbox, told(&server, &changed)).await;
            announced.insert(server, now);
        }
    }
}

/// A message of a server to the CLI, which answers the frame; nobody waits for that.
fn told(server: &str, message: &Value) -> Bytes {
    let request = json!({"subtype": "mcp_message", "server_name": server, "message": message});
    ControlRequest::new(request).line
}

fn initialized(server: &str, params: &str) -> Value {
    let params: Value = serde_json::from_str(params).unwrap_or_default();
    // What is said here is the same in all versions of the protocol.
    let version = params["protocolVersion"].as_str().unwrap_or(PROTOCOL);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": true}},
        "serverInfo": {"name": server, "version": env!("CARGO_PKG_VERSION")},
    })
}

/// A tool as the CLI is shown it, its JSON byte for byte.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a RawValue>,
}

fn listed(tools: &Tools) -> String {
    let listed = |tool: &Arc<Tool>| {
        let Tool { name, description, input_schema, annotations } = &**tool;
        // Nothing in it has keys that are not strings, which is all that can fail.
        let listed =
            Listed { name, description, input_schema, annotations: annotations.as_deref() };
        serde_json::to_string(&listed).unwrap_or_default()
    };
    let tools: Vec<_> = tools.values().map(listed).collect();
    format!(r#"{{"tools":[{}]}}"#, tools.join(","))
}

fn result(answer: &Answer) -> Value {
    let block = |content: &Content| match content {
        Content::Text(text) => json!({"type": "text", "text": text}),
        Content::Image { media_type, data } => {
            json!({"type": "image", "mimeType": media_type, "data": STANDARD.encode(data)})
        }
    };
    let content: Vec<_> = answer.content.iter().map(block).collect();
    json!({"content": content, "isError": answer.is_error})
}

fn failed(problem: &str) -> Value {
    json!({"content": [{"type": "text", "text": problem}], "isError": true})
}

fn progressed(token: &str, report: &Progress) -> Value {
    let Progress { progress, total, message } = report;
    // It was JSON when it came.
    let token: Value = serde_json::from_str(token).unwrap_or_default();
    let mut params = json!({"progressToken": token, "progress": progress});
    if let Some(total) = total {
        params["total"] = json!(total);
    }
    if !message.is_empty() {
        params["message"] = json!(message);
    }
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
}

#[cfg(test)]
mod tests;
