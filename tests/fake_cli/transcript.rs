//! Transcript files: where the CLI keeps a conversation, and what can be read back from one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::json::Json;

/// A slug longer than this is cut and a hash of the path put behind it.
const LONGEST_SLUG: usize = 200;

/// The folder for the transcripts of conversations held in this working directory.
pub fn folder(cwd: &Path) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = variable("CLAUDE_CONFIG_DIR").map(PathBuf::from);
    let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".claude");
    config.unwrap_or_else(home).join("projects").join(slug(&cwd.to_string_lossy()))
}

/// The real path with a dash for every character that is no ASCII letter or digit.
fn slug(path: &str) -> String {
    let dashed: String =
        path.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    match dashed.get(..LONGEST_SLUG) {
        Some(start) if dashed.len() > LONGEST_SLUG => format!("{start}-{}", hash(path)),
        _ => dashed,
    }
}

/// The hash the CLI tells long paths apart by: Java's string hash, its absolute value in base 36.
fn hash(path: &str) -> String {
    let hash = path
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let mut left = hash.unsigned_abs();
    let mut digits = Vec::new();
    while left > 0 {
        digits.push(char::from_digit(left % 36, 36).unwrap_or('0'));
        left /= 36;
    }
    digits.iter().rev().collect()
}

/// Appends entries, one JSON line each; makes the folder when it is missing.
pub fn append(path: &Path, entries: &[Json]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut text = String::new();
    for entry in entries {
        text.push_str(&entry.0);
        text.push('\n');
    }
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// A conversation read back.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The session id that its last entry names.
    pub session: String,
    /// The entries from its root to its leaf; branches that were not written last are gone, as for the real CLI.
    pub chain: Vec<Value>,
    /// What its last process had spent when it closed, in millionths of a dollar.
    pub cost_micro_dollars: u64,
}

impl Loaded {
    pub fn leaf(&self) -> Option<&str> {
        self.chain.last().and_then(|entry| entry["uuid"].as_str())
    }

    /// The uuids of its entries.
    pub fn uuids(&self) -> Vec<String> {
        self.chain.iter().filter_map(|entry| entry["uuid"].as_str()).map(str::to_owned).collect()
    }

    /// What the user said, in order.
    pub fn prompts(&self) -> Vec<String> {
        let words = |entry: &'_ Value| match entry["type"].as_str()? {
            "user" if entry["isMeta"] != true => {
                entry["message"]["content"].as_str().map(str::to_owned)
            }
            // A message that a running turn has taken up.
            "attachment" if entry["attachment"]["type"] == "queued_command" => {
                entry["attachment"]["prompt"].as_str().map(str::to_owned)
            }
            _ => None,
        };
        self.chain.iter().filter_map(words).collect()
    }
}

/// Reads a transcript file; nothing when there is none, or no conversation in it. A line that is cut off is skipped.
pub fn load(path: &Path) -> Option<Loaded> {
    let text = fs::read(path).ok()?;
    let entries: Vec<Value> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let by_uuid: HashMap<&str, &Value> =
        entries.iter().filter_map(|entry| Some((entry["uuid"].as_str()?, entry))).collect();
    let is_message = |entry: &&Value| {
        matches!(entry["type"].as_str(), Some("user" | "assistant" | "attachment"))
    };
    let mut at = entries.iter().rfind(is_message);
    let mut chain = Vec::new();
    // The bound keeps a file whose entries are each other's parents from being read for ever.
    while let Some(entry) = at.filter(|_| chain.len() < entries.len()) {
        chain.push(entry.clone());
        at = entry["parentUuid"].as_str().and_then(|parent| by_uuid.get(parent)).copied();
    }
    chain.reverse();
    let cost = entries.iter().rfind(|entry| entry["type"] == "cost-state");
    let loaded = Loaded {
        session: chain.last()?["sessionId"].as_str().unwrap_or_default().to_owned(),
        chain,
        cost_micro_dollars: cost.map_or(0, |entry| micro_dollars(&entry["totalCostUSD"])),
    };
    Some(loaded)
}

fn micro_dollars(dollars: &Value) -> u64 {
    let micro = dollars.as_f64().unwrap_or(0.0) * 1e6;
    // Rounded and never negative: the sum was written by this program or by the real one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let micro = micro.round().max(0.0) as u64;
    micro
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_replace_one_character_by_one_dash() {
        assert_eq!(slug("/tmp/a b/é_1"), "-tmp-a-b---1");
    }

    #[test]
    fn long_slugs_are_cut_and_hashed() {
        let path = format!("/tmp/{}", "x".repeat(300));
        let slug = slug(&path);
        assert!(slug.starts_with("-tmp-xxx"));
        assert_eq!(slug.as_bytes()[LONGEST_SLUG], b'-');
        // Java says: "hello".hashCode() == 99162322.
        assert_eq!(hash("hello"), "1n1e4y");
    }

    #[test]
    fn only_the_branch_written_last_is_read() {
        let path = std::env::temp_dir().join(format!("fake-transcript-{}", std::process::id()));
        let entry = |uuid: &str, parent: &str, words: &str| {
            Json(format!(
                r#"{{"type":"user","uuid":"{uuid}","parentUuid":"{parent}","sessionId":"s","message":{{"content":"{words}"}}}}"#
            ))
        };
        let entries = [
            entry("a", "", "base"),
            entry("b", "a", "lost"),
            entry("c", "a", "kept"),
            Json(r#"{"type":"cost-state","totalCostUSD":0.000492}"#.to_owned()),
            Json(r#"{"type":"user","uuid":"d","cut of"#.to_owned()),
        ];
        append(&path, &entries).unwrap();
        let loaded = load(&path);
        fs::remove_file(&path).unwrap();
        let loaded = loaded.expect("there is a conversation");
        assert_eq!(loaded.prompts(), ["base", "kept"]);
        assert_eq!(loaded.leaf(), Some("c"));
        assert_eq!(loaded.cost_micro_dollars, 492);
    }
}
