//! Hooks that `initialize` registered: `hook_callback`, as 2.1.332 sends it.

use serde_json::{Value, json};

use crate::frames;
use crate::ids;
use crate::json::object;
use crate::session::{Flow, Session};

impl Session {
    /// Calls the hooks of an event, whatever their matchers, and gives what was answered.
    pub fn hook(&mut self, event: &str, input: &Value) -> Flow<String> {
        let initialize = self.initialize.clone().unwrap_or_default();
        let entries = initialize["hooks"][event].as_array().cloned().unwrap_or_default();
        let callbacks = entries.iter().filter_map(|entry| entry["hookCallbackIds"].as_array());
        let mut answers = Vec::new();
        for callback in callbacks.flatten() {
            let mut told = input.clone();
            told["session_id"] = json!(self.conversation.session);
            told["hook_event_name"] = json!(event);
            let request_id = ids::uuid();
            let tool_use_id = ids::uuid();
            let request = object! {
                "subtype": "hook_callback",
                "callback_id": callback,
                "input": told,
                "tool_use_id": tool_use_id,
            };
            self.frame(&frames::control_request(&request_id, &request));
            self.asking = Some(request_id);
            let answer = self.wait_for_answer();
            self.asking = None;
            answers.push(answer?.map(|answer| answer["response"].to_string()).unwrap_or_default());
        }
        Ok(if answers.is_empty() { "no hook".to_owned() } else { answers.join(" ") })
    }
}
