//! Tool calls and their results: every call of a message is answered at the beginning of the next one, once.

use std::collections::HashSet;

use serde_json::Value;

use super::{Message, Role};

/// Messages of one side that follow each other count as one.
#[derive(Debug)]
struct Turn<'a> {
    at: &'a str,
    role: Role,
    /// Its blocks with their places.
    blocks: Vec<(String, &'a Value)>,
}

/// Checks that calls and results belong together.
pub fn check(messages: &[Message<'_>]) -> Result<(), String> {
    let turns = turns(messages);
    let mut known = HashSet::new();
    let mut before: HashSet<&str> = HashSet::new();
    for (index, turn) in turns.iter().enumerate() {
        results(turn, &before)?;
        let calls = calls(turn);
        if !calls.iter().all(|call| known.insert(*call)) {
            return Err("messages: `tool_use` ids must be unique".to_owned());
        }
        let answered = turns.get(index + 1).map_or_else(HashSet::new, answers);
        let open: Vec<&str> =
            calls.iter().copied().filter(|call| !answered.contains(call)).collect();
        if !open.is_empty() {
            return Err(format!(
                "{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. \
                 Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
                turn.at,
                open.join(", ")
            ));
        }
        before = calls.into_iter().collect();
    }
    Ok(())
}

fn turns<'a>(messages: &'a [Message<'a>]) -> Vec<Turn<'a>> {
    let mut turns: Vec<Turn<'a>> = Vec::new();
    for message in messages {
        if turns.last().is_none_or(|turn| turn.role != message.role) {
            turns.push(Turn { at: &message.at, role: message.role, blocks: Vec::new() });
        }
        let blocks = message.blocks.iter().enumerate();
        let placed =
            blocks.map(|(index, block)| (format!("{}.content.{index}", message.at), block));
        if let Some(turn) = turns.last_mut() {
            turn.blocks.extend(placed);
        }
    }
    turns
}

fn calls<'a>(turn: &Turn<'a>) -> Vec<&'a str> {
    let calls = turn.blocks.iter().filter(|(_, block)| block["type"] == "tool_use");
    calls.filter_map(|(_, block)| block["id"].as_str()).collect()
}

/// The calls that a turn answers: results stand before everything else.
fn answers<'a>(turn: &Turn<'a>) -> HashSet<&'a str> {
    let first = turn.blocks.iter().take_while(|(_, block)| block["type"] == "tool_result");
    first.filter_map(|(_, block)| block["tool_use_id"].as_str()).collect()
}

/// Checks that each result of a turn answers a call of the turn before, and is its only one.
fn results(turn: &Turn<'_>, before: &HashSet<&str>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (at, block) in &turn.blocks {
        if block["type"] != "tool_result" {
            continue;
        }
        let id = block["tool_use_id"].as_str().unwrap_or_default();
        if !before.contains(id) {
            return Err(format!(
                "{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` \
                 block must have a corresponding `tool_use` block in the previous message."
            ));
        }
        if !seen.insert(id) {
            return Err(format!(
                "{at}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id}"
            ));
        }
    }
    Ok(())
}
