//! Control requests: what each is answered, and what it changes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::args::{Args, PERMISSION_MODES};
use crate::frames;
use crate::ids;
use crate::json::{Json, Object, object};
use crate::session::{Flow, Session, Stop};

const DEFAULT_MODEL: &str = "claude-opus-5-5";

/// What control requests can change on a running process.
pub struct Settings {
    pub model: String,
    pub permission_mode: String,
    /// What `apply_flag_settings` gave, one on top of the other.
    flags: Map<String, Value>,
    /// Variables set by `apply_flag_settings`; the CLI has no way to unset one.
    env: BTreeMap<String, String>,
    pub mcp_servers: Vec<String>,
}

impl Settings {
    pub fn new(args: &Args) -> Self {
        Self {
            model: args.model.clone().unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            permission_mode: args.permission_mode.clone().unwrap_or_else(|| "default".to_owned()),
            flags: Map::new(),
            env: BTreeMap::new(),
            mcp_servers: Vec::new(),
        }
    }

    /// The variable as a tool of the CLI would see it.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned().or_else(|| std::env::var(name).ok())
    }

    fn apply(&mut self, settings: &Map<String, Value>) {
        for (name, value) in settings.get("env").and_then(Value::as_object).into_iter().flatten() {
            self.env.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        if let Some(model) = settings.get("model").and_then(Value::as_str) {
            model.clone_into(&mut self.model);
        }
        self.flags.extend(settings.clone());
    }
}

/// What a control request is answered.
enum Answer {
    Success(Option<Json>),
    Error { text: String, code: &'static str },
    Silence,
}

impl Answer {
    fn value(value: &Value) -> Self {
        Self::Success(Some(Json(value.to_string())))
    }
}

impl Session {
    /// Answers a control request and does what it says. An interrupt that is granted stops the running turn.
    pub fn answer_control(&mut self, id: &Value, request: &Value) -> Flow {
        let subtype = request["subtype"].as_str().unwrap_or("undefined");
        if subtype == "interrupt" {
            return self.interrupt(id, request);
        }
        let answer = self.handle(subtype, request);
        self.respond(id, &answer);
        if subtype == "set_permission_mode" && matches!(answer, Answer::Success(_)) {
            self.tell_permission_mode();
        }
        Ok(())
    }

    fn handle(&mut self, subtype: &str, request: &Value) -> Answer {
        match subtype {
            "initialize" => self.initialize(request),
            "set_model" => self.set_model(request),
            "set_permission_mode" => self.set_permission_mode(request),
            "set_max_thinking_tokens" => Answer::Success(None),
            "apply_flag_settings" => {
                if let Some(settings) = request["settings"].as_object() {
                    self.settings.apply(settings);
                }
                Answer::Success(None)
            }
            "mcp_set_servers" => self.mcp_set_servers(request),
            "mcp_status" => {
                let server = |name: &String| json!({"name": name, "status": "connected"});
                let servers: Vec<Value> = self.settings.mcp_servers.iter().map(server).collect();
                Answer::value(&json!({ "mcpServers": servers }))
            }
            "get_settings" => Answer::value(&json!({
                "effective": self.settings.flags,
                "sources": [{"source": "flagSettings", "settings": self.settings.flags}],
                "applied": {"model": self.settings.model, "effort": self.settings.flags.get("effortLevel")},
            })),
            "get_session_cost" => Answer::value(&json!({"text": self.ledger.in_words()})),
            "get_binary_version" => Answer::value(
                &json!({"version": frames::VERSION, "buildTime": "2026-11-20T17:34:37Z"}),
            ),
            "stop_task" => {
                let id = request["task_id"].as_str().unwrap_or_default();
                if self.stop_background_task(id) {
                    Answer::Success(None)
                } else {
                    let text = format!("No task found with ID: {id}");
                    Answer::Error { text, code: "not_found" }
                }
            }
            "cancel_async_message" => {
                let cancelled = self.cancel_queued(request["message_uuid"].as_str());
                Answer::value(&json!({ "cancelled": !cancelled.is_empty() }))
            }
            _ => Answer::Error {
                text: format!("Unsupported control request subtype: {subtype}"),
                code: "unsupported_request",
            },
        }
    }

    fn initialize(&mut self, request: &Value) -> Answer {
        if !self.answers_initialize {
            return Answer::Silence;
        }
        self.initialize.get_or_insert_with(|| request.clone());
        let levels = ["low", "medium", "high"];
        Answer::value(&json!({
            "commands": [{"name": "compact", "description": "Free up context", "argumentHint": "", "builtin": true}],
            "agents": [{"name": "general-purpose", "description": "General-purpose agent"}],
            "output_style": "default",
            "available_output_styles": ["default", "Concise", "Explanatory"],
            "models": [{
                "value": "default", "resolvedModel": DEFAULT_MODEL, "displayName": "Default (recommended)",
                "description": "Use the default model", "supportsEffort": true, "supportedEffortLevels": levels,
            }],
            "account": {"tokenSource": "none", "apiKeySource": "ANTHROPIC_API_KEY", "apiProvider": "firstParty"},
            "pid": std::process::id(),
            "claude_code_version": frames::VERSION,
            "current_permission_mode": self.settings.permission_mode,
            "hook_on_failure_supported": true,
            "analytics_disabled": true,
            "sandbox_enabled": false,
            "fast_mode_state": "off",
            "session_state": if self.busy { "running" } else { "idle" },
            "capabilities": ["ui_surface_v1"],
        }))
    }

