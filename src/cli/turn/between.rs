//! What frames mean that are not of the turn that runs, or come where none does.

use super::EventKind;
use crate::cli::frame::{Frame, FrameKind, ResultSummary};

/// What a frame means that comes when no turn runs, and begins none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aside<'f> {
    /// Nothing.
    Nothing,
    /// The CLI is idle.
    Idle,
    /// From here on the conversation has this id.
    Moved(&'f str),
    /// The end of a turn that nobody saw begin, and what it cost.
    Over(&'f ResultSummary),
}

impl<'f> Aside<'f> {
    /// What a frame means.
    pub fn of(frame: &'f Frame) -> Self {
        match &frame.kind {
            FrameKind::State { idle: true } => Self::Idle,
            FrameKind::ConversationReset { cli_session_id } => Self::Moved(cli_session_id),
            FrameKind::Result(summary) => Self::Over(summary),
            _ => Self::Nothing,
        }
    }
}

/// Whether a frame outside of a turn means that the CLI began one by itself. Echoes of
/// commands and notes about state come outside of turns too, and mean nothing (`running` comes
/// also when a subagent goes on that has asked something); nor does what subagents print that
/// work behind the turns, and what they ask.
pub fn begins_turn(frame: &Frame) -> bool {
    let works = matches!(
        frame.kind,
        FrameKind::Init { .. } | FrameKind::Assistant { .. } | FrameKind::StreamEvent
    );
    works && !frame.of_subagent
}

/// What a frame outside of a turn is in the next turn of the CLI's own, if it tells what that is
/// about: one of its events, and nothing else, for what it says has been heard.
pub fn announcement(frame: &Frame) -> Option<Frame> {
    matches!(frame.kind, FrameKind::TaskEnded { .. } | FrameKind::TasksListed(_)).then(|| Frame {
        raw: frame.raw.clone(),
        kind: FrameKind::System,
        of_subagent: false,
    })
}

/// What a frame outside of a turn is for those who follow the session, if it is anything: what
/// the CLI asks, and which tasks begin and end.
pub fn told_aside(frame: &Frame) -> Option<EventKind> {
    match frame.kind {
        FrameKind::Prompt(_) => Some(EventKind::Prompt),
        FrameKind::TaskStarted(_) | FrameKind::TaskEnded { .. } | FrameKind::TasksListed(_) => {
            Some(EventKind::System)
        }
        _ => None,
    }
}

/// The ids of the prompts that a frame shows to have been taken up.
pub fn taken_up(frame: &Frame) -> Vec<&str> {
    match &frame.kind {
        FrameKind::User { echo_of: Some(uuid), .. } | FrameKind::PromptStarted { uuid } => {
            vec![uuid]
        }
        FrameKind::Result(summary) => summary.prompt_uuids.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a frame shows that the turn goes on, and not what works behind the turns.
pub fn is_of_turn(frame: &Frame) -> bool {
    let behind = matches!(
        frame.kind,
        FrameKind::TaskProgress
            | FrameKind::TaskStarted(_)
            | FrameKind::TaskEnded { .. }
            | FrameKind::TasksListed(_)
    );
    !behind && !frame.of_subagent
}
