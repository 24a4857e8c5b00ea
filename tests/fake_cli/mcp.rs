//! Tools of the servers that `initialize` names as `sdkMcpServers`: `mcp_message`, as 2.1.332 sends
//! it, without the handshake of MCP.

use serde_json::{Value, json};

use crate::frames;
use crate::ids;
use crate::json::object;
use crate::session::{Flow, Session};
use crate::turn::Turn;

/// What the tool says when nobody answers for the server.
const CLOSED: &str = "MCP error -32000: Connection closed";

impl Turn {
    /// Uses a tool of a server, and prints what it gives.
    pub fn call(&mut self, session: &mut Session, server: &str, tool: &str, input: &Value) -> Flow {
        let id = ids::prefixed("toolu_");
        let name = format!("mcp__{server}__{tool}");
        self.block(session, frames::tool_use_block(&id, &name, input));
        self.open_tools.push(id.clone());
        let meta = json!({"claudecode/toolUseId": id, "progressToken": 1});
        let params = json!({"name": tool, "arguments": input, "_meta": meta});
        let answer = session.mcp_request(server, 2, "tools/call", &params)?;
        let (text, failed) = match &answer["result"] {
            Value::Null => (answer["error"]["message"].as_str().unwrap_or(CLOSED).to_owned(), true),
            result => (words(&result["content"]), result["isError"] == true),
        };
        self.tool_result(session, &id, &text, failed)
    }
}

/// The texts of an answer; other blocks by their type.
fn words(content: &Value) -> String {
    let blocks = content.as_array().into_iter().flatten();
    let word = |block: &Value| match block["text"].as_str() {
        Some(text) => text.to_owned(),
        None => format!("[{}]", block["type"].as_str().unwrap_or("unknown")),
    };
    blocks.map(word).collect::<Vec<_>>().join("\n")
}

impl Session {
    /// The names of a server's tools.
    pub fn listed(&mut self, server: &str) -> Flow<String> {
        let answer = self.mcp_request(server, 1, "tools/list", &json!({}))?;
        let tools = answer["result"]["tools"].as_array().into_iter().flatten();
        Ok(tools.filter_map(|tool| tool["name"].as_str()).collect::<Vec<_>>().join(" "))
    }

    /// What is answered to a message; null where it is refused.
    fn mcp_request(&mut self, server: &str, id: u64, method: &str, params: &Value) -> Flow<Value> {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.asking = Some(self.mcp_message(server, &message));
        self.calling = Some((server.to_owned(), id));
        let answer = self.wait_for_answer();
        (self.asking, self.calling) = (None, None);
        Ok(answer?.map(|mut answer| answer["response"]["mcp_response"].take()).unwrap_or_default())
    }

    /// Tells a server that nobody waits for the answer any more.
    pub fn cancel_call(&mut self, (server, id): (String, u64)) {
        let params = json!({"requestId": id, "reason": "AbortError: remote-cancel"});
        let method = "notifications/cancelled";
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.mcp_message(&server, &message);
    }

    fn mcp_message(&mut self, server: &str, message: &Value) -> String {
        let id = ids::uuid();
        let request =
            object! { "subtype": "mcp_message", "server_name": server, "message": message };
        self.frame(&frames::control_request(&id, &request));
        id
    }
}
