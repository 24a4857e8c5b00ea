//! The end of a turn: said once to those who listen, and once to the log, in one line
//! that says all that an operator asks of a turn. Every turn ends here.

use std::time::Duration;

use tracing::info;

use super::task::SessionTask;
use crate::{
    counters::Spent,
    failure::{Cause, Failure},
    turn::log::TurnLog,
};

/// How a turn with a result ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// Whether something stopped it.
    pub interrupted: bool,
    /// Whether its result is an error.
    pub is_error: bool,
    /// What it cost.
    pub spent: Option<Spent>,
}

/// What a turn's line says of its end.
struct Said {
    outcome: &'static str,
    /// Of a turn without a result: the reason as callers are told it, and in words.
    reason: Option<&'static str>,
    error: Option<String>,
    spent: Spent,
}

impl Said {
    fn of(end: &Result<Ending, Failure>) -> Self {
        match end {
            Ok(ending) => Self {
                outcome: match ending {
                    Ending { interrupted: true, .. } => "interrupted",
                    Ending { is_error: true, .. } => "error",
                    Ending { .. } => "completed",
                },
                reason: None,
                error: None,
                spent: ending.spent.unwrap_or_default(),
            },
            Err(failure) => Self {
                outcome: match failure.cause {
                    Cause::TurnInterrupted => "interrupted",
                    _ => "failed",
                },
                reason: Some(failure.cause.reason()),
                error: Some(match &failure.cause {
                    // What was printed in place of the protocol may be an answer.
                    Cause::Protocol { .. } => "the CLI broke its protocol".to_owned(),
                    cause => cause.to_string(),
                }),
                spent: Spent::default(),
            },
        }
    }
}

impl SessionTask {
    /// Ends a turn, unless it has ended before; returns whether this was its end.
    pub(super) fn end_turn(&self, log: &TurnLog, end: Result<Ending, Failure>) -> bool {
        let said = Said::of(&end);
        let first = log.end(end.map(drop));
        if first {
            self.log_end(log, &said);
        }
        first
    }

    fn log_end(&self, log: &TurnLog, said: &Said) {
        let Said { outcome, reason, error, spent } = said;
        let started = log.started();
        // A turn that never began has only waited.
        let queued = started.as_ref().map_or(log.age(), |started| started.queued_for);
        let connecting = started.as_ref().map_or(Duration::ZERO, |started| started.connect_time);
        let running = log.age().saturating_sub(queued).saturating_sub(connecting);
        info!(
            parent: log.span(),
            session_id = %self.key.session,
            turn_id = %log.id(),
            client_id = started.as_ref().map(|started| tracing::field::display(started.client_id)),
            tenant = %self.key.tenant,
            outcome,
            reason,
            error,
            queue_ms = millis(queued),
            connect_ms = millis(connecting),
            turn_ms = millis(running),
            cost_usd = spent.cost_usd,
            input_tokens = spent.usage.input_tokens,
            output_tokens = spent.usage.output_tokens,
            background = started.as_ref().is_some_and(|started| started.background),
            "turn_ended"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
