//! Arguments of the commands for a running service.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::session::OptionArgs;

/// How answers are written.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// Write the answer as JSON, in the form that grpcurl prints, one message a line.
    #[arg(long)]
    pub json: bool,
}

/// How a turn is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct Show {
    /// Show text while the model still writes it. Default: on a terminal.
    #[arg(long, overrides_with = "no_partial")]
    pub partial: bool,
    /// Show text when it is complete.
    #[arg(long)]
    pub no_partial: bool,
    /// How it is written.
    #[command(flatten)]
    pub form: Form,
}

impl Show {
    /// Whether pieces of messages are asked for.
    pub fn partial(self, is_screen: bool) -> bool {
        self.partial || (is_screen && !self.no_partial && !self.form.json)
    }
}

/// Arguments of `query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The prompt. Without it, or with -, it is read from stdin.
    pub prompt: Option<String>,
    /// The session, made if it is new. Without it the turn has a session of its own.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub session: String,
    /// A name for the turn: run again with the same one, it is joined, not repeated.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub turn: String,
    /// An image to send before the prompt: png, jpeg, gif or webp. Can be given more than
    /// once.
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// A document to send before the prompt: pdf or text. Can be given more than once.
    #[arg(long, value_name = "FILE")]
    pub document: Vec<PathBuf>,
    /// Forget what was said in this session before.
    #[arg(long)]
    pub new_conversation: bool,
    /// What to do if the session is running a turn.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "queue")]
    pub on_busy: OnBusy,
    /// What becomes of the turn when this command ends before it.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "interrupt")]
    pub on_disconnect: OnDisconnect,
    /// What becomes of what the turn has begun in the background. Default: it goes on, and
    /// without a session is waited for.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub on_background: Option<OnBackground>,
    /// What to do about options that the session's process cannot take on.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "fail")]
    pub on_options_mismatch: OnMismatch,
    /// Give up after this time, for example 90s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// How the turn is shown.
    #[command(flatten)]
    pub show: Show,
    /// What the session is to be.
    #[command(flatten)]
    pub options: OptionArgs,
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
    /// Hand the prompt to it as a message.
    Steer,
}

/// What becomes of a turn that nobody watches any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnDisconnect {
    /// It is interrupted.
    Interrupt,
    /// It goes on; `attach` joins it.
    Continue,
}

/// What becomes of what a turn has begun in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnBackground {
    /// It goes on.
    Keep,
    /// It goes on, and is waited for.
    Wait,
    /// It is stopped when the turn has ended.
    Stop,
}

/// What happens about options that only another process can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnMismatch {
    /// The turn is refused.
    Fail,
    /// The process is replaced; the conversation goes on.
    Restart,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The session.
    pub session: String,
    /// Join this turn. Default at a terminal: all turns; elsewhere the running one, else the last.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub turn: String,
    /// The first event wanted, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub from: u64,
    /// How the turn is shown.
    #[command(flatten)]
    pub show: Show,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Forget the conversation when one leaves.
    #[arg(long)]
    pub forget: bool,
    /// Show text when it is complete, not while the model still writes it.
    #[arg(long)]
    pub no_partial: bool,
    /// What the session is to be.
    #[command(flatten)]
    pub options: OptionArgs,
}

impl ChatArgs {
    /// How its turns are shown.
    pub fn show(&self) -> Show {
        Show { partial: false, no_partial: self.no_partial, form: Form { json: false } }
    }
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The session.
    pub session: String,
    /// Go on where another watch stood, as its --json tells. Default: from now on.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// Begin with the first turn that is kept.
    #[arg(long, conflicts_with = "cursor")]
    pub from_start: bool,
    /// How the turns are shown.
    #[command(flatten)]
    pub show: Show,
}

/// Arguments of `respond`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("one_answer").required(true).args(["decision", "response_json", "answer"]))]
pub struct RespondArgs {
    /// The session.
    pub session: String,
    /// The prompt, as `query` and `attach` name it.
    pub prompt_id: String,
    /// The answer: yes (y), no (n), or always (a): yes, and do not ask again in this session.
    #[arg(value_enum)]
    pub decision: Option<Answer>,
    /// What the model is told of a no. With a hook other than PreToolUse: why something is blocked.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub message: String,
    /// End the turn, too, with a no.
    #[arg(long)]
    pub interrupt: bool,
    /// The tool's input in place of the one that it asked with, as a JSON object.
    #[arg(long, value_name = "JSON", default_value = "", hide_default_value = true)]
    pub input: String,
    /// What the model is told beside the answer to a hook.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub context: String,
    /// The answer to a question of the model; once for each question. Several choices as one
    /// text, joined by ", ".
    #[arg(long, value_name = "QUESTION=ANSWER", value_parser = question_and_answer)]
    pub answer: Vec<(String, String)>,
    /// The answer to a prompt of another kind, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub response_json: Option<String>,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// Splits at the first `=` behind a question mark, or else at the first.
fn question_and_answer(text: &str) -> Result<(String, String), String> {
    let (question, answer) = match text.split_once("?=") {
        Some((question, answer)) => (format!("{question}?"), answer),
        None => {
            let (question, answer) = text.split_once('=').ok_or("must be QUESTION=ANSWER")?;
            (question.to_owned(), answer)
        }
    };
    Ok((question, answer.to_owned()))
}

/// An answer to the question whether a tool may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// This time.
    #[value(alias = "y", alias = "allow")]
    Yes,
    /// Not this time.
    #[value(alias = "n", alias = "deny")]
    No,
    /// From now on.
    #[value(alias = "a")]
    Always,
}

/// Arguments of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The session.
    pub session: String,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
    /// What changes.
    #[command(flatten)]
    pub options: OptionArgs,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The session.
    pub session: String,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `interrupt`.
#[derive(Debug, Args)]
pub struct InterruptArgs {
    /// The session.
    pub session: String,
    /// Keep the session in the pool, and the turns that wait.
    #[arg(long)]
    pub keep_session: bool,
    /// Stop all that works behind the turns, too: subagents and commands in the background.
    #[arg(long, conflicts_with = "turn")]
    pub all: bool,
    /// Stop this turn alone, or take it out of the queue. The session stays.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub turn: String,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// Arguments of `stop-task`.
#[derive(Debug, Args)]
pub struct StopTaskArgs {
    /// The session.
    pub session: String,
    /// The task, as `show` names it.
    pub task: String,
}

/// Arguments of `close`.
#[derive(Debug, Args)]
pub struct CloseArgs {
    /// The session.
    pub session: String,
    /// Forget the conversation too.
    #[arg(long)]
    pub forget: bool,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
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
