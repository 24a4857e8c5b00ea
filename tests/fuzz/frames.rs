//! The event conversion: any JSON object, taken for any kind of frame, becomes an event
//! that says all that the frame says. And what is kept of transcripts, whatever it is.
#![no_main]
// The macro exports the function that libFuzzer calls.
#![allow(unsafe_code)]

#[path = "../real_cli/compare.rs"]
mod compare;
#[path = "../real_cli/rebuild.rs"]
mod rebuild;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use session_pool::internals::{
    cli::{
        frame::{Frame, FrameKind},
        mirror,
        snapshots::without_snapshots,
    },
    rpc::{decode::Payload, encode},
    turn::event::{Class, Event, prompt_event},
};

/// The class that a session gives a frame.
fn class_of(kind: &FrameKind, interrupted: bool) -> Class {
    match kind {
        FrameKind::State { .. }
        | FrameKind::ApiRetry { .. }
        | FrameKind::System
        | FrameKind::PermissionMode { .. }
        | FrameKind::TaskStarted { .. }
        | FrameKind::TaskEnded { .. }
        | FrameKind::Init { .. } => Class::System,
        FrameKind::Prompt(_) => Class::Prompt,
        FrameKind::Assistant { .. } => Class::Assistant,
        FrameKind::User { .. } => Class::User,
        FrameKind::StreamEvent => Class::StreamEvent,
        FrameKind::Result(_) if interrupted => Class::InterruptedResult,
        FrameKind::Result(_) => Class::Result,
        _ => Class::Other,
    }
}

/// What is kept of a transcript, told by the CLI or found in its files.
fn keep(line: &[u8]) {
    if let Some(mirrored) = mirror::read(line) {
        assert!(!mirrored.subpath.split('/').any(|part| part == ".."));
        assert!(mirrored.entries.iter().all(|(_, entry)| !entry.contains(['\n', '\r'])));
    }
    if let Some(left) = without_snapshots(line) {
        let again = without_snapshots(&left);
        assert!(again.is_none_or(|again| again == left), "snapshots are left");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((interrupted, line)) = data.split_first() else { return };
    keep(line);
    let Ok(frame) = Frame::parse(Bytes::copy_from_slice(line)) else { return };
    let class = class_of(&frame.kind, interrupted % 2 == 1);
    let bytes = match class {
        Class::Prompt => prompt_event(None, &frame.raw),
        _ => frame.raw.clone(),
    };
    let event = Event::Frame(class, bytes);
    let both = encode::event(1, &event, Payload::Both);
    // What is no UTF-8 is mended, and what stands before a frame is left out.
    assert_eq!(both.json.as_bytes(), frame.raw);
    if frame.raw != line {
        return;
    }
    let kind = both.kind.expect("a kind");
    assert_eq!(encode::event(1, &event, Payload::Typed).kind.as_ref(), Some(&kind));
    assert!(encode::event(1, &event, Payload::Json).kind.is_none());
    // Of a key that comes twice one is kept.
    let Some(whole) = serde_json::from_slice(line).ok().filter(|whole| says_each_once(whole, line))
    else {
        return;
    };
    let mut lost = compare::differences(&whole, &rebuild::frame_of(&kind));
    // Of a frame that is not as the CLI makes them a value may be read as empty; no key of
    // it may be lost.
    lost.retain(|difference| difference.contains(" is lost: "));
    assert!(lost.is_empty(), "{lost:#?}\nevent: {kind:#?}");
});

/// Whether writing the JSON again keeps all of it: no key comes twice.
fn says_each_once(whole: &serde_json::Value, line: &[u8]) -> bool {
    fn colons(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => items.iter().map(colons).sum(),
            serde_json::Value::Object(members) => {
                members.values().map(|value| 1 + colons(value)).sum()
            }
            _ => 0,
        }
    }
    let (mut in_string, mut escaped, mut found) = (false, false, 0);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => found += 1,
            _ => {}
        }
    }
    found == colons(whole)
}
