//! The turns of a session that have not ended. A task that panics tells nobody the end of its
//! turns, and who reads one would wait for ever: it is told when this is dropped. Knows the
//! logs of turns, and nothing of what becomes of them.

use crate::{
    domain::failure::{Cause, Failure},
    turn::log::TurnLog,
};

/// Turns that have not ended.
#[derive(Debug, Default)]
pub struct OpenTurns(Vec<TurnLog>);

impl OpenTurns {
    /// A turn is there.
    pub fn add(&mut self, turn: &TurnLog) {
        self.0.push(turn.clone());
    }

    /// A turn has ended.
    pub fn remove(&mut self, turn: &TurnLog) {
        self.0.retain(|open| open.id() != turn.id());
    }
}

impl Drop for OpenTurns {
    fn drop(&mut self) {
        for turn in self.0.drain(..) {
            let detail = "the session's task ended before the turn".to_owned();
            let failure = Failure::from(Cause::Internal { detail });
            turn.end(Err(failure.concerning(None, Some(turn.id()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::Span;

    use super::*;
    use crate::{
        domain::ids::{TenantId, TurnId},
        turn::{event::Partials, storage::Storage},
    };

    #[tokio::test]
    async fn whoever_reads_a_turn_is_told_its_end_if_nobody_else_tells() {
        let storage = Storage::in_memory(1024);
        let accounts = storage.accounts(&TenantId::default());
        let log = |name: &str| {
            let id = TurnId::parse(name).expect("a name");
            storage.log(
                id,
                &accounts,
                Arc::default(),
                Span::none(),
                crate::traces::TurnTrace::default(),
            )
        };
        let (open, ended) = (log("open"), log("ended"));
        let mut turns = OpenTurns::default();
        turns.add(&open);
        turns.add(&ended);
        turns.remove(&ended);
        let mut of_open = open.listen(1, Partials::Hidden).expect("from its first event on");
        let mut of_ended = ended.listen(1, Partials::Hidden).expect("from its first event on");
        drop(turns);
        ended.end(Ok(()));
        let failure = of_open.batch().await.expect_err("it has not run to its end");
        assert!(matches!(failure.cause, Cause::Internal { .. }), "{failure:?}");
        assert_eq!(failure.turn_id.as_ref(), Some(open.id()));
        assert!(of_ended.batch().await.expect("it ended well").is_none());
    }
}
