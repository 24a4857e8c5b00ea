//! Where the CLI keeps the transcript of a conversation on disk: one file a
//! conversation, in a folder named after the working folder.
//!
//! Source: observed on 2.1.197 and 2.1.330. The folder's name is the real path of
//! the working folder with every UTF-16 unit outside `[A-Za-z0-9]` replaced by `-`;
//! past 200 characters a hash follows, which this module does not compute.
//!
//! Agents write to the same folders, by their shells: all that is done there is
//! [`confined`](crate::os::confined) to them.

mod restore;

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use memchr::memmem;
use serde::Deserialize;

use super::snapshots::Snapshots;
use crate::{
    domain::ids::CliSessionId,
    os::confined::{Folder, Lines},
};
pub use restore::Restoration;

/// The longest folder name that the CLI does not shorten.
const LONGEST_NAME: usize = 200;

/// Bytes of the longest line that is taken up: an agent may have written it. A line of the
/// CLI's own comes with a frame of up to `cli.max_frame_bytes`, 16 MiB by default.
const LONGEST_LINE: usize = 64 << 20;

/// Bytes that are read or written at a time, unless one line has more.
const PIECE_BYTES: usize = 1 << 20;

/// What an entry takes beside its text.
const ENTRY_BYTES: usize = 128;

/// Where to look for a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// In the folder of the working folder, which takes one look.
    OwnFolder,
    /// In every folder, which takes one look for each.
    AllFolders,
    /// In every folder; found elsewhere it is brought here, and is there no more, so that
    /// there is never an older one to be taken for it.
    Move,
}

/// A transcript that can be taken up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Found {
    /// The sum that the last process to end in order has written into it, in US dollars.
    /// From 2.1.300 on the next one may begin to count there.
    pub saved_cost_usd: Option<f64>,
}

/// In the CLI's config folder, the folder of all transcripts.
const PROJECTS: &str = "projects";

/// Where the CLI keeps what else belongs to one conversation, in a folder of its name: variables
/// that hooks set, and earlier versions of the files that it has edited.
const OF_CONVERSATIONS: [&str; 2] = ["session-env", "file-history"];

/// The file of a conversation whose process works in `work`, from the config folder on.
fn path(work: &Path, id: CliSessionId) -> PathBuf {
    let real = work.canonicalize().unwrap_or_else(|_| work.to_owned());
    Path::new(PROJECTS).join(folder_name(&real)).join(file_name(id))
}

fn file_name(id: CliSessionId) -> String {
    format!("{id}.jsonl")
}

fn folder_name(work: &Path) -> String {
    let text = work.to_string_lossy();
    // The CLI counts as its language does: in units of UTF-16.
    let unit = |unit: u16| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii_alphanumeric() => char::from(byte),
        _ => '-',
    };
    text.encode_utf16().map(unit).collect()
}

/// A line of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Empty for the conversation's own file, else that of a subagent, below the folder
    /// of the conversation's name.
    pub subpath: Arc<str>,
    /// The entry, as JSON without line ends.
    pub json: String,
}

/// The entries of a conversation's own file, piece by piece.
#[derive(Debug)]
pub struct Entries {
    lines: Lines,
    subpath: Arc<str>,
}

impl Entries {
    /// Those of this conversation; `None` if it has no file.
    pub fn of(config: &Folder, work: &Path, id: CliSessionId) -> io::Result<Option<Self>> {
        let lines = config.lines(&path(work, id), LONGEST_LINE)?;
        Ok(lines.map(|lines| Self { lines, subpath: Arc::default() }))
    }

    /// The next of them: up to a mebibyte, or one. None are left if it is empty.
    pub fn read(&mut self) -> io::Result<Vec<Entry>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES
            && let Some(line) = self.lines.read()?
        {
            let line = line.trim_ascii();
            // A line that a crash cut short is none.
            if serde_json::from_slice::<&serde_json::value::RawValue>(line).is_err() {
                continue;
            }
            let json = String::from_utf8(line.to_vec()).ok().filter(|json| json.starts_with('{'));
            let Some(json) = json else { continue };
            bytes += json.len() + ENTRY_BYTES;
            entries.push(Entry { subpath: Arc::clone(&self.subpath), json });
        }
        Ok(entries)
    }
}

/// Makes sure that the file of a conversation is where a process that works in
/// `work` looks for it (2.1.197 looks nowhere else), without snapshots. `None` if there is
/// none to take up. No process may be writing to that file. May read folders: not for a
/// runtime's own threads.
pub fn provide(
    config: &Folder,
    work: &Path,
    id: CliSessionId,
    search: Search,
) -> io::Result<Option<Found>> {
    let wanted = path(work, id);
    config.clear_way(&wanted)?;
    let Some(mut lines) = bring(config, work, &wanted, search)? else { return Ok(None) };
    let (mut has_message, mut snapshots) = (false, Snapshots::default());
    let mut found = Found::default();
    while let Some(line) = lines.read()? {
        has_message = has_message || Said::read(line).is_some_and(|entry| entry.is_message());
        found.saved_cost_usd = saved_cost(line).or(found.saved_cost_usd);
        snapshots.note(line)?;
    }
    if !has_message {
        // A process that was killed early leaves notes only. The CLI does not take them
        // up, and begins no conversation of an id that has a file.
        config.remove_file(&wanted)?;
        return Ok(None);
    }
    if !snapshots.is_empty()
        && let Some(lines) = config.lines(&wanted, LONGEST_LINE)?
    {
        write(config, &wanted, lines, |line| snapshots.without(line))?;
    }
    Ok(Some(found))
}

