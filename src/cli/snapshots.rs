//! Takes snapshots of the prompt out of a transcript, and keeps the rest of it connected.
//!
//! Source: observed on 2.1.330, which keeps `prompt_snapshot` entries. A process that takes
//! up the conversation then has the snapshot's system prompt and tools, whatever its own
//! options say. The options are the callers' to set, so the snapshots go.
//!
//! Entries name the one before them by `parentUuid`, and the answer of a model comes after
//! a snapshot. Where the parent is missing, the CLI goes on from another entry that it
//! picks by time. After `/compact`, whose entries are not in the order of their times, that
//! one may be from before the prompt, which then is lost. So whatever names a snapshot
//! names what the snapshot came after instead.

use std::{borrow::Cow, collections::HashMap, io};

use memchr::memmem;
use serde::Deserialize;

const SNAPSHOT: &str = "prompt_snapshot";

/// Keys by which an entry names another.
const KEYS: [&str; 3] = ["parentUuid", "logicalParentUuid", "leafUuid"];

/// What each snapshot came after.
type Parents = HashMap<String, Option<String>>;

/// What matters here of a line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    attachment: Option<Attachment<'a>>,
    #[serde(borrow)]
    uuid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    parent_uuid: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Attachment<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

/// Bytes of names of snapshots that a transcript may have: an agent may have written them.
const MOST_BYTES: usize = 16 << 20;

/// What a name takes beside its text.
const NAME_BYTES: usize = 128;

/// The snapshots of a transcript, and what each came after.
#[derive(Debug, Default)]
pub struct Snapshots {
    removed: Parents,
    bytes: usize,
    /// Also of those without a name.
    count: u64,
}

impl Snapshots {
    /// Takes note of a line, if it is one. Fails where their names take more than 16 MiB.
    pub fn note(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(Entry { uuid, parent_uuid, .. }) = snapshot(line) else { return Ok(()) };
        self.count += 1;
        let Some(uuid) = uuid else { return Ok(()) };
        let parent = parent_uuid.map(Cow::into_owned);
        self.bytes += uuid.len() + parent.as_ref().map_or(0, String::len) + NAME_BYTES;
        if self.bytes > MOST_BYTES {
            let text =
                format!("a transcript whose snapshots have more than {MOST_BYTES} bytes of names");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.removed.insert(uuid.into_owned(), parent);
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is left of a line of the transcript, once all of it was noted.
    pub fn without<'a>(&self, line: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        snapshot(line).is_none().then(|| connected(line, &self.removed))
    }
}

/// The same for a transcript that is held whole; `None` if it has no snapshots, or too many.
/// Tests compare it with what is done line by line.
#[cfg(any(test, feature = "test-tools"))]
pub fn without_snapshots(entries: &[u8]) -> Option<Vec<u8>> {
    let lines = || entries.split_inclusive(|byte| *byte == b'\n');
    let mut snapshots = Snapshots::default();
    lines().try_for_each(|line| snapshots.note(line)).ok()?;
    let kept = || lines().filter_map(|line| snapshots.without(line));
    (!snapshots.is_empty()).then(|| kept().flat_map(Cow::into_owned).collect())
}

fn snapshot(line: &[u8]) -> Option<Entry<'_>> {
    memmem::find(line, SNAPSHOT.as_bytes())?;
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let is_snapshot = entry.attachment.as_ref().is_some_and(|it| it.kind == SNAPSHOT);
    is_snapshot.then_some(entry)
}

/// The line with other names for what was removed. All else stays as it was written.
fn connected<'a>(line: &'a [u8], removed: &Parents) -> Cow<'a, [u8]> {
    let mut line = Cow::Borrowed(line);
    for key in KEYS {
        let start = format!("\"{key}\":\"");
        let mut from = 0;
        // Quotes are escaped within texts: what is found is a key.
        while let Some(at) = memmem::find(&line[from..], start.as_bytes()) {
            let begin = from + at + start.len();
            from = begin;
            let Some(length) = memchr::memchr(b'"', &line[begin..]) else { break };
            let name = String::from_utf8_lossy(&line[begin..begin + length]).into_owned();
            if !removed.contains_key(name.as_str()) {
                continue;
            }
            // With its quotes.
            let place = begin - 1..=begin + length;
            let other = ancestor(&name, removed)
                .map_or_else(|| "null".to_owned(), |other| format!("\"{other}\""));
            line.to_mut().splice(place, other.into_bytes());
        }
    }
    line
}

