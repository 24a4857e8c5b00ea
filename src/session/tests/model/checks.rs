//! What must hold of what callers saw.

use std::collections::HashSet;

use super::super::{Seen, Session};
use crate::turn::event::Class;

/// What the caller of a message saw: one end of each turn, and nothing about it twice.
pub fn check_message(prompt: &str, all: &[Seen], heard: &[String]) {
    let mut told = HashSet::new();
    for seen in all {
        let first = seen.sequences.first().copied().unwrap_or(1);
        let expected: Vec<u64> = (first..first + seen.sequences.len() as u64).collect();
        assert_eq!(seen.sequences, expected, "gaps: {prompt}");
        check_end(seen);
        for (_, line) in seen.frames.iter().filter(|(class, _)| *class == Class::Steered) {
            assert!(told.insert(line.clone()), "told twice: {line}");
        }
    }
    let count = heard.iter().filter(|it| *it == prompt).count();
    let has_result = all.last().is_some_and(|seen| seen.end.is_ok());
    assert!(count == 1 || (!has_result && count == 0), "{prompt} was heard {count} times: {all:?}");
}

/// No prompt reached the CLI twice, whoever asked for it again.
pub fn heard_once(session: &Session) {
    let heard = session.supply.heard.lock().expect("no panic");
    let mut prompts: Vec<&String> = heard.values().flatten().collect();
    prompts.sort();
    let all = prompts.len();
    prompts.dedup();
    assert_eq!(prompts.len(), all, "a prompt was heard twice: {prompts:?}");
}

pub fn check(seen: &Seen) {
    let expected: Vec<u64> = (1..=seen.sequences.len() as u64).collect();
    assert_eq!(seen.sequences, expected, "gaps");
    check_end(seen);
}

pub fn check_end(seen: &Seen) {
    assert!(seen.started.len() <= 1, "started twice: {seen:?}");
    let results = seen
        .frames
        .iter()
        .filter(|(class, _)| matches!(class, Class::Result | Class::InterruptedResult))
        .count();
    match &seen.end {
        Ok(()) => {
            assert_eq!(results, 1, "{seen:?}");
            let last = seen.frames.last().map(|(class, _)| *class);
            assert!(matches!(last, Some(Class::Result | Class::InterruptedResult)), "{seen:?}");
        }
        Err(_) => assert_eq!(results, 0, "{seen:?}"),
    }
}

pub fn belongs(prompt: &str, seen: &Seen) {
    let own = prompt.split_whitespace().next().expect("a tag");
    let wanted = prompt.split_whitespace().find(|word| word.starts_with("sp="));
    // What it takes up are messages of others.
    let own_frames = seen.frames.iter().filter(|(_, line)| !line.contains("isReplay"));
    for (class, line) in own_frames {
        if let (Some(wanted), Class::Assistant) = (wanted, class) {
            assert!(line.contains(wanted), "{line} without {wanted}");
        }
        // Messages and results carry the prompt that they answer.
        if let Some((_, rest)) = line.split_once('<') {
            assert!(format!("<{rest}").starts_with(own), "{line} in the turn {prompt}");
        }
        assert!(!line.contains("unasked"), "{line} in the turn {prompt}");
    }
}
