//! What has to be true of a round, looked up when it is over: in the database, in what that has
//! noted, and in what the CLIs have noted.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::Duration,
};

use serde_json::Value;
use sqlx::PgConnection;

use crate::recorder::{Recorder, Told, Wrong};

/// How all that is said begins.
pub const TOKEN: &str = "token-";

/// The words that begin with [`TOKEN`] in a text.
pub fn tokens(text: &str) -> Vec<String> {
    let is_of_it = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let words = text.match_indices(TOKEN).map(|(at, _)| {
        let rest = &text[at..];
        rest[..rest.find(|c| !is_of_it(c)).unwrap_or(rest.len())].to_owned()
    });
    words.collect()
}

/// The turn that an attempt was made at: `token-TURN.ATTEMPT`.
fn turn_of(token: &str) -> &str {
    token.split('.').next().unwrap_or_default()
}

pub async fn of_database(
    by: &mut PgConnection,
    recorder: &Recorder,
    is_real: bool,
    was_put_back: bool,
) {
    let transcripts = transcripts(by).await;
    told_is_kept(&transcripts, recorder);
    told_once(&recorder.all_told(), recorder);
    if !is_real {
        for (session, entries) in &transcripts {
            follows(session, entries, was_put_back, recorder);
        }
    }
    claims(by, recorder).await;
}

/// The transcripts of each session, in order.
async fn transcripts(by: &mut PgConnection) -> HashMap<String, Vec<Value>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.session_id, e.line FROM entries e JOIN conversations c \
         ON c.tenant = e.tenant AND c.cli_session_id = e.cli_session_id \
         WHERE e.seq > 0 AND e.subpath = '' ORDER BY e.cli_session_id, e.seq",
    )
    .fetch_all(by)
    .await
    .expect("answered");
    let mut transcripts: HashMap<String, Vec<Value>> = HashMap::new();
    for (session, line) in rows {
        let entry = serde_json::from_str(&line).expect("an entry");
        transcripts.entry(session).or_default().push(entry);
    }
    transcripts
}

/// What the user said by an entry.
fn said(entry: &Value) -> Vec<String> {
    let content = &entry["message"]["content"];
    let is_said = entry["type"] == "user" && entry["isMeta"] != true;
    match content {
        Value::String(text) if is_said => tokens(text),
        Value::Array(blocks) if is_said => {
            blocks.iter().flat_map(|block| tokens(block["text"].as_str().unwrap_or(""))).collect()
        }
        _ => Vec::new(),
    }
}

fn told_is_kept(transcripts: &HashMap<String, Vec<Value>>, recorder: &Recorder) {
    let mut kept: HashMap<&str, BTreeMap<String, Vec<String>>> = HashMap::new();
    for (session, entries) in transcripts {
        let turns = kept.entry(session).or_default();
        for token in entries.iter().flat_map(said) {
            turns.entry(turn_of(&token).to_owned()).or_default().push(token);
        }
    }
    for Told { session, turn, text, is_interrupted, .. } in recorder.all_told() {
        let empty = Vec::new();
        let found = kept.get(&*session).and_then(|turns| turns.get(&turn)).unwrap_or(&empty);
        let same = found.iter().filter(|it| **it == text).count();
        let what = || format!("{session}: {text} was told; of its turn there is {found:?}");
        match same {
            0 if is_interrupted => {}
            0 => recorder.wrong(Wrong::Lost, what()),
            // Other attempts were not told: they may have been said, and failed.
            1 => {}
            _ => recorder.wrong(Wrong::Twice, what()),
        }
    }
}

fn told_once(told: &[Told], recorder: &Recorder) {
    let mut first: HashMap<&str, &str> = HashMap::new();
    for Told { turn, text, .. } in told.iter().filter(|it| !it.is_interrupted) {
        let before = first.entry(turn).or_insert(text);
        if before != text {
            recorder.wrong(Wrong::ToldTwoThings, format!("{turn}: {before} and {text}"));
        }
    }
}

/// Each message comes after the one before it: whoever added it had read all that was there. Where
/// an older state was put back, what it comes after may be gone.
fn follows(session: &str, entries: &[Value], was_put_back: bool, recorder: &Recorder) {
    let is_message = |entry: &&Value| {
        ["user", "assistant", "attachment"].iter().any(|kind| entry["type"] == *kind)
    };
    let mut last = Value::Null;
    for entry in entries.iter().filter(is_message) {
        let parent = &entry["parentUuid"];
        let is_gone = was_put_back && !entries.iter().any(|it| it["uuid"] == *parent);
        if *parent != last && !is_gone {
            let what = format!("{session}: {} does not follow {last}: {entry}", entry["uuid"]);
            return recorder.wrong(Wrong::Interleaved, what);
        }
        last = entry["uuid"].clone();
    }
}

/// A note of the database's.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Note {
    kind: String,
    session_id: String,
    writer: String,
    owner: String,
    epoch: i64,
}

/// In the order of commits, nobody adds to a transcript but the newest claim.
async fn claims(by: &mut PgConnection, recorder: &Recorder) {
    let notes: Vec<Note> = sqlx::query_as(
        "SELECT kind, session_id, writer, owner, epoch FROM chaos_log \
         ORDER BY pg_xact_commit_timestamp(xmin), id",
    )
    .fetch_all(by)
    .await
    .expect("answered");
    let mut claims: HashMap<String, Note> = HashMap::new();
    let mut epochs: HashMap<(String, String), i64> = HashMap::new();
    let mut turns: HashMap<(String, String), Note> = HashMap::new();
    for note in notes {
        let Note { kind, session_id, writer, owner, epoch, .. } = note.clone();
        match kind.as_str() {
            "append" => {
                let newest = claims.get(&session_id);
                let own = epochs.get(&(session_id.clone(), writer.clone())).copied().unwrap_or(1);
                let is_newest =
                    newest.is_some_and(|newest| newest.owner == writer && newest.epoch == own);
                if !is_newest {
                    let what =
                        format!("{note:?} by epoch {own}, and the newest claim is {newest:?}");
                    recorder.wrong(Wrong::Fenced, what);
                }
            }
            "claim" => {
                if claims.get(&session_id).is_some_and(|newest| newest.epoch > epoch) {
                    recorder.wrong(Wrong::Fenced, format!("an epoch goes back: {note:?}"));
                }
                epochs.insert((session_id.clone(), owner), epoch);
                claims.insert(session_id, note);
            }
            // The name, and a print of the result.
            "turn" => {
                let first = turns.entry((session_id, writer.clone())).or_insert(note.clone());
                if first.owner != owner {
                    recorder.wrong(Wrong::Twice, format!("a turn is kept twice: {note:?}"));
                }
            }
            // Given back: it can still be written to by nobody.
            _ => drop(claims.insert(session_id, note)),
        }
    }
}

/// No prompt was run again when its turn had been told.
pub fn of_journal(journal: &Path, recorder: &Recorder) {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let mut told: HashMap<String, Duration> = HashMap::new();
    for Told { turn, at, .. } in recorder.all_told() {
        let first = told.entry(turn).or_insert(at);
        *first = at.min(*first);
    }
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("a line of the journal");
        recorder.count(format!("CLI: {}", event["event"].as_str().unwrap_or_default()));
        let at = Duration::from_nanos(event["at"].as_u64().unwrap_or_default());
        for token in tokens(event["prompt"].as_str().unwrap_or_default()) {
            if told.get(turn_of(&token)).is_some_and(|told| *told < at) {
                let what = format!("{token} was run although its turn had been told: {line}");
                recorder.wrong(Wrong::RunAgain, what);
            }
        }
    }
}
