//! Compares a frame with what was put together from its event.
//!
//! A value that is not there and one that is empty (`null`, `""`, `0`, `false`, `[]`)
//! are the same in the contract. A key of the frame that is in no field and in no
//! `extra_json` is a loss, whatever its value.

use serde_json::Value;

/// Where the two differ, in words.
pub fn differences(frame: &Value, rebuilt: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    compare("", frame, rebuilt, &mut lost);
    lost
}

/// Notes where the frame and what was put together differ.
fn compare(path: &str, frame: &Value, rebuilt: &Value, lost: &mut Vec<String>) {
    match (frame, rebuilt) {
        (Value::Object(frame), Value::Object(rebuilt)) => {
            for (key, value) in frame {
                let path = format!("{path}.{key}");
                match rebuilt.get(key) {
                    Some(rebuilt) => compare(&path, value, rebuilt, lost),
                    None => lost.push(format!("{path} is lost: {value}")),
                }
            }
            for (key, value) in rebuilt {
                if !frame.contains_key(key) && !is_empty(value) {
                    lost.push(format!("{path}.{key} was made up: {value}"));
                }
            }
        }
        (Value::Array(frame), Value::Array(rebuilt)) if frame.len() == rebuilt.len() => {
            for (index, (frame, rebuilt)) in frame.iter().zip(rebuilt).enumerate() {
                compare(&format!("{path}[{index}]"), frame, rebuilt, lost);
            }
        }
        (Value::Number(a), Value::Number(b)) if close(a.as_f64(), b.as_f64()) => {}
        (a, b) if a == b || (a.is_null() && is_empty(b)) => {}
        (a, b) => lost.push(format!("{path} was {a}, became {b}")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}

/// Durations have whole nanoseconds; the CLI counts fractions of milliseconds.
fn close(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-5)
}

#[cfg(test)]
#[test]
fn a_loss_of_any_kind_is_noticed() {
    use serde_json::json;
    let frame = json!({"a": {"b": 0, "c": [1, {"d": "x"}]}, "n": null});
    let lost = |rebuilt: Value| differences(&frame, &rebuilt).len();
    assert_eq!(lost(json!({"a": {"b": 0, "c": [1, {"d": "x", "e": ""}]}, "n": ""})), 0);
    assert_eq!(lost(json!({"a": {"c": [1, {"d": "x"}]}, "n": null})), 1, "a key with a zero");
    assert_eq!(lost(json!({"a": {"b": 0, "c": [1, {"d": "y"}]}, "n": null})), 1, "a value");
    assert_eq!(lost(json!({"a": {"b": 0, "c": [1]}, "n": null})), 1, "an element");
    assert_eq!(lost(json!({"a": {"b": 0, "c": [1, {"d": "x"}]}, "n": 1})), 1, "made up");
}
