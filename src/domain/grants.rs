//! Permissions that a session has beyond its options: rules and directories that callers gave
//! it with their answers to prompts. `cli::permissions` reads them from those answers, and
//! gives them to a process.

use serde::{Deserialize, Serialize};

/// Rules of each kind, at most; as many as an option takes.
pub const MOST_RULES: usize = 256;
/// Bytes of a rule, likewise.
pub const LONGEST_RULE: usize = 1024;
/// Folders, likewise.
pub const MOST_FOLDERS: usize = 32;
/// Bytes of all of them. They are kept with every turn.
pub const MOST_BYTES: usize = 64 << 10;

/// What a rule says of the calls that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// They run without asking.
    Allow,
    /// They are refused.
    Deny,
    /// They are asked about.
    Ask,
}

/// What an update does to the rules of one behavior.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Adds these.
    Add,
    /// Puts these in the place of all.
    Replace,
    /// Takes these away.
    Remove,
}

/// A permission update for the session, in an answer to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Another permission mode.
    Mode(String),
    /// Other rules, each as an option would name it.
    Rules(Change, Behavior, Vec<String>),
    /// More folders.
    AddFolders(Vec<String>),
    /// Fewer folders.
    RemoveFolders(Vec<String>),
}

/// Rules and folders of a session. No list holds anything twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Rules of calls that run without asking.
    pub allow: Vec<String>,
    /// Rules of calls that are refused.
    pub deny: Vec<String>,
    /// Rules of calls that are asked about.
    pub ask: Vec<String>,
    /// Folders that tools may reach.
    pub folders: Vec<String>,
}

impl Grants {
    /// What is granted after an update.
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::Mode(_) => {}
            Update::Rules(change, behavior, rules) => {
                let list = match behavior {
                    Behavior::Allow => &mut self.allow,
                    Behavior::Deny => &mut self.deny,
                    Behavior::Ask => &mut self.ask,
                };
                match change {
                    Change::Add => add(list, rules),
                    Change::Remove => list.retain(|rule| !takes_away(*behavior, rules, rule)),
                    Change::Replace => {
                        list.clear();
                        add(list, rules);
                    }
                }
            }
            Update::AddFolders(folders) => add(&mut self.folders, folders),
            Update::RemoveFolders(folders) => {
                self.folders.retain(|folder| !folders.contains(folder));
            }
        }
    }

    /// Whether a session can have so many.
    pub fn fit(&self) -> bool {
        let rules = [&self.allow, &self.deny, &self.ask];
        let bytes: usize =
            rules.into_iter().chain([&self.folders]).flatten().map(String::len).sum();
        rules.iter().all(|list| list.len() <= MOST_RULES)
            && self.folders.len() <= MOST_FOLDERS
            && bytes <= MOST_BYTES
    }

    /// Whether there are rules. Folders are given to a process when it starts.
    pub fn has_rules(&self) -> bool {
        ![&self.allow, &self.deny, &self.ask].iter().all(|list| list.is_empty())
    }

    /// Whether all rules of `other` are among these.
    pub fn cover_rules_of(&self, other: &Self) -> bool {
        let covers =
            |ours: &[String], theirs: &[String]| theirs.iter().all(|rule| ours.contains(rule));
        covers(&self.allow, &other.allow)
            && covers(&self.deny, &other.deny)
            && covers(&self.ask, &other.ask)
    }
}

/// Whether a rule goes with these. The CLI takes `Bash` and `Bash(*)` for one rule where it has
/// written the second (2.1.332), other versions may not. So what allows goes with either, and what
/// forbids or asks stays unless it was named as it is.
fn takes_away(behavior: Behavior, removed: &[String], rule: &str) -> bool {
    let tool = |rule: &str| rule.strip_suffix("(*)").unwrap_or(rule).to_owned();
    removed.iter().any(|named| match behavior {
        Behavior::Allow => tool(named) == tool(rule),
        Behavior::Deny | Behavior::Ask => named == rule,
    })
}

fn add(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}
