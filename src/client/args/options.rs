//! Arguments of the commands for a running service.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// How answers are written.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// Write JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The prompt; - reads it from stdin.
    pub prompt: String,
    /// The session, made if it is new. Without it the turn has a session of its own.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub session: String,
    /// Model alias or name.
    #[arg(long)]
    pub model: Option<String>,
    /// Replaces the CLI's system prompt.
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Permission mode, as far as the service allows it.
    #[arg(long, value_name = "MODE")]
    pub permission_mode: Option<String>,
    /// A tool that runs without asking, for example 'Bash(git:*)'. Can be given more
    /// than once.
    #[arg(long, value_name = "TOOL")]
    pub allow: Vec<String>,
    /// Rounds with the model after which the turn ends.
    #[arg(long, value_name = "N")]
    pub max_turns: Option<u32>,
    /// Show text while the model still writes it.
    #[arg(long)]
    pub partial: bool,
    /// Forget what was said in this session before.
    #[arg(long)]
    pub new_conversation: bool,
    /// What to do if the session is running a turn.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "queue")]
    pub on_busy: OnBusy,
    /// Give up after this time, for example 90s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Write the CLI's frames as JSON, one a line.
    #[arg(long)]
    pub json: bool,
}

/// What happens while another turn of the session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnBusy {
    /// Wait for it.
    Queue,
    /// Fail.
    Reject,
    /// Stop it.
    Interrupt,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The session.
    pub session: String,
    /// The turn. Default: the running one, else the last.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub turn: String,
    /// The first event wanted, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub from: u64,
    /// Write the CLI's frames as JSON, one a line.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `interrupt`.
#[derive(Debug, Args)]
pub struct InterruptArgs {
    /// The session.
    pub session: String,
    /// Keep the session in the pool, and the turns that wait.
    #[arg(long)]
    pub keep_session: bool,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `close`.
#[derive(Debug, Args)]
pub struct CloseArgs {
    /// The session.
    pub session: String,
    /// Forget the conversation too.
    #[arg(long)]
    pub forget: bool,
}

/// Arguments of `sessions`.
#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Show them again every 2 seconds, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}
