//! What callers answer to what the CLI asks.

use std::collections::BTreeMap;

use super::hook::HookDecision;

/// A caller's answer to a prompt of the CLI.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Let the tool run.
    Allow {
        /// The input to run it with, as JSON; `None`: as it asked.
        updated_input: Option<String>,
        /// Permission updates to apply, as JSON.
        updated_permissions: Option<String>,
    },
    /// Do not let it run.
    Deny {
        /// What the model is told.
        message: String,
        /// Whether the turn ends too.
        interrupt: bool,
    },
    /// Answers to the model's questions, by the questions' texts.
    Answers(BTreeMap<String, String>),
    /// What a hook says.
    Hook(Box<HookDecision>),
    /// The answer to a prompt of another kind, as JSON.
    Raw(String),
}

impl Decision {
    /// What it is called in the contract.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Deny { .. } => "deny",
            Self::Answers(_) => "answers",
            Self::Hook(_) => "hook",
            Self::Raw(_) => "response_json",
        }
    }
}
