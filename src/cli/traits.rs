//! What a process shows of itself, turn after turn: what its version does, and what works in
//! its background.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    background::Background,
    frame::{Frame, FrameKind},
};

/// How long after it has said that it works a process may take to begin a turn: some milliseconds
/// were seen.
const BEGINNING: Duration = Duration::from_millis(300);

/// What a process has shown of itself in earlier turns.
#[derive(Debug, Default)]
pub struct CliTraits {
    /// It says when it takes up a prompt, before anything else of the turn.
    announces_prompts: bool,
    /// It echoes a prompt when it has taken it up.
    echoes_prompts: bool,
    /// It has said that it is idle, and nothing else since.
    idle: bool,
    /// When it said that it works, if it has begun nothing since.
    works_since: Option<Instant>,
    /// What works behind its turns, and may begin one by itself.
    pub background: Background,
}

impl CliTraits {
    /// Takes note of a frame.
    pub fn note(&mut self, frame: &Frame) {
        self.announces_prompts |= matches!(frame.kind, FrameKind::PromptStarted { .. });
        match &frame.kind {
            FrameKind::State { idle } => {
                self.idle = *idle;
                self.works_since = (!idle).then(Instant::now);
            }
            FrameKind::TaskEnded { .. } if !self.announces_prompts => {
                self.works_since = Some(Instant::now());
            }
            // Its turn has waited for this one.
            FrameKind::Result(_)
                if !self.announces_prompts && self.background.has_ended_in_turn() =>
            {
                self.works_since = Some(Instant::now());
            }
            FrameKind::Init { .. } => (self.idle, self.works_since) = (false, None),
            FrameKind::User { echo_of: Some(_), .. } => self.echoes_prompts = true,
            _ => {}
        }
        self.background.note(frame);
    }

    /// Until when it may be about to begin a turn by itself, because it has just said that it works, or
    /// that a task has ended:
    /// a prompt that comes now could be taken for that turn's by versions that do not name what
    /// a result answers. `read` is when it was last read.
    pub fn begins_until(&self, read: Instant) -> Option<Instant> {
        self.works_since.map(|since| since + BEGINNING).filter(|until| *until > read)
    }

    /// Whether it echoes a prompt when it has taken it up.
    pub fn echoes_prompts(&self) -> bool {
        self.echoes_prompts
    }

    /// Whether it has said that it is idle, and has not begun anything since.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// From when on, not before `now`, it begins no turn by itself; `None` while it has work that may
    /// do so at any time.
    pub fn quiet_from(&self, now: Instant) -> Option<Instant> {
        self.background.quiet_from(now)
    }

    /// Whether frames that follow a prompt may be of a turn that the CLI began by itself
    /// just before it read the prompt. Those of a turn of our own are then held back
    /// until the CLI says that it took up the prompt. What it has printed since it was last `read`
    /// nobody knows.
    pub fn may_begin_turns(&self, read: Instant) -> bool {
        self.announces_prompts || self.quiet_from(read).is_none_or(|from| from > read)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_announces_prompts_may_always_begin_a_turn() {
        let mut traits = CliTraits::default();
        assert!(
            !traits.may_begin_turns(Instant::now())
                && traits.quiet_from(Instant::now()) == Some(Instant::now())
        );
        let kind = FrameKind::PromptStarted { uuid: "u".into() };
        traits.note(&Frame { raw: Bytes::new(), kind, of_subagent: false });
        assert!(
            traits.may_begin_turns(Instant::now())
                && traits.quiet_from(Instant::now()) == Some(Instant::now())
        );
    }
}
