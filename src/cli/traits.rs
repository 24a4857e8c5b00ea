//! What a process shows of itself, turn after turn: what its version does, and what works in
//! its background.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::frame::{Frame, FrameKind};

/// How long after the end of a background task the turn that it begins is waited for:
/// the CLI says that a task has ended some milliseconds before.
const TASK_ECHO: Duration = Duration::from_secs(1);

/// Background tasks at the same time. A bound for an agent that speaks in the CLI's name.
const MOST_TASKS: usize = 10_000;

/// What a process has shown of itself in earlier turns.
#[derive(Debug, Default)]
pub struct CliTraits {
    /// It says when it takes up a prompt, before anything else of the turn.
    announces_prompts: bool,
    /// Its background tasks that have not ended: each may begin a turn by itself.
    tasks: HashSet<String>,
    /// Until when one that has ended may yet begin its turn.
    echo: Option<Instant>,
}

impl CliTraits {
    /// Takes note of a frame.
    pub fn note(&mut self, frame: &Frame) {
        match &frame.kind {
            FrameKind::PromptStarted { .. } => self.announces_prompts = true,
            FrameKind::TaskStarted { id } if self.tasks.len() < MOST_TASKS && !id.is_empty() => {
                self.tasks.insert(id.clone());
            }
            FrameKind::TaskEnded { id } => {
                self.tasks.remove(id);
                self.echo = Some(Instant::now() + TASK_ECHO);
            }
            _ => {}
        }
    }

    /// From when on it begins no turn by itself; `None` while it has background tasks.
    pub fn quiet_from(&self) -> Option<Instant> {
        let now = Instant::now();
        self.tasks.is_empty().then(|| self.echo.unwrap_or(now).max(now))
    }

    /// Whether frames that follow a prompt may be of a turn that the CLI began by itself
    /// just before it read the prompt. Those of a turn of our own are then held back
    /// until the CLI says that it took up the prompt.
    pub fn may_begin_turns(&self) -> bool {
        self.announces_prompts || self.quiet_from().is_none_or(|from| from > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(kind: FrameKind) -> Frame {
        Frame { raw: Bytes::new(), kind }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_may_begin_a_turn_until_shortly_after_its_end() {
        let mut traits = CliTraits::default();
        assert!(!traits.may_begin_turns() && traits.quiet_from() == Some(Instant::now()));
        traits.note(&frame(FrameKind::TaskStarted { id: "b".into() }));
        assert!(traits.may_begin_turns() && traits.quiet_from().is_none());
        // Of an unknown one it is told as well.
        for id in ["b", "unknown"] {
            traits.note(&frame(FrameKind::TaskEnded { id: id.into() }));
            assert_eq!(traits.quiet_from(), Some(Instant::now() + TASK_ECHO));
            assert!(traits.may_begin_turns());
            tokio::time::advance(TASK_ECHO).await;
            assert!(!traits.may_begin_turns());
        }
    }

    #[test]
    fn a_process_that_announces_prompts_may_always_begin_a_turn() {
        let mut traits = CliTraits::default();
        traits.note(&frame(FrameKind::PromptStarted { uuid: "u".into() }));
        assert!(traits.may_begin_turns());
        assert!(traits.tasks.is_empty() && traits.echo.is_none());
    }

    #[test]
    fn a_flood_of_tasks_has_a_bound() {
        let mut traits = CliTraits::default();
        for id in 0..2 * MOST_TASKS {
            traits.note(&frame(FrameKind::TaskStarted { id: id.to_string() }));
        }
        assert_eq!(traits.tasks.len(), MOST_TASKS);
    }
}
