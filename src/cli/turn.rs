//! What Claude's frames mean for a turn, in the words of a session: what is an event of it, what
//! ends it and how, what belongs to another turn, whether a tool is at work. This is the one place
//! that knows from which frames that is read off. What is done about it (logs, timers, costs, the
//! store) is for the session to say. No clock, and nothing to wait for.
//!
//! Versions differ. Older ones say neither when they take up a prompt nor which prompts a result
//! answers; newer ones say both. A CLI may also begin a turn by itself, when a background task has
//! ended, just before it reads a prompt: until it says that it has taken the prompt up, what it
//! prints may be of either turn ([`TurnReader::is_certain`]). Older versions echo a prompt before
//! they tell its result, whatever becomes of it, if the model was asked; commands of the CLI and
//! prompts that a hook has blocked have no echo, and no `terminal_reason` either (seen on 2.1.110
//! and 2.1.197). Where a task has just ended or a timer is set, a result with the one and without
//! the other is of the turn about that.

use std::collections::HashSet;

use memchr::memmem;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    frame::{Frame, FrameKind, ResultSummary},
    schema,
    traits::CliTraits,
};

mod between;

pub use between::{Aside, announcement, begins_turn, is_of_turn, taken_up, told_aside};

/// How many repeats of an idle state without a result are taken for the end: a turn's
/// beginning may still see the idle state of the turn before.
const IDLE_GRACE: u32 = 2;

/// Tools at the same time. A bound for an agent that speaks in the CLI's name.
const MOST_TOOLS: usize = 10_000;

/// What the CLI says in the user's name when it has stopped a turn, whatever result follows.
const STOPPED: &[u8] = b"[Request interrupted by user";

/// What the API answers where it does not take the credentials.
const REFUSED: [u32; 2] = [401, 403];

/// How often the API may refuse the credentials, one time after the other, before a turn is
/// hopeless: the CLI goes on for three minutes. One refusal may be a gateway's hiccup.
const MOST_REFUSALS: u32 = 3;

/// What a frame means for the turn that runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'f> {
    /// Nothing that a caller sees.
    Hidden,
    /// The echo of its prompt, which no caller needs.
    Echo,
    /// An event of it.
    Event(EventKind),
    /// An event, and from here on the conversation has this id.
    Moved(EventKind, &'f str),
    /// Its end.
    Over(Outcome, &'f ResultSummary),
    /// Its end without a result: the CLI stopped working.
    OverSilently,
    /// The end of another turn, which the CLI had begun by itself. What was not certain
    /// to be of this turn was of that one.
    OtherOver(&'f ResultSummary),
}

/// What kind of event a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The CLI says something of itself.
    System,
    /// A message of the model.
    Assistant,
    /// A message in the user's role.
    User,
    /// A piece of a message.
    StreamEvent,
    /// The CLI asks something.
    Prompt,
    /// Any other.
    Other,
}

/// How a turn ended that has a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end.
    Completed,
    /// Its result is an error.
    Failed,
    /// The CLI stopped it, as it was asked to.
    Interrupted,
    /// It went well, but for the structured output that its schema asks for.
    Unstructured,
}

/// What has to be known of a turn to read its frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Whether the CLI was asked to stop it.
    pub stopping: bool,
    /// The JSON schema of its structured output; empty if it has none.
    pub schema: &'a str,
}

/// Reads the frames of one turn.
#[derive(Debug)]
pub struct TurnReader {
    /// The id of its prompt; none for a turn that the CLI began by itself.
    prompt: Option<String>,
    has_answer: bool,
    is_certain: bool,
    /// Whether the CLI has echoed the prompt.
    is_taken_up: bool,
    /// Whether the CLI has said that it stopped the turn, as it was asked to. 2.1.110 may go on with
    /// what its subagents report, and tells the result of that.
    is_stopped: bool,
    /// Whether the CLI echoes a prompt before it tells the result, if the model was asked.
    is_echoed: bool,
    /// Whether the CLI may be about to begin a turn by itself: a task has just ended, or a timer is
    /// set, whose end no frame tells.
    other_is_due: bool,
    has_first_frame: bool,
    has_used_tools: bool,
    /// Whether the CLI has said that it works.
    has_worked: bool,
    hears_interrupts: bool,
    idle_seen: u32,
    /// How often the API has refused the credentials since it last answered otherwise.
    refusals: u32,
    /// The tools at work.
    tools: HashSet<String>,
}

impl TurnReader {
    /// A turn of a CLI that was `read` until then: with this prompt, or by the CLI itself.
    pub fn new(prompt: Option<Uuid>, traits: &CliTraits, read: Instant) -> Self {
        Self {
            has_answer: prompt.is_none(),
            is_certain: prompt.is_none() || !traits.may_begin_turns(read),
            prompt: prompt.map(|uuid| uuid.to_string()),
            is_taken_up: false,
            is_stopped: false,
            is_echoed: prompt.is_some() && traits.echoes_prompts(),
            other_is_due: traits.begins_until(read).is_some() || traits.background.has_timers(),
            has_first_frame: false,
            has_used_tools: false,
            has_worked: false,
            hears_interrupts: false,
            idle_seen: 0,
            refusals: 0,
            tools: HashSet::new(),
        }
    }

