//! Recorded frames with one value that is not as it should be, wherever it stands.

use std::{collections::HashSet, mem::Discriminant};

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::cli::frame::{Frame, FrameKind, ResultSummary};

/// A frame of each shape that a version of the CLI prints, one a line; `tests/record-frames`
/// makes them.
const V2_1_110: &str = include_str!("../../../tests/frames/2.1.110.ndjson");
const V2_1_197: &str = include_str!("../../../tests/frames/2.1.197.ndjson");
const V2_1_332: &str = include_str!("../../../tests/frames/2.1.332.ndjson");

const PLACE: &str = "@here@";

/// Values that no field expects, as JSON text: of other types, negative, fractional, huge,
/// with half a character, and empty.
const ODD: [&str; 15] = [
    "null",
    "true",
    "-1",
    "1.5",
    "1e400",
    "99999999999999999999999",
    "\"\\ud83d\"",
    "\"429\"",
    "\"\"",
    "[]",
    "[null]",
    "[-1]",
    "{}",
    "{\"\\udc00\":null}",
    "[{\"type\":5}]",
];

/// Those that stand beside the right value, under the same key.
const DOUBLED: [&str; 4] = ["null", "-1", "\"\\ud83d\"", "[{\"type\":5}]"];

/// What a value becomes: its text in its place, together with `,"key":` and another.
#[derive(Debug, Clone)]
enum Spoiling {
    Absent,
    Replaced(String),
    Followed(String),
    Preceded(String),
}

fn spoilings() -> Vec<Spoiling> {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let replaced = ODD.iter().map(|odd| (*odd).to_owned()).chain([deep]).map(Spoiling::Replaced);
    let doubled = DOUBLED.iter().flat_map(|odd| {
        [Spoiling::Followed((*odd).to_owned()), Spoiling::Preceded((*odd).to_owned())]
    });
    [Spoiling::Absent].into_iter().chain(replaced).chain(doubled).collect()
}

/// The members of all objects in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                places(member, &place, found);
                found.push(place);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// A frame with a mark in the place of one of its values.
struct Template {
    text: String,
    without: String,
    name: Value,
    value: String,
}

impl Template {
    fn new(frame: &Value, place: &str) -> Self {
        let (parent, key) = place.rsplit_once('/').expect("a pointer");
        let key = key.replace("~1", "/").replace("~0", "~");
        let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>) -> Option<Value>| {
            let mut frame = frame.clone();
            let members = frame.pointer_mut(parent).and_then(Value::as_object_mut);
            let value = change(members.expect("an object")).expect("there");
            (frame.to_string(), value.to_string())
        };
        let (text, value) = with(&|members| members.insert(key.clone(), PLACE.into()));
        let (without, _) = with(&|members| members.remove(&key));
        Self { text, without, name: key.into(), value }
    }

    fn spoiled(&self, spoiling: &Spoiling) -> String {
        let Self { text, without, name, value } = self;
        let new = match spoiling {
            Spoiling::Absent => return without.clone(),
            Spoiling::Replaced(odd) => odd.clone(),
            Spoiling::Followed(odd) => format!("{value},{name}:{odd}"),
            Spoiling::Preceded(odd) => format!("{odd},{name}:{value}"),
        };
        text.replacen(&format!("\"{PLACE}\""), &new, 1)
    }
}

fn role(kind: &FrameKind) -> std::mem::Discriminant<FrameKind> {
    std::mem::discriminant(kind)
}

fn class_of(kind: &FrameKind) -> Class {
    match kind {
        FrameKind::Result(_) => Class::Result,
        FrameKind::Assistant { .. } => Class::Assistant,
        FrameKind::User { .. } => Class::User,
        FrameKind::StreamEvent => Class::StreamEvent,
        FrameKind::Prompt(_) => Class::Prompt,
        _ => Class::System,
    }
}

fn typed(frame: &Frame) -> Kind {
    let class = class_of(&frame.kind);
    let bytes = match class {
        Class::Prompt => crate::turn::event::prompt_event(None, &frame.raw),
        _ => frame.raw.clone(),
    };
    let event = Event::Frame(class, bytes);
    super::event(1, &event, Payload::Typed).kind.expect("a kind")
}

/// What was not spoiled is told as it was.
fn same_result(before: &ResultSummary, after: &ResultSummary, place: &str) {
    let spoiled = |key: &str| place == key || place.starts_with(&format!("{key}/"));
    if !spoiled("/result") && !spoiled("/errors") {
        assert_eq!(before.text, after.text);
    }
    if !spoiled("/total_cost_usd") {
        assert_eq!(before.total_cost_usd, after.total_cost_usd);
    }
    if !spoiled("/is_error") {
        assert_eq!(before.is_error, after.is_error);
    }
    if !spoiled("/usage") {
        assert_eq!(before.usage, after.usage);
    }
    if !spoiled("/user_message_uuid") && !spoiled("/user_message_uuids") {
        assert_eq!(before.prompt_uuids, after.prompt_uuids);
    }
}