    fn set_model(&mut self, request: &Value) -> Answer {
        request["model"].as_str().unwrap_or(DEFAULT_MODEL).clone_into(&mut self.settings.model);
        let model = self.settings.model.clone();
        // A used conversation gets a note of it, even between two turns.
        if !self.conversation.prompts.is_empty() {
            let words =
                format!("<local-command-stdout>Set model to `{model}`</local-command-stdout>");
            let frame = frames::replay(&self.conversation.session, &ids::uuid(), &words);
            self.frame(&frame);
        }
        Answer::Success(Some(object! { "model": model }))
    }

    fn set_permission_mode(&mut self, request: &Value) -> Answer {
        let mode = request["mode"].as_str().unwrap_or_default();
        if !PERMISSION_MODES.contains(&mode) {
            let modes = PERMISSION_MODES.join(", ");
            let text = format!("Cannot set permission mode: must be one of {modes}");
            return Answer::Error { text, code: "invalid_mode" };
        }
        if mode == "bypassPermissions" && !self.args.may_bypass_permissions {
            let text = "Cannot set permission mode to bypassPermissions because the session was not launched with --dangerously-skip-permissions";
            return Answer::Error { text: text.to_owned(), code: "bypass_not_launched" };
        }
        mode.clone_into(&mut self.settings.permission_mode);
        Answer::Success(Some(object! { "mode": mode }))
    }

    fn tell_permission_mode(&mut self) {
        let mode = frames::text(&self.settings.permission_mode);
        let fields = [("status", Json("null".to_owned())), ("permissionMode", mode)];
        let frame = frames::system(&self.conversation.session, "status", &fields);
        self.frame(&frame);
    }

    fn mcp_set_servers(&mut self, request: &Value) -> Answer {
        let servers = request["servers"].as_object();
        let wanted: Vec<String> =
            servers.map(|map| map.keys().cloned().collect()).unwrap_or_default();
        let had = std::mem::replace(&mut self.settings.mcp_servers, wanted.clone());
        let without = |list: &[String], other: &[String]| -> Vec<String> {
            list.iter().filter(|name| !other.contains(name)).cloned().collect()
        };
        Answer::value(&json!({
            "added": without(&wanted, &had),
            "removed": without(&had, &wanted),
            "errors": {},
        }))
    }

    /// Takes waiting messages back, one or all; returns the uuids of those that have one.
    fn cancel_queued(&mut self, only: Option<&str>) -> Vec<String> {
        let hit = |uuid: &Option<String>| only.is_none() || uuid.as_deref() == only;
        let (gone, stay) =
            std::mem::take(&mut self.queue).into_iter().partition(|message| hit(&message.uuid));
        self.queue = stay;
        let gone: std::collections::VecDeque<crate::incoming::UserMessage> = gone;
        let uuids: Vec<String> = gone.into_iter().filter_map(|message| message.uuid).collect();
        for uuid in &uuids {
            self.lifecycle(Some(uuid), "cancelled");
        }
        uuids
    }

    fn interrupt(&mut self, id: &Value, request: &Value) -> Flow {
        if self.deaf {
            return Ok(());
        }
        let lost = self.busy && self.lose_interrupts > 0;
        if lost {
            self.lose_interrupts -= 1;
        }
        let granted = self.busy && !lost;
        if granted && let Some(call) = self.calling.take() {
            self.asking = None;
            self.cancel_call(call);
        }
        if granted && let Some(asked) = self.asking.take() {
            self.frame(&frames::control_cancel_request(&asked));
        }
        let cancelled = (request["cancel_queued"] == true).then(|| self.cancel_queued(None));
        let waiting: Vec<&str> =
            self.queue.iter().filter_map(|message| message.uuid.as_deref()).collect();
        let mut receipt = Object::new();
        receipt.put("still_queued", &waiting).put_some("cancelled", cancelled.as_ref());
        self.respond(id, &Answer::Success(Some(receipt.finish())));
        if granted { Err(Stop::Interrupted) } else { Ok(()) }
    }

    fn respond(&mut self, id: &Value, answer: &Answer) {
        let mut response = Object::new();
        match answer {
            Answer::Success(payload) => {
                response
                    .put("subtype", "success")
                    .put("request_id", id)
                    .put_some("response", payload.as_ref());
            }
            Answer::Error { text, code } => {
                response
                    .put("subtype", "error")
                    .put("request_id", id)
                    .put("error", text)
                    .put("error_code", *code);
            }
            Answer::Silence => return,
        }
        self.frame(&object! { "type": "control_response", "response": response.finish() });
    }
}
