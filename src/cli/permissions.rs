//! Permissions that a session has beyond its options: rules and folders that callers gave
//! it with their answers to prompts. The CLI keeps those of the destination `session` for
//! as long as its process lives; here they are values that another process can be given.
//!
//! Observed on 2.1.197 and 2.1.330: an update that is not as it should be is left out
//! without a word, so what cannot be read is refused before it is sent. `permissions` in
//! `apply_flag_settings` add to those of the command line, of the caller's settings and of
//! the process's own session; they replace only what an earlier such request said.

use serde_json::{Map, Value, json};

use super::{
    json::{Text, members, read_or_default},
    request::ControlRequest,
};
use crate::domain::grants::{
    Behavior, Change, Grants, LONGEST_RULE, MOST_FOLDERS, MOST_RULES, Update,
};

/// What is wrong with an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The key.
    pub at: &'static str,
    /// What it has to be.
    pub problem: String,
}

impl Malformed {
    fn new(at: &'static str, problem: impl Into<String>) -> Self {
        Self { at, problem: problem.into() }
    }
}

impl Update {
    /// Reads an update as the CLI does.
    pub fn read(update: &Value) -> Result<Self, Malformed> {
        if update.get("destination").and_then(Value::as_str) != Some("session") {
            return Err(Malformed::new("destination", "must be \"session\""));
        }
        let rules = |change| Ok(Self::Rules(change, behavior(update)?, rules(update)?));
        match update.get("type").and_then(Value::as_str).unwrap_or_default() {
            "setMode" => match update.get("mode").and_then(Value::as_str) {
                Some(mode) => Ok(Self::Mode(mode.to_owned())),
                None => Err(Malformed::new("mode", "must be the name of a permission mode")),
            },
            "addRules" => rules(Change::Add),
            "replaceRules" => rules(Change::Replace),
            "removeRules" => rules(Change::Remove),
            "addDirectories" => folders(update).map(Self::AddFolders),
            "removeDirectories" => folders(update).map(Self::RemoveFolders),
            _ => Err(Malformed::new("type", "must be the kind of a permission update")),
        }
    }

    /// Reads updates that were checked where they came in.
    pub fn read_all(updates: &str) -> Vec<Self> {
        let updates: Vec<Value> = serde_json::from_str(updates).unwrap_or_default();
        updates.iter().filter_map(|update| Self::read(update).ok()).collect()
    }

    /// The updates in an answer in the CLI's own words. A refusal brings none.
    pub fn read_answer(answer: &str) -> Vec<Self> {
        let (mut allows, mut updates) = (false, Vec::new());
        members(answer, |key, _, value| match key {
            "behavior" => allows = read_or_default::<Text<'_>>(Some(value)).0 == "allow",
            "updatedPermissions" => updates = Self::read_all(value.get()),
            _ => {}
        });
        if allows { updates } else { Vec::new() }
    }
}

fn behavior(update: &Value) -> Result<Behavior, Malformed> {
    match update.get("behavior").and_then(Value::as_str).unwrap_or_default() {
        "allow" => Ok(Behavior::Allow),
        "deny" => Ok(Behavior::Deny),
        "ask" => Ok(Behavior::Ask),
        _ => Err(Malformed::new("behavior", "must be allow, deny or ask")),
    }
}

fn rules(update: &Value) -> Result<Vec<String>, Malformed> {
    let wanted = || {
        let each = format!("each as one rule of at most {LONGEST_RULE} bytes");
        let form = "{\"toolName\": …, \"ruleContent\": …}, without an empty ruleContent";
        let problem = format!("must be an array of at most {MOST_RULES} objects {form}, {each}");
        Malformed::new("rules", problem)
    };
    let rules = update.get("rules").and_then(Value::as_array).ok_or_else(wanted)?;
    if rules.len() > MOST_RULES {
        return Err(wanted());
    }
    rules.iter().map(|rule| rule_text(rule).ok_or_else(wanted)).collect()
}

/// A rule as the CLI writes it down: `Tool` or `Tool(content)`.
fn rule_text(rule: &Value) -> Option<String> {
    let tool = rule.get("toolName")?.as_str().filter(|tool| !tool.is_empty())?;
    let text = match rule.get("ruleContent") {
        None => tool.to_owned(),
        Some(content) => format!("{tool}({})", escaped(content.as_str()?)?),
    };
    (text.len() <= LONGEST_RULE && !text.chars().any(char::is_control)).then_some(text)
}

/// 2.1.330 leaves out a rule whose content is empty, 2.1.197 takes it for one of the whole
/// tool.
fn escaped(content: &str) -> Option<String> {
    let escaped = content.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)");
    (!content.is_empty()).then_some(escaped)
}

fn folders(update: &Value) -> Result<Vec<String>, Malformed> {
    let wanted = || {
        let problem = format!("must be an array of at most {MOST_FOLDERS} paths");
        Malformed::new("directories", problem)
    };
    let folders = update.get("directories").and_then(Value::as_array).ok_or_else(wanted)?;
    if folders.len() > MOST_FOLDERS {
        return Err(wanted());
    }
    let path = |folder: &Value| folder.as_str().map(str::to_owned).ok_or_else(wanted);
    folders.iter().map(path).collect()
}

impl Grants {
    /// Gives a process these rules, in the place of those that it was given so before.
    pub fn request(&self) -> ControlRequest {
        let mut permissions = Map::new();
        for (name, rules) in [("deny", &self.deny), ("ask", &self.ask), ("allow", &self.allow)] {
            permissions.insert(name.to_owned(), json!(rules));
        }
        ControlRequest::new(json!({
            "subtype": "apply_flag_settings", "settings": {"permissions": permissions}
        }))
    }
}

#[cfg(test)]
mod tests;