/// What a frame is, as far as it matters which values it may have.
fn nature(frame: &Value) -> String {
    ["/type", "/subtype", "/event/type", "/event/delta/type", "/message/content/0/type"]
        .map(|place| frame.pointer(place).and_then(Value::as_str).unwrap_or_default())
        .join(" ")
}

/// Spoils every value of the recorded frames in every way. A value that several frames of
/// one nature have is spoiled in the first of them.
fn spoil_all(recorded: &str) {
    let spoilings = spoilings();
    let mut done = HashSet::new();
    for line in recorded.lines() {
        let whole: Value = serde_json::from_str(line).expect("JSON");
        let before = Frame::parse(Bytes::from(whole.to_string())).expect("a frame");
        assert!(before.kind != FrameKind::Other || line.contains("lifecycle"), "{line}");
        let mut found = Vec::new();
        places(&whole, "", &mut found);
        // These two alone say what a frame is.
        found.retain(|place| place != "/type" && place != "/subtype");
        if before.kind == FrameKind::Mirror {
            // Its entries are taken as they are.
            found.retain(|place| place.matches('/').count() <= 3);
        }
        found.retain(|place| done.insert((nature(&whole), place.clone())));
        let told = std::mem::discriminant(&typed(&before));
        for place in &found {
            let template = Template::new(&whole, place);
            for spoiling in &spoilings {
                withstands(&before, told, template.spoiled(spoiling), place);
            }
        }
    }
}

/// A frame is told as what it is, with its other values, whatever one of them became.
fn withstands(before: &Frame, told_as: Discriminant<Kind>, spoiled: String, place: &str) {
    let what = || format!("{place} of {}", before.text());
    let after = Frame::parse(Bytes::from(spoiled));
    let after = after.unwrap_or_else(|_| panic!("no frame any more: {}", what()));
    // What became of the CLI or of a task is what such a frame is for.
    if !["/state", "/patch", "/patch/status"].contains(&place) {
        assert_eq!(role(&before.kind), role(&after.kind), "{}", what());
    }
    let told = typed(&after);
    assert_eq!(told_as, std::mem::discriminant(&told), "{}", what());
    if let (FrameKind::Result(before), FrameKind::Result(after)) = (&before.kind, &after.kind) {
        same_result(before, after, place);
        let Kind::Result(told) = told else { panic!("no result: {told:?}") };
        assert_eq!(told.total_cost_usd, after.total_cost_usd.unwrap_or_default(), "{}", what());
        assert_eq!(told.is_error, after.is_error, "{}", what());
    }
}

#[test]
fn d1_d2_no_odd_value_spoils_a_frame_of_2_1_110() {
    spoil_all(V2_1_110);
}

#[test]
fn d1_d2_no_odd_value_spoils_a_frame_of_2_1_197() {
    spoil_all(V2_1_197);
}

#[test]
fn d1_d2_no_odd_value_spoils_a_frame_of_2_1_332() {
    spoil_all(V2_1_332);
}

/// Every kind of frame that the service acts on is among those recorded.
#[test]
fn d1_the_recorded_frames_are_of_every_kind() {
    for recorded in [V2_1_110, V2_1_197, V2_1_332] {
        let kinds = |wanted: &str| recorded.lines().filter(|line| line.contains(wanted)).count();
        for wanted in [
            "\"type\":\"control_response\"",
            "\"subtype\":\"can_use_tool\"",
            "\"type\":\"control_cancel_request\"",
            "\"subtype\":\"init\"",
            "\"subtype\":\"session_state_changed\"",
            "\"subtype\":\"api_retry\"",
            "\"subtype\":\"compact_boundary\"",
            "\"subtype\":\"task_notification\"",
            "\"type\":\"thinking\"",
            "\"type\":\"tool_result\"",
            "\"type\":\"input_json_delta\"",
            "\"subtype\":\"error_max_turns\"",
            "\"structured_output\":",
            "\"type\":\"transcript_mirror\"",
        ] {
            assert!(kinds(wanted) > 0, "no frame with {wanted}");
        }
    }
}

#[test]
fn d1_a_result_without_a_sum_is_told_the_costs_of_its_models() {
    let line = r#"{"type":"result","total_cost_usd":"?","modelUsage":{"a":{"costUSD":0.25},"b":{"costUSD":0.5},"c":7}}"#;
    let frame = Frame::parse(Bytes::from(line)).expect("a frame");
    let Kind::Result(result) = typed(&frame) else { panic!("no result") };
    assert!((result.total_cost_usd - 0.75).abs() < f64::EPSILON);
    assert_eq!(result.extra_json, r#"{"total_cost_usd":"?"}"#);
}

#[test]
fn d1_a_type_that_comes_twice_stays_what_it_was() {
    for line in [r#"{"type":"result","type":null}"#, r#"{"type":{},"type":"result","subtype":7}"#] {
        let frame = Frame::parse(Bytes::from(line)).expect("a frame");
        assert!(matches!(typed(&frame), Kind::Result(_)), "{line}");
    }
}