    /// Whether a caller asked for the turn, and not the CLI itself.
    pub fn is_asked_for(&self) -> bool {
        self.prompt.is_some()
    }

    /// Whether the process has shown that it has the prompt: the turn may have begun, and is
    /// not to be repeated.
    pub fn has_answer(&self) -> bool {
        self.has_answer
    }

    /// Whether what was read is known to be of this turn, and of no other that the CLI began by
    /// itself. Once it is, it stays so.
    pub fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// Whether a frame has come that shows that the CLI works on a turn.
    pub fn has_first_frame(&self) -> bool {
        self.has_first_frame
    }

    /// Whether `system/init` has come: interrupts before that are lost (2.1.197, 2.1.332).
    pub fn hears_interrupts(&self) -> bool {
        self.hears_interrupts
    }

    /// Whether a tool may have run.
    pub fn has_used_tools(&self) -> bool {
        self.has_used_tools
    }

    /// Whether a tool is at work: silence is no sign of trouble then.
    pub fn waits_for_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Whether the API does not take the credentials, however often the CLI tries.
    pub fn has_credentials_refused(&self) -> bool {
        self.refusals >= MOST_REFUSALS
    }

    /// What the next frame means.
    pub fn read<'f>(&mut self, frame: &'f Frame, facts: &Facts<'_>) -> Meaning<'f> {
        let kind = &frame.kind;
        if frame.of_subagent {
            return self.of_subagent(kind);
        }
        self.has_answer = self.has_answer || self.is_answer(frame);
        self.is_taken_up |=
            matches!(kind, FrameKind::User { echo_of: Some(uuid), .. } if self.is_prompt(uuid));
        self.is_certain = self.is_certain || self.makes_certain(kind);
        self.other_is_due |= matches!(kind, FrameKind::TaskEnded { .. });
        self.is_stopped |= facts.stopping
            && matches!(kind, FrameKind::User { echo_of: None, .. })
            && memmem::find(&frame.raw, STOPPED).is_some();
        let meaning = self.meaning(kind, facts);
        self.count_refusals(kind);
        self.has_first_frame |= is_work(kind);
        meaning
    }

    fn meaning<'f>(&mut self, kind: &'f FrameKind, facts: &Facts<'_>) -> Meaning<'f> {
        match kind {
            FrameKind::Mirror | FrameKind::ControlReply(_) => Meaning::Hidden,
            FrameKind::State { idle: true } => self.idle(),
            FrameKind::State { idle: false } => {
                self.has_worked = true;
                Meaning::Event(EventKind::System)
            }
            FrameKind::ApiRetry { .. }
            | FrameKind::System
            | FrameKind::PermissionMode { .. }
            | FrameKind::TaskStarted(_)
            | FrameKind::TaskEnded { .. }
            | FrameKind::TaskProgress
            | FrameKind::TasksListed(_) => Meaning::Event(EventKind::System),
            FrameKind::Init { cli_session_id, .. } => {
                (self.has_worked, self.hears_interrupts) = (true, true);
                Meaning::Moved(EventKind::System, cli_session_id)
            }
            FrameKind::ConversationReset { cli_session_id } => {
                Meaning::Moved(EventKind::Other, cli_session_id)
            }
            FrameKind::Prompt(_) => Meaning::Event(EventKind::Prompt),
            FrameKind::Assistant { tool_calls } => {
                self.has_used_tools |= !tool_calls.is_empty();
                let room = MOST_TOOLS.saturating_sub(self.tools.len());
                self.tools.extend(tool_calls.iter().take(room).cloned());
                Meaning::Event(EventKind::Assistant)
            }
            FrameKind::User { echo_of: Some(uuid), .. } if self.is_prompt(uuid) => Meaning::Echo,
            FrameKind::User { tool_results, .. } => {
                for id in tool_results {
                    self.tools.remove(id);
                }
                Meaning::Event(EventKind::User)
            }
            FrameKind::StreamEvent => Meaning::Event(EventKind::StreamEvent),
            FrameKind::Other
            | FrameKind::PromptCancelled { .. }
            | FrameKind::PromptStarted { .. } => Meaning::Event(EventKind::Other),
            FrameKind::Result(summary) if self.is_mine(summary) => {
                Meaning::Over(outcome(summary, facts, self.is_stopped), summary)
            }
            FrameKind::Result(summary) => {
                self.has_worked = false;
                self.idle_seen = 0;
                self.tools.clear();
                self.other_is_due = false;
                Meaning::OtherOver(summary)
            }
        }
    }