/// The sum that a line of a transcript says.
fn saved_cost(line: &[u8]) -> Option<f64> {
    const COST_STATE: &str = "cost-state";
    #[derive(Deserialize)]
    struct Saved<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(rename = "totalCostUSD")]
        total: f64,
    }
    // Few lines are: the others are not read for it.
    memmem::find(line, COST_STATE.as_bytes())?;
    let saved: Saved<'_> = serde_json::from_slice(line).ok()?;
    (saved.kind == COST_STATE && saved.total >= 0.0).then_some(saved.total)
}

/// Writes lines to a file, as far as `keep` keeps them.
fn write<'a>(
    config: &Folder,
    file: &Path,
    mut lines: Lines,
    keep: impl for<'l> Fn(&'l [u8]) -> Option<Cow<'l, [u8]>> + 'a,
) -> io::Result<()> {
    let draft = config.draft(file)?;
    let mut written = || {
        let mut piece = Vec::new();
        while let Some(line) = lines.read()? {
            piece.extend_from_slice(&keep(line).unwrap_or_default());
            if piece.len() >= PIECE_BYTES {
                config.add(&draft, &piece)?;
                piece.clear();
                piece.shrink_to(PIECE_BYTES);
            }
        }
        config.add(&draft, &piece)?;
        config.finish(&draft)
    };
    written().inspect_err(|_| config.abandon(&draft))
}

/// The lines of the wanted file, which is brought from elsewhere if need be.
fn bring(config: &Folder, work: &Path, wanted: &Path, search: Search) -> io::Result<Option<Lines>> {
    if let Some(lines) = config.lines(wanted, LONGEST_LINE)? {
        return Ok(Some(lines));
    }
    // A shortened name ends in a hash that is not known here.
    let shortened = folder_name(work).len() > LONGEST_NAME;
    if search == Search::OwnFolder && !shortened {
        return Ok(None);
    }
    let name = wanted.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folders = config.folders(Path::new(PROJECTS))?.into_iter();
    // What cannot be read is no transcript of the CLI's.
    let mut readable = folders.map(|folder| folder.join(name)).filter_map(|file| {
        let lines = config.lines(&file, LONGEST_LINE).ok()??;
        Some((file, lines))
    });
    let Some((found, lines)) = readable.next() else { return Ok(None) };
    if search == Search::Move {
        config.rename(&found, wanted)?;
    } else {
        write(config, wanted, lines, |line| Some(Cow::Borrowed(line)))?;
    }
    config.lines(wanted, LONGEST_LINE)
}

/// What matters here of a line of a transcript.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

impl<'a> Said<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    fn is_message(&self) -> bool {
        matches!(&*self.kind, "user" | "assistant")
    }
}

/// Removes every file of a conversation. May read folders. What cannot be removed keeps
/// nothing else; the last error is told.
pub fn remove(config: &Folder, id: CliSessionId) -> io::Result<()> {
    let mut outcome = Ok(());
    for folder in config.folders(Path::new(PROJECTS))? {
        // Subagents of the conversation have files in a folder of its name.
        for name in [file_name(id), id.to_string()] {
            outcome = config.remove_tree(&folder.join(name)).and(outcome);
        }
    }
    for folder in OF_CONVERSATIONS {
        outcome = config.remove_tree(&Path::new(folder).join(id.to_string())).and(outcome);
    }
    outcome
}

