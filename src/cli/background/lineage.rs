//! Which task a task belongs to: what a subagent begins is the subagent's, and so of the turn that
//! began that, whichever turn runs meanwhile. 2.1.332 names the parent (`parent_task_id`). Earlier
//! versions name the tool call by which a task was begun, and a subagent's messages name the call
//! by which the subagent was.

use std::collections::VecDeque;

use super::{Frame, FrameKind, LONGEST_ID, TaskInfo};
use crate::cli::json::{Text, view};

/// Calls that are remembered. A task begins within moments of its call.
const MOST_CALLS: usize = 1000;

view! {
    /// A message of a subagent.
    Message {
        /// The call by which the subagent was begun.
        "parent_tool_use_id" => parent: Text<'a>,
    }
}

/// The tool calls of subagents.
#[derive(Debug, Default)]
pub struct Calls {
    /// Each with the call by which its subagent was begun.
    made: VecDeque<(String, String)>,
}

impl Calls {
    /// Takes note of what a subagent calls.
    pub fn note(&mut self, frame: &Frame) {
        let FrameKind::Assistant { tool_calls } = &frame.kind else { return };
        if tool_calls.is_empty() || !frame.of_subagent {
            return;
        }
        let Some(Message { parent, .. }) = Message::parse(frame.text()) else { return };
        for call in tool_calls.iter().take(MOST_CALLS) {
            if call.len().max(parent.0.len()) > LONGEST_ID {
                continue;
            }
            if self.made.len() == MOST_CALLS {
                self.made.pop_front();
            }
            self.made.push_back((call.clone(), parent.0.to_string()));
        }
    }

    /// Whether a task was begun by the task of this id, which this call had begun.
    pub fn is_child(&self, info: &TaskInfo, id: &str, call: &str) -> bool {
        if !info.parent.is_empty() {
            return info.parent == id;
        }
        let made = |(made, parent): &(String, String)| *made == info.call && parent == call;
        !call.is_empty() && !info.call.is_empty() && self.made.iter().any(made)
    }
}