    /// What a subagent prints. It may work behind an earlier turn, and says nothing of what this
    /// one has got to; only that this turn is not silent while one of its tools waits for it.
    fn of_subagent(&mut self, kind: &FrameKind) -> Meaning<'static> {
        self.count_refusals(kind);
        Meaning::Event(match kind {
            FrameKind::Assistant { tool_calls } => {
                self.has_used_tools |= !tool_calls.is_empty();
                EventKind::Assistant
            }
            FrameKind::User { .. } => EventKind::User,
            FrameKind::StreamEvent => EventKind::StreamEvent,
            _ => EventKind::Other,
        })
    }

    fn idle(&mut self) -> Meaning<'static> {
        self.idle_seen = self.idle_seen.saturating_add(1);
        if self.has_worked || self.idle_seen >= IDLE_GRACE {
            return Meaning::OverSilently;
        }
        Meaning::Hidden
    }

    fn count_refusals(&mut self, kind: &FrameKind) {
        match kind {
            FrameKind::ApiRetry { status } if REFUSED.contains(status) => {
                self.refusals = self.refusals.saturating_add(1);
            }
            FrameKind::ApiRetry { .. } | FrameKind::Assistant { .. } | FrameKind::StreamEvent => {
                self.refusals = 0;
            }
            _ => {}
        }
    }

    /// Whether a frame shows that the process has the prompt. What may be the end of an earlier
    /// turn does so only where it names the prompt.
    fn is_answer(&self, frame: &Frame) -> bool {
        match &frame.kind {
            FrameKind::State { idle: true }
            | FrameKind::TaskStarted(_)
            | FrameKind::TaskEnded { .. }
            | FrameKind::TaskProgress
            | FrameKind::TasksListed(_)
            | FrameKind::Mirror
            | FrameKind::Other => self
                .prompt
                .as_ref()
                .is_some_and(|uuid| memmem::find(&frame.raw, uuid.as_bytes()).is_some()),
            _ => true,
        }
    }

    /// Whether a frame shows that what came before it is of this turn. A prompt of the CLI has
    /// to be seen by somebody who can answer it, whosever it is.
    fn makes_certain(&self, kind: &FrameKind) -> bool {
        match kind {
            FrameKind::PromptStarted { uuid } => self.is_prompt(uuid),
            FrameKind::User { echo_of: Some(uuid), .. } => self.is_prompt(uuid),
            FrameKind::Result(summary) => self.is_mine(summary),
            FrameKind::Prompt(_) => true,
            _ => false,
        }
    }

    /// Newer versions say which prompts a result answers, and that a background task
    /// asked for it. Of older ones the echo of the prompt has to have come. A prompt that one has
    /// taken up in a turn of its own is answered by that turn.
    fn is_mine(&self, summary: &ResultSummary) -> bool {
        let Some(prompt) = &self.prompt else { return true };
        if summary.prompt_uuids.is_empty() {
            // Without the model there is no reason why it stopped.
            let is_unechoed = self.is_echoed && !summary.terminal_reason.is_empty();
            let is_other = summary.background || (self.other_is_due && is_unechoed);
            return self.is_taken_up || !is_other;
        }
        summary.prompt_uuids.contains(prompt)
    }

    fn is_prompt(&self, uuid: &str) -> bool {
        self.prompt.as_deref() == Some(uuid)
    }
}

/// Whether a frame shows that the CLI works on a turn: on this one, or on one that it began by
/// itself.
fn is_work(kind: &FrameKind) -> bool {
    !matches!(
        kind,
        FrameKind::System
            | FrameKind::PermissionMode { .. }
            | FrameKind::State { .. }
            | FrameKind::Mirror
            | FrameKind::PromptStarted { .. }
            | FrameKind::TaskStarted(_)
            | FrameKind::TaskEnded { .. }
            | FrameKind::TaskProgress
            | FrameKind::TasksListed(_)
            | FrameKind::User { echo_of: Some(_), .. }
            | FrameKind::Other
    )
}

/// Whether a frame ends a turn that the CLI was asked to stop, and did.
pub fn was_aborted(frame: &Frame) -> bool {
    matches!(&frame.kind, FrameKind::Result(summary) if has_aborted(summary))
}

fn has_aborted(summary: &ResultSummary) -> bool {
    summary.terminal_reason.starts_with("aborted")
}

/// How a turn with this result ended. One that was to be stopped may have come to its end before.
fn outcome(summary: &ResultSummary, facts: &Facts<'_>, is_stopped: bool) -> Outcome {
    let was_aborted = summary.is_error || has_aborted(summary) || is_stopped;
    let answer = || summary.structured_output.as_deref().unwrap_or_default();
    if facts.stopping && was_aborted {
        Outcome::Interrupted
    } else if summary.is_error {
        Outcome::Failed
    } else if !facts.schema.is_empty() && !schema::fits(facts.schema, answer()) {
        Outcome::Unstructured
    } else {
        Outcome::Completed
    }
}

#[cfg(test)]
mod tests;
