//! Turns of every kind are kept whole: the process is killed at their end, its own files
//! are removed, and the next turn shows the API what was said and done.

use std::fs;

use serde_json::Value;
use session_pool::proto::{SessionOptions, TurnOrigin};

use super::answer;
use crate::{
    bed::{Bed, Version, each_version, has_command, in_pieces, origin},
    support::{
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(
    a_cleared_conversation_stays_cleared,
    a_compacted_conversation_stays_compacted,
    a_copy_is_kept_as_itself,
    a_conversation_from_elsewhere_is_kept,
    a_subagents_transcript_is_kept,
    a_turn_with_tools,
    an_interrupted_turn,
);

/// The process ends without a word and its files are gone.
async fn lose(bed: &Bed, turn: &Turn) {
    bed.kill_now(turn).await;
    fs::remove_dir_all(bed.projects()).expect("removed");
}

/// What the API was shown last.
fn shown(bed: &Bed, turn: &Turn) -> String {
    bed.last_request(&turn.result().cli_session_id).body["messages"].to_string()
}

async fn a_turn_with_tools(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "[[bash echo made by hand]] [[say well done]]").await;
    lose(&bed, &first).await;
    let next = bed.query("a", "and then?").await;
    assert_eq!(origin(&next), TurnOrigin::Resumed);
    let shown = shown(&bed, &next);
    for words in ["\"tool_use\"", "echo made by hand", "\"tool_result\"", "well done"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    bed.stop().await;
}

async fn an_interrupted_turn(version: Version) {
    let bed = Bed::start(version).await;
    bed.run(in_pieces(query("a", "before"))).await;
    let mut turn = bed.open(in_pieces(query("a", "[[words 400 every 20]] at length"))).await;
    turn.until_text("word2").await;
    assert!(bed.service.interrupt("a", true).await.interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    lose(&bed, &turn).await;
    let next = bed.query("a", "after").await;
    let shown = shown(&bed, &next);
    for words in ["before", "at length", "word2", "[Request interrupted by user]"] {
        assert!(shown.contains(words), "{words} in {shown}");
    }
    bed.stop().await;
}

async fn a_cleared_conversation_stays_cleared(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    bed.query("a", "/clear").await;
    let second = bed.query("a", "two").await;
    if !has_command(&first, "clear") {
        // The words are part of the conversation, which is kept as any other.
        lose(&bed, &second).await;
        let said = ["one", "Unknown command: /clear", "two"].map(str::to_owned);
        assert_eq!(bed.query("a", "three").await.result().result, answer("three", &said));
        return bed.stop().await;
    }
    lose(&bed, &second).await;
    let third = bed.query("a", "three").await;
    assert_eq!(third.result().result, answer("three", &["two".to_owned()]));
    assert_eq!(third.result().cli_session_id, second.result().cli_session_id);
    assert_ne!(third.result().cli_session_id, first.result().cli_session_id);
    bed.stop().await;
}

async fn a_compacted_conversation_stays_compacted(version: Version) {
    let bed = Bed::start(version).await;
    for session in ["kept", "lost"] {
        bed.query(session, "one").await;
        bed.query(session, "two").await;
        bed.query(session, "/compact").await;
    }
    let before = bed.query("lost", "three").await;
    let same = bed.query("kept", "three").await;
    assert_eq!(before.result().result, same.result().result);
    lose(&bed, &before).await;
    let after = bed.query("lost", "four").await;
    assert_eq!(origin(&after), TurnOrigin::Resumed);
    let same = bed.query("kept", "four").await;
    assert_eq!(after.result().result, same.result().result);
    for turn in [&after, &same] {
        let shown = shown(&bed, turn);
        assert_eq!(shown.matches("This session is being continued").count(), 1, "{shown}");
        assert!(shown.contains("\"three\""), "{shown}");
    }
    bed.stop().await;
}

async fn a_subagents_transcript_is_kept(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = r#"[[tool Task {"description":"look","subagent_type":"general-purpose","prompt":"[[say from the depths]]"}]] [[say back]]"#;
    let first = bed.query("a", prompt).await;
    assert!(!first.result().is_error, "{:?}", first.result());
    lose(&bed, &first).await;
    let next = bed.query("a", "and then?").await;
    assert_eq!(origin(&next), TurnOrigin::Resumed);
    let mut found = false;
    let mut folders = vec![bed.projects()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable").filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.parent().is_some_and(|folder| folder.ends_with("subagents")) {
                found |= fs::read_to_string(path).expect("text").contains("from the depths");
            }
        }
    }
    assert!(found, "no subagent's transcript");
    bed.stop().await;
}

async fn a_copy_is_kept_as_itself(version: Version) {
    let bed = Bed::start(version).await;
    let original = bed.query("a", "one").await;
    let options = SessionOptions {
        resume: Some(original.result().cli_session_id.clone()),
        fork_session: Some(true),
        ..SessionOptions::default()
    };
    let copy = bed.run(query_with("b", "two", options)).await;
    assert_eq!(copy.result().result, answer("two", &["one".to_owned()]));
    bed.query("a", "another").await;
    lose(&bed, &copy).await;
    let next = bed.query("b", "three").await;
    let said = ["one", "two"].map(str::to_owned);
    assert_eq!(next.result().result, answer("three", &said));
    bed.stop().await;
}

/// A transcript that the service knows nothing of, as another program leaves it.
async fn a_conversation_from_elsewhere_is_kept(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    bed.until_written(&first).await;
    let id = first.result().cli_session_id.clone();
    let file = bed.transcript(&id).expect("a transcript");
    let text = fs::read_to_string(&file).expect("text");
    let elsewhere = uuid::Uuid::new_v4().to_string();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line.to_string().replace(&id, &elsewhere)
        })
        .collect();
    fs::write(file.with_file_name(format!("{elsewhere}.jsonl")), lines.join("\n") + "\n")
        .expect("written");

    let options = SessionOptions { resume: Some(elsewhere), ..SessionOptions::default() };
    let taken_up = bed.run(query_with("b", "two", options)).await;
    assert_eq!(taken_up.result().result, answer("two", &["one".to_owned()]));
    lose(&bed, &taken_up).await;
    let next = bed.query("b", "three").await;
    let said = ["one", "two"].map(str::to_owned);
    assert_eq!(next.result().result, answer("three", &said));
    bed.stop().await;
}
