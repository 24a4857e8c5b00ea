//! Recorded frames with one value that is not as it should be, wherever it stands.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::cli::frame::{Frame, FrameKind, ResultSummary};

/// Frames of the real CLI; the first byte of each file is no part of it.
const RECORDED: [&[u8]; 8] = [
    include_bytes!("../../../tests/fuzz/corpus/frames/result-7"),
    include_bytes!("../../../tests/fuzz/corpus/frames/result-8"),
    include_bytes!("../../../tests/fuzz/corpus/frames/assistant-2"),
    include_bytes!("../../../tests/fuzz/corpus/frames/user-3"),
    include_bytes!("../../../tests/fuzz/corpus/frames/user-4"),
    include_bytes!("../../../tests/fuzz/corpus/frames/stream_event-5"),
    include_bytes!("../../../tests/fuzz/corpus/frames/control_request-6"),
    include_bytes!("../../../tests/fuzz/corpus/frames/system-0"),
];

const PLACE: &str = "@here@";

/// Values that no field expects, as JSON text.
fn odd() -> impl Strategy<Value = String> {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    const FEW: &[&str] = &[
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
    prop_oneof![
        9 => prop::sample::select(FEW).prop_map(str::to_owned),
        1 => Just(deep),
    ]
}

/// How a value is spoiled.
#[derive(Debug, Clone)]
enum Spoiling {
    Absent,
    Replaced(String),
    Followed(String),
    Preceded(String),
}

fn spoiling() -> impl Strategy<Value = Spoiling> {
    prop_oneof![
        Just(Spoiling::Absent),
        odd().prop_map(Spoiling::Replaced),
        odd().prop_map(Spoiling::Followed),
        odd().prop_map(Spoiling::Preceded),
    ]
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

/// The frame with one of its values spoiled, and where.
fn spoiled(frame: &Value, pick: usize, spoiling: &Spoiling) -> (String, String) {
    let mut found = Vec::new();
    places(frame, "", &mut found);
    found.retain(|place| place != "/type" && place != "/subtype");
    let place = found[pick % found.len()].clone();
    let (parent, key) = place.rsplit_once('/').expect("a pointer");
    let key = key.replace("~1", "/").replace("~0", "~");
    let mut frame = frame.clone();
    let members = frame.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    let before = members.insert(key.clone(), PLACE.into()).expect("there").to_string();
    let name = Value::from(key.clone());
    let text = match spoiling {
        Spoiling::Absent => {
            members.remove(&key);
            String::new()
        }
        Spoiling::Replaced(odd) => odd.clone(),
        Spoiling::Followed(odd) => format!("{before},{name}:{odd}"),
        Spoiling::Preceded(odd) => format!("{odd},{name}:{before}"),
    };
    (frame.to_string().replace(&format!("\"{PLACE}\""), &text), place)
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
    let event = Event::Frame(class_of(&frame.kind), frame.raw.clone());
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn d1_no_odd_value_changes_what_a_frame_is_or_spoils_its_other_values(
        which in 0..RECORDED.len(),
        pick in any::<usize>(),
        spoiling in spoiling(),
    ) {
        let whole: Value = serde_json::from_slice(&RECORDED[which][1..]).expect("JSON");
        let before = Frame::parse(Bytes::from(whole.to_string())).expect("a frame");
        let (text, place) = spoiled(&whole, pick, &spoiling);
        let after = Frame::parse(Bytes::from(text.clone())).expect("still a frame");
        prop_assert_eq!(role(&before.kind), role(&after.kind), "{}", place);
        let (kind, told) = (typed(&before), typed(&after));
        prop_assert_eq!(std::mem::discriminant(&kind), std::mem::discriminant(&told), "{}", place);
        if let (FrameKind::Result(before), FrameKind::Result(after)) = (&before.kind, &after.kind) {
            same_result(before, after, &place);
            let Kind::Result(told) = told else { panic!("no result: {told:?}") };
            prop_assert_eq!(told.total_cost_usd, after.total_cost_usd.unwrap_or_default());
            prop_assert_eq!(told.is_error, after.is_error);
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
