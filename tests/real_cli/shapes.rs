//! The keys of the fake CLI's frames beside those of the real 2.1.332's.
//!
//! A key of the fake that the real CLI never prints is a mistake of the fake's, unless
//! [`ADDED`] says why not. A key that the real CLI always prints and the fake does not
//! is one too, unless [`LEFT_OUT`] says why not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{bed::json, support::turn::Turn};

/// What the real CLI always prints here and the fake leaves out: beginnings of paths,
/// and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("assistant failed:.message.usage.", "all null or zero; there was no API call"),
    ("assistant failed:.request_id", "the id of a request, and the fake makes none"),
    ("assistant text:.message.usage.service_tier", "the API's word, not the CLI's"),
    ("assistant thinking:.message.usage.service_tier", "the API's word, not the CLI's"),
    ("assistant tool_use:.message.usage.service_tier", "the API's word, not the CLI's"),
    ("assistant thinking:.thinking_", "for display: how long it thought"),
    ("system status:.user_message_uuids", "says nothing that the lifecycle frames do not"),
    ("user tool_result:.tool_result_meta", "for display"),
    ("reply initialize:.fast_mode_disabled_reason", "the service reads none of the reply"),
    ("reply initialize:.feedback_mode", "the same"),
    ("reply initialize:.hooks_", "the same"),
    ("reply initialize:.ide_rc_auto_enable_gate", "the same"),
    ("reply initialize:.other_hook_ask_outranks_host", "the same"),
    ("reply initialize:.remote_control_", "the same"),
    ("reply initialize:.user_output_styles_dir", "the same"),
];

/// What the fake prints and the real CLI was not seen to, and why.
const ADDED: &[(&str, &str)] =
    &[("assistant thinking:.user_message_uuid", "the fake names the prompt in every message")];

/// For each kind of frame: the keys seen, and those seen in every one.
#[derive(Debug, Default)]
pub struct Shapes(pub BTreeMap<String, Shape>);

#[derive(Debug)]
pub struct Shape {
    seen: BTreeSet<String>,
    always: BTreeSet<String>,
}

impl Shapes {
    pub fn add(&mut self, kind: String, value: &Value) {
        let mut keys = BTreeSet::new();
        collect(value, "", &mut keys);
        let shape = self
            .0
            .entry(kind)
            .or_insert_with(|| Shape { seen: BTreeSet::new(), always: keys.clone() });
        shape.always.retain(|key| keys.contains(key));
        shape.seen.extend(keys);
    }

    pub fn add_turn(&mut self, turn: &Turn) {
        // What the service itself says is no frame of the CLI.
        for event in turn.events.iter().filter(|event| !event.json.is_empty()) {
            let frame = json(&event.json);
            self.add(kind(&frame), &frame);
        }
    }
}

/// What a frame is, as far as its keys depend on it.
fn kind(frame: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = word(&frame["type"]);
    let detail = match kind.as_str() {
        "system" => word(&frame["subtype"]),
        "stream_event" => word(&frame["event"]["type"]),
        "control_request" => word(&frame["request"]["subtype"]),
        "command_lifecycle" => String::new(),
        "assistant" if frame["aborted"] == true => "aborted".into(),
        "assistant" if frame["error"].is_string() => "failed".into(),
        "assistant" | "user" => word(&frame["message"]["content"][0]["type"]),
        "result" if frame["api_error_status"].is_number() => "api error".into(),
        "result" => word(&frame["subtype"]),
        _ => String::new(),
    };
    format!("{kind} {detail}").trim().to_owned()
}

/// The paths of an object's keys, those of the structures of the protocol included.
fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    const INNER: [&str; 8] = [
        ".message",
        ".message.content[]",
        ".message.usage",
        ".event",
        ".event.delta",
        ".request",
        ".usage",
        ".permission_denials[]",
    ];
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match value {
            Value::Array(items) if INNER.contains(&format!("{path}[]").as_str()) => {
                for item in items {
                    collect(item, &format!("{path}[]"), keys);
                }
            }
            value if INNER.contains(&path.as_str()) => collect(value, &path, keys),
            _ => {}
        }
        keys.insert(path);
    }
}

/// Names what is different and not left out on purpose.
pub fn differences(real: &Shapes, fake: &Shapes) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, shape) in &fake.0 {
        let Some(real) = real.0.get(kind) else {
            found.push(format!("only the fake prints {kind}: {:?}", shape.seen));
            continue;
        };
        let made_up = shape.seen.difference(&real.seen).map(|key| ("made up", ADDED, key));
        let missing = real.always.difference(&shape.always).map(|key| ("missing", LEFT_OUT, key));
        for (what, on_purpose, key) in made_up.chain(missing) {
            let path = format!("{kind}:{key}");
            if !on_purpose.iter().any(|(beginning, _)| path.starts_with(beginning)) {
                found.push(format!("{what}: {path}"));
            }
        }
    }
    found
}
