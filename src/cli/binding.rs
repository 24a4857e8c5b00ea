//! What makes a process that was started ahead, and was told nothing yet, the process of a
//! session: everything that can be bound after the start. Pure.
//!
//! Observed on 2.1.197 and 2.1.330: the first `initialize` fixes the system prompts, the
//! JSON schema, the agents, the hooks and the tool servers; other control requests may come before it and change
//! nothing of that. A model given by `apply_flag_settings` is not tried out with a call of
//! the API, as one given by `set_model` is on 2.1.330. `mcp_set_servers` takes the tool servers of
//! `initialize` away, unless it names them too (2.1.110, 2.1.197 and 2.1.332).

use serde_json::{Map, Value, json};

use super::request::{ControlRequest, Initialize};
use crate::domain::options::Options;

/// A question that any process answers as soon as it is up, and that binds nothing.
pub fn probe() -> ControlRequest {
    ControlRequest::new(json!({"subtype": "get_binary_version"}))
}

/// What the process is told, in this order.
pub fn binding(options: &Options) -> Vec<ControlRequest> {
    let mut requests = vec![Initialize::of(options).request()];
    let mut tell = |request: Value| requests.push(ControlRequest::new(request));
    let settings = flag_settings(options);
    if !settings.is_empty() {
        tell(json!({"subtype": "apply_flag_settings", "settings": settings}));
    }
    if let Some(mode) = &options.permission_mode {
        tell(json!({"subtype": "set_permission_mode", "mode": mode}));
    }
    if let Some(tokens) = options.max_thinking_tokens {
        tell(json!({"subtype": "set_max_thinking_tokens", "max_thinking_tokens": tokens}));
    }
    if let Some(mut servers) = options.mcp_servers.as_ref().and_then(|text| mcp_servers(&text.0)) {
        let hosted = |name: &String| (name.clone(), json!({"type": "sdk", "name": name}));
        servers.extend(options.tool_servers.iter().map(hosted));
        tell(json!({"subtype": "mcp_set_servers", "servers": servers}));
    }
    requests
}

fn flag_settings(options: &Options) -> Map<String, Value> {
    let mut settings = Map::new();
    if let Some(model) = &options.model {
        settings.insert("model".to_owned(), json!(model));
    }
    if let Some(level) = &options.effort {
        settings.insert("effortLevel".to_owned(), json!(level));
    }
    if !options.env.0.is_empty() {
        settings.insert("env".to_owned(), json!(options.env.0));
    }
    settings
}

/// The servers in what `--mcp-config` takes.
fn mcp_servers(text: &str) -> Option<Map<String, Value>> {
    // Checked where it came in.
    let config: Map<String, Value> = serde_json::from_str(text).ok()?;
    match config.get("mcpServers") {
        Some(servers) => servers.as_object().cloned(),
        None => Some(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        hook::{DEFAULT_TIMEOUT, Hook},
        redacted::Redacted,
    };

    fn told(options: &Options) -> Vec<Value> {
        let request = |request: ControlRequest| {
            let line: Value = serde_json::from_slice(&request.line).expect("JSON");
            assert_eq!(line["request_id"], request.id);
            line["request"].clone()
        };
        binding(options).into_iter().map(request).collect()
    }

    #[test]
    fn without_options_there_is_nothing_but_initialize() {
        assert_eq!(told(&Options::default()), [json!({"subtype": "initialize", "hooks": {}})]);
    }

    #[test]
    fn what_can_be_bound_late_and_what_only_a_start_can_give_are_all_options() {
        let text = |text: &str| Some(text.to_owned());
        let stop =
            Hook { event: "Stop".to_owned(), matcher: String::new(), timeout: DEFAULT_TIMEOUT };
        let late = Options {
            model: text("m"),
            system_prompt: text("sp"),
            append_system_prompt: text("asp"),
            permission_mode: text("plan"),
            max_thinking_tokens: Some(7),
            effort: text("low"),
            mcp_servers: Some(Redacted(r#"{"mcpServers": {"x": {"command": "c"}}}"#.into())),
            agents: text("{}"),
            json_schema: text("{}"),
            tool_servers: vec!["t".to_owned()],
            hooks: vec![stop],
            env: Redacted([("A".to_owned(), "b".to_owned())].into()),
            ..Options::default()
        };
        assert_eq!(late.at_start(), Options::default());
        for name in Options::names().filter(|name| !Options::is_for_start(name)) {
            assert!(late.says(name), "{name} is not among those that are told");
        }
        assert_eq!(
            told(&late),
            [
                json!({"subtype": "initialize", "systemPrompt": ["sp"], "hooks":
                    {"Stop": [{"hookCallbackIds": ["0 Stop 60000 "], "timeout": 120}]},
                    "appendSystemPrompt": "asp", "jsonSchema": {}, "agents": {},
                    "sdkMcpServers": ["t"]}),
                json!({"subtype": "apply_flag_settings",
                    "settings": {"model": "m", "effortLevel": "low", "env": {"A": "b"}}}),
                json!({"subtype": "set_permission_mode", "mode": "plan"}),
                json!({"subtype": "set_max_thinking_tokens", "max_thinking_tokens": 7}),
                json!({"subtype": "mcp_set_servers", "servers":
                    {"x": {"command": "c"}, "t": {"type": "sdk", "name": "t"}}}),
            ]
        );
        let early = Options {
            permission_mode: text("bypassPermissions"),
            tools: vec![String::new()],
            ..Options::default()
        };
        assert_eq!(early.at_start(), early);
    }
}
