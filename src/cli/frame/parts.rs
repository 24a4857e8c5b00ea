//! What frames say, as values: answers, tasks, tool calls, results.

use crate::domain::usage::TokenUsage;

/// The answer to a control request of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlReply {
    /// The request's id.
    pub request_id: String,
    /// What was answered: the payload as JSON (`null` without one), or the error.
    pub outcome: Result<String, String>,
}

/// A task of the CLI's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its id.
    pub id: String,
    /// `local_agent`, `local_bash`, …
    pub kind: String,
    /// What it is for.
    pub description: String,
    /// The tool call by which it was begun; empty where that is not said.
    pub call: String,
    /// The task that began it; empty where that is not said.
    pub parent: String,
    /// Whether a turn waits for it, as far as the version says so.
    pub foreground: bool,
}

/// A tool call or a tool's result in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolTexts {
    /// The call.
    pub id: String,
    /// The tool's name; empty in a result.
    pub name: String,
    /// The input as JSON, or the result as far as it is text.
    pub text: String,
}

/// What a model was used for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelUse {
    /// Its name, as the CLI has it.
    pub name: String,
    /// In US dollars.
    pub cost_usd: f64,
    /// Tokens, those of subagents as well.
    pub usage: TokenUsage,
}

/// What a result tells of each model.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelsTold {
    /// What was used since the result before, from versions that say so.
    Since(Vec<ModelUse>),
    /// Sums over the life of the process, which need not begin at 0.
    Sums(Vec<ModelUse>),
}

impl Default for ModelsTold {
    fn default() -> Self {
        Self::Sums(Vec::new())
    }
}

/// The figures of a `result`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResultSummary {
    /// Whether the turn failed.
    pub is_error: bool,
    /// Why it ended, for example `aborted_tools`.
    pub terminal_reason: String,
    /// The error or the answer in words, cut to 300 characters.
    pub text: String,
    /// Cost in US dollars, summed over the life of the process; `None` if it is not told.
    pub total_cost_usd: Option<f64>,
    /// What of it was spent since the result before, from versions that say so.
    pub cost_since_last_usd: Option<f64>,
    /// The same by model.
    pub models: ModelsTold,
    /// The structured output, as JSON.
    pub structured_output: Option<String>,
    /// Tokens of the turn.
    pub usage: TokenUsage,
    /// Ids of the prompts that it answers, from versions that say so.
    pub prompt_uuids: Vec<String>,
    /// Whether it ends a turn that a background task began (`origin.kind`).
    pub background: bool,
    /// The conversation's id.
    pub cli_session_id: String,
}
