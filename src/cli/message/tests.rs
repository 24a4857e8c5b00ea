//! An object that is read in one pass says what it says when it is read by key.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::cli::json::whole;

const RECORDED: [&str; 3] = [
    include_str!("../../../tests/frames/2.1.110.ndjson"),
    include_str!("../../../tests/frames/2.1.197.ndjson"),
    include_str!("../../../tests/frames/2.1.332.ndjson"),
];

/// Reads JSON as each of these types in both ways. Returns which can be read in one pass.
macro_rules! read_as {
    ($json:expr, $($name:ident)*) => {{
        let mut readable = Vec::new();
        $(if let Some(whole) = whole::<$name<'_>>($json) {
            let by_key = $name::by_key($json).expect("an object");
            assert_eq!(format!("{whole:?}"), format!("{by_key:?}"), "{}", $json);
            readable.push(stringify!($name));
        })*
        readable
    }};
}

fn read(json: &str) -> Vec<&'static str> {
    read_as!(json, Head System Init ApiRetry Assistant ApiMessage User UserContent Usage StreamEvent
        ApiEvent Delta TurnResult PermissionDenial ControlRequest PromptRequest ModelUsage)
}

fn each_object(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            see(&value.to_string());
            members.values().for_each(|member| each_object(member, see));
        }
        Value::Array(items) => items.iter().for_each(|item| each_object(item, see)),
        _ => {}
    }
}

#[test]
fn what_a_cli_prints_is_read_in_one_pass_and_says_the_same() {
    for line in RECORDED.iter().flat_map(|recorded| recorded.lines()) {
        let frame: Value = serde_json::from_str(line).expect("JSON");
        each_object(&frame, &mut |json| drop(read(json)));
        let its_own = match frame["type"].as_str().unwrap_or_default() {
            "assistant" => "Assistant",
            "user" => "User",
            "stream_event" => "StreamEvent",
            "system" => "System",
            "result" => "TurnResult",
            _ => "Head",
        };
        assert!(read(line).contains(&its_own), "{its_own}: {line}");
    }
}

const KEYS: [&str; 16] = [
    "type",
    "ty\\u0070e",
    "message",
    "content",
    "id",
    "uuid",
    "session_id",
    "usage",
    "input_tokens",
    "event",
    "index",
    "delta",
    "text",
    "error_status",
    "total_cost_usd",
    "\\ud800",
];

const VALUES: [&str; 24] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "7.0",
    "1e400",
    "-1",
    "4294967296",
    "\"\"",
    "\"a\"",
    "\"é\\n\"",
    "\"\\ud83d\"",
    "\"\\ud83d\\ude00\"",
    "\"12\"",
    "[]",
    "[null]",
    "[{}]",
    "[\"a\",5]",
    "{}",
    "{\"type\":\"text_delta\",\"text\":\"a\"}",
    "{\"type\":5,\"type\":\"x\"}",
    "{\"input_tokens\":\"3\"}",
];

proptest! {
    #[test]
    fn of_any_object_both_ways_say_the_same(
        members in prop::collection::vec((0..KEYS.len(), 0..VALUES.len()), 0..6),
        after in prop::sample::select(vec!["", " ", " x", "}"]),
    ) {
        let members: Vec<String> =
            members.into_iter().map(|(key, value)| format!("\"{}\":{}", KEYS[key], VALUES[value])).collect();
        let json = format!("{{{}}}{after}", members.join(","));
        let readable = read(&json);
        prop_assert!(readable.is_empty() || serde_json::from_str::<&RawValue>(&json).is_ok());
    }
}
