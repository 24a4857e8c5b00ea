//! Reads `transcript_mirror` frames: what the CLI adds to its transcripts, told as it is
//! added. Knows nothing of who keeps it.
//!
//! Source: observed on 2.1.197 and 2.1.330 with `--session-mirror`. Everything that a
//! turn adds is told before its `result`, also after an interrupt; a fork tells its whole
//! copy; when the input ends a few notes follow.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{
    frame::{Frame, FrameKind},
    json::{Json, Text, view},
};
use crate::domain::ids::CliSessionId;

/// Entries of one frame. The CLI tells what a turn adds piece by piece: dozens were seen.
/// The bound is for an agent that speaks in its name.
const MOST_ENTRIES: usize = 100_000;

/// Folders and file below a conversation's folder: `subagents/agent-ID.jsonl` is two.
const MOST_PARTS: usize = 4;

/// Bytes of each.
const LONGEST_PART: usize = 128;

/// Entries added to one file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The conversation.
    pub conversation: CliSessionId,
    /// Empty for the conversation's own file, else that of a subagent, below the folder
    /// of the conversation's name.
    pub subpath: Arc<str>,
    /// Each entry's uuid, if it has one, and its JSON.
    pub entries: Vec<(Option<String>, String)>,
}

view! {
    /// A frame.
    Wire {
        /// The file that is added to.
        "filePath" => file_path: Text<'a>,
        /// What is added.
        "entries" => entries: Json<'a>,
    }
}

view! {
    /// An entry.
    Id {
        /// Its name.
        "uuid" => uuid: Option<Text<'a>>,
    }
}

/// Whether a frame tells what was added to a transcript.
pub fn is_mirror(frame: &Frame) -> bool {
    frame.kind == FrameKind::Mirror
}

/// Reads a frame's line; `None` if it is not of the known form and size.
pub fn read(line: &[u8]) -> Option<Mirrored> {
    let wire = Wire::parse(std::str::from_utf8(line).ok()?)?;
    let entries: Vec<&RawValue> = serde_json::from_str(wire.entries?.get()).ok()?;
    if entries.len() > MOST_ENTRIES {
        return None;
    }
    let (conversation, subpath) = place(&wire.file_path.0)?;
    let entries =
        entries.into_iter().map(|entry| (uuid_of(entry.get()), one_line(entry.get()))).collect();
    Some(Mirrored { conversation, subpath: subpath.into(), entries })
}

/// The uuid of an entry, if it has one.
pub fn uuid_of(entry: &str) -> Option<String> {
    Id::parse(entry)?.uuid.map(Text::into_string)
}

/// `…/ID.jsonl` is the conversation itself, `…/ID/subagents/NAME.jsonl` a part of it.
fn place(path: &str) -> Option<(CliSessionId, String)> {
    let (folder, file) = path.rsplit_once('/')?;
    if let Some(id) = file.strip_suffix(".jsonl").and_then(CliSessionId::parse) {
        return Some((id, String::new()));
    }
    let mut folders = folder.rsplit('/');
    let mut below = vec![file];
    loop {
        let name = folders.next()?;
        if let Some(id) = CliSessionId::parse(name) {
            below.reverse();
            if below.len() > MOST_PARTS {
                return None;
            }
            return below.iter().all(|name| is_plain(name)).then(|| (id, below.join("/")));
        }
        below.push(name);
    }
}

/// A name that leads nowhere else.
fn is_plain(name: &str) -> bool {
    (1..=LONGEST_PART).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// JSON may have line ends between its tokens, never within its texts.
fn one_line(json: &str) -> String {
    if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ") } else { json.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

    fn frame(path: &str, entries: &str) -> Option<Mirrored> {
        let path = serde_json::to_string(path).expect("a text");
        let line =
            format!(r#"{{"type":"transcript_mirror","filePath":{path},"entries":{entries}}}"#);
        read(line.as_bytes())
    }

    #[test]
    fn entries_keep_their_text_and_their_place() {
        let read =
            frame(&format!("/c/projects/-w/{ID}.jsonl"), r#"[{"uuid":"u","n":1.50},{"x":2}]"#)
                .expect("known");
        assert_eq!(read.conversation.to_string(), ID);
        assert_eq!(&*read.subpath, "");
        assert_eq!(
            read.entries,
            [(Some("u".into()), r#"{"uuid":"u","n":1.50}"#.into()), (None, r#"{"x":2}"#.into())]
        );
        let read = frame(&format!("/c/projects/-w/{ID}/subagents/agent-a.jsonl"), "[]");
        assert_eq!(&*read.expect("known").subpath, "subagents/agent-a.jsonl");
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_not_known() {
        for path in ["", "x.jsonl", "/a/b.jsonl", &format!("/{ID}/../x"), &format!("/{ID}/a b")] {
            assert_eq!(frame(path, "[]"), None, "{path}");
        }
        assert_eq!(frame(&format!("/{ID}.jsonl"), "3"), None);
    }

    #[test]
    fn what_no_cli_tells_is_not_known() {
        let long = "a".repeat(LONGEST_PART + 1);
        for path in [format!("/{ID}/{long}"), format!("/{ID}/a/b/c/d/e")] {
            assert_eq!(frame(&path, "[]"), None, "{path}");
        }
        assert!(frame(&format!("/{ID}/a/b/c/{}", "d".repeat(LONGEST_PART)), "[]").is_some());
        let many = format!("[{}0]", "0,".repeat(MOST_ENTRIES));
        assert_eq!(frame(&format!("/{ID}.jsonl"), &many), None);
    }
}