/// What a snapshot came after that is none itself.
fn ancestor<'a>(snapshot: &'a str, removed: &'a Parents) -> Option<&'a str> {
    let mut name = snapshot;
    // One that came after itself came after nothing.
    for _ in 0..=removed.len() {
        match removed.get(name) {
            None => return Some(name),
            Some(parent) => name = parent.as_deref()?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without(lines: &[&str]) -> Option<String> {
        let text = without_snapshots(lines.join("\n").as_bytes())?;
        Some(String::from_utf8(text).expect("UTF-8"))
    }

    fn snapshot_after(uuid: &str, parent: &str) -> String {
        format!(
            r#"{{"parentUuid":{parent},"type":"attachment","attachment":{{"type":"prompt_snapshot"}},"uuid":"{uuid}"}}"#
        )
    }

    #[test]
    fn only_snapshots_go() {
        let said = r#"{"type":"user","message":{"content":"a prompt_snapshot"}}"#;
        let snapshot = r#"{"type":"attachment","attachment":{"type":"prompt_snapshot"}}"#;
        let other = r#"{"type":"attachment","attachment":{"type":"date"}}"#;
        let cut = r#"{"type":"attachment","attachment":{"type":"prompt_sn"#;
        let left = without(&[said, snapshot, other, snapshot, cut]).expect("there were some");
        assert_eq!(left, [said, other, cut].join("\n"));
        assert_eq!(without(&[other]), None);
    }

    #[test]
    fn what_came_after_a_snapshot_comes_after_what_that_came_after() {
        let left = without(&[
            r#"{"type":"user","uuid":"u1","parentUuid":null}"#,
            &snapshot_after("s1", "\"u1\""),
            &snapshot_after("s2", "\"s1\""),
            r#"{"type":"assistant","uuid":"a1","parentUuid":"s2","n":1.50}"#,
            r#"{"type":"last-prompt","leafUuid":"s3"}"#,
            &snapshot_after("s3", "\"a1\""),
            r#"{"type":"user","uuid":"u2","parentUuid":"s3","text":"\"parentUuid\":\"s3\""}"#,
            r#"{"type":"user","uuid":"u3","parentUuid":"s0"}"#,
            &snapshot_after("s0", "null"),
        ]);
        let expected = [
            r#"{"type":"user","uuid":"u1","parentUuid":null}"#,
            r#"{"type":"assistant","uuid":"a1","parentUuid":"u1","n":1.50}"#,
            r#"{"type":"last-prompt","leafUuid":"a1"}"#,
            r#"{"type":"user","uuid":"u2","parentUuid":"a1","text":"\"parentUuid\":\"s3\""}"#,
            r#"{"type":"user","uuid":"u3","parentUuid":null}"#,
            "",
        ];
        assert_eq!(left.expect("there were some"), expected.join("\n"));
    }

    #[test]
    fn a_circle_of_snapshots_comes_after_nothing() {
        let left = without(&[
            &snapshot_after("s1", "\"s2\""),
            &snapshot_after("s2", "\"s1\""),
            r#"{"uuid":"u1","parentUuid":"s1"}"#,
        ]);
        assert_eq!(left.as_deref(), Some(r#"{"uuid":"u1","parentUuid":null}"#));
    }

    proptest! {
        /// In a chain of entries nothing but the snapshots is lost, and each entry names
        /// the one that is before it now.
        #[test]
        fn a_chain_stays_one(kinds in proptest::collection::vec(any::<bool>(), 1..40)) {
            let line = |(number, is_snapshot): (usize, &bool)| {
                let parent = match number {
                    0 => "null".to_owned(),
                    _ => format!("\"e{}\"", number - 1),
                };
                if *is_snapshot {
                    snapshot_after(&format!("e{number}"), &parent)
                } else {
                    format!(r#"{{"uuid":"e{number}","parentUuid":{parent}}}"#)
                }
            };
            let all: Vec<String> = kinds.iter().enumerate().map(line).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let left = without(&all).unwrap_or_else(|| all.join("\n"));
            let mut before = "null".to_owned();
            let mut kept = kinds.iter().enumerate().filter(|(_, is_snapshot)| !**is_snapshot);
            for line in left.lines() {
                let (number, _) = kept.next().expect("an entry too many");
                let expected = format!(r#"{{"uuid":"e{number}","parentUuid":{before}}}"#);
                prop_assert_eq!(line, expected);
                before = format!("\"e{number}\"");
            }
            prop_assert!(kept.next().is_none());
        }
    }
}