/// Removes all that the CLI keeps of a working folder which is no more: beside conversations,
/// what it has noted for later ones.
pub fn remove_of_folder(config: &Folder, work: &Path) -> io::Result<()> {
    config.remove_tree(&Path::new(PROJECTS).join(folder_name(work)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(config: &tempfile::TempDir) -> Folder {
        Folder::open(config.path()).expect("opened")
    }

    #[test]
    fn each_other_character_becomes_one_dash() {
        assert_eq!(folder_name(Path::new("/a b/é.x")), "-a-b---x");
        assert_eq!(folder_name(Path::new("/🦊x")), "---x");
    }

    #[test]
    fn a_transcript_of_another_folder_is_brought_over_and_can_be_removed() {
        let config = tempfile::tempdir().expect("a folder");
        let id = CliSessionId::fresh();
        let (old, new) = (Path::new("/old"), Path::new("/new"));
        assert_eq!(
            provide(&open(&config), new, id, Search::AllFolders).expect("no projects yet"),
            None
        );
        let file = config.path().join(path(old, id));
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, "{\"type\":\"user\"}\n").expect("written");

        assert_eq!(provide(&open(&config), new, id, Search::OwnFolder).expect("not there"), None);
        let found = Some(Found::default());
        assert_eq!(provide(&open(&config), new, id, Search::AllFolders).expect("copied"), found);
        assert!(config.path().join(path(new, id)).is_file());
        let newer = Path::new("/newer");
        assert_eq!(provide(&open(&config), newer, id, Search::Move).expect("moved"), found);
        assert!(config.path().join(path(newer, id)).is_file());
        let notes = config.path().join(PROJECTS).join(folder_name(new)).join("memory");
        fs::create_dir_all(&notes).expect("made");
        remove_of_folder(&open(&config), new).expect("removed");
        assert!(!notes.parent().expect("a folder").exists());
        let others = CliSessionId::fresh();
        for (folder, id) in [("session-env", id), ("file-history", id), ("session-env", others)] {
            let place = config.path().join(folder).join(id.to_string());
            fs::create_dir_all(&place).expect("made");
            fs::write(place.join("file"), "what was said").expect("written");
        }
        remove(&open(&config), id).expect("removed");
        assert_eq!(provide(&open(&config), new, id, Search::AllFolders).expect("none"), None);
        let left = |folder: &str| fs::read_dir(config.path().join(folder)).expect("there").count();
        assert_eq!((left("session-env"), left("file-history")), (1, 0));
    }

    #[test]
    fn a_transcript_without_a_message_makes_way_for_a_new_one() {
        let config = tempfile::tempdir().expect("a folder");
        let (work, id) = (Path::new("/w"), CliSessionId::fresh());
        let file = config.path().join(path(work, id));
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, "{\"type\":\"mode\"}\n{\"type\":\"us").expect("written");
        assert_eq!(provide(&open(&config), work, id, Search::OwnFolder).expect("read"), None);
        assert!(!file.exists());
    }

    #[test]
    fn a_transcript_is_written_back_whatever_is_there() {
        let config = tempfile::tempdir().expect("a folder");
        let (work, id) = (Path::new("/w"), CliSessionId::fresh());
        let file = config.path().join(path(work, id));
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(&file, "rubbish").expect("written");
        let entry =
            |subpath: &str, json: &str| Entry { subpath: subpath.into(), json: json.into() };
        let agent = "subagents/agent-a.jsonl";
        let all = [
            entry("", "{\"type\":\"user\"}"),
            entry(agent, "{\"type\":\"agent_metadata\",\"agentType\":\"x\"}"),
            entry(agent, "{\"type\":\"assistant\"}"),
            entry("", "{\"type\":\"assistant\"}"),
        ];
        let folder = Arc::new(open(&config));
        let mut restoration = Restoration::begin(Arc::clone(&folder), work, id);
        for entry in &all {
            restoration.add(std::slice::from_ref(entry)).expect("added");
        }
        assert_eq!(fs::read_to_string(&file).expect("there"), "rubbish", "nothing is placed yet");
        restoration.finish().expect("written");
        let read = |file: &Path| fs::read_to_string(file).expect("there");
        assert_eq!(read(&file), "{\"type\":\"user\"}\n{\"type\":\"assistant\"}\n");
        let folder = file.with_extension("").join("subagents");
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 2, "no draft is left");
        assert_eq!(read(&folder.join("agent-a.jsonl")), "{\"type\":\"assistant\"}\n");
        assert_eq!(read(&folder.join("agent-a.meta.json")), "{\"agentType\":\"x\"}");
        let mut own = Entries::of(&open(&config), work, id).expect("opened").expect("there");
        assert_eq!(own.read().expect("read"), [all[0].clone(), all[3].clone()]);
        assert_eq!(own.read().expect("read"), []);
        let found = provide(&open(&config), work, id, Search::OwnFolder).expect("there");
        assert_eq!(found, Some(Found::default()));
    }

    #[test]
    fn e2_the_sum_that_was_saved_last_is_found() {
        let config = tempfile::tempdir().expect("a folder");
        let (work, id) = (Path::new("/w"), CliSessionId::fresh());
        let file = config.path().join(path(work, id));
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        let lines = [
            r#"{"type":"cost-state","totalCostUSD":0.25}"#,
            r#"{"type":"user","message":{"content":"{\"type\":\"cost-state\",\"totalCostUSD\":9}"}}"#,
            r#"{"type":"cost-state","sessionId":"s","totalCostUSD":0.074376,"modelUsage":{}}"#,
            r#"{"type":"cost-state","totalCostUSD":-1}"#,
            r#"{"type":"cost-state","totalCostUSD":"1"}"#,
            r#"{"type":"cost-state","totalCostUSD":1"#,
        ];
        fs::write(&file, lines.join("\n")).expect("written");
        let found = provide(&open(&config), work, id, Search::OwnFolder).expect("there");
        assert_eq!(found, Some(Found { saved_cost_usd: Some(0.074_376) }));
    }
}
