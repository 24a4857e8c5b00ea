//! What operators learn of the end of a turn: one line of the log, which has all that they ask of a
//! turn, its figures, and its span in the trace of the call.

use std::time::{Duration, SystemTime};

use tracing::info;

use crate::{
    counters::Spent,
    domain::failure::{Cause, Failure},
    session::{task::SessionTask, turn_end::Ending},
    traces::{Kind, Span},
    turn::{event::Started, log::TurnLog},
};

impl SessionTask {
    /// Says how a turn has ended.
    pub(super) fn log_end(&self, log: &TurnLog, said: &Said) {
        let Said { outcome, reason, error, spent } = said;
        let started = log.started();
        // A turn that never began has only waited.
        let queued = started.as_ref().map_or(log.age(), |started| started.queued_for);
        let connecting = started.as_ref().map_or(Duration::ZERO, |started| started.connect_time);
        let running = log.age().saturating_sub(queued).saturating_sub(connecting);
        let measures = &self.ctx.tenant.measures;
        measures.queued(queued);
        if let Some(started) = started.as_ref().filter(|_| !connecting.is_zero()) {
            measures.connected(started.origin.name(), connecting);
        }
        measures.turn(outcome, running);
        reason.inspect(|reason| measures.failed(reason, &self.key));
        self.end_span(log, started.as_deref(), said);
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

    /// The turn's span, from its prompt to its end: by the conventions for agents, without what
    /// anybody has said. Of a turn that never began there is its wait.
    fn end_span(&self, log: &TurnLog, started: Option<&Started>, said: &Said) {
        let trace = log.trace();
        let Some(started) = started else {
            let Some(mut span) = trace.waited() else { return };
            span.began(SystemTime::now() - log.age());
            return said.note(&mut span);
        };
        let mut span = trace.turn.span("invoke_agent claude-code", Kind::Internal);
        if !span.is_recorded() {
            return;
        }
        span.began(started.start_time);
        let (acquired, asked) = (&self.status.acquired, &self.status.options);
        let served = acquired.model.as_ref().or(acquired.model_called.as_ref());
        let used = &said.spent.usage;
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (written, read) = (used.cache_creation_input_tokens, used.cache_read_input_tokens);
        for (name, value) in [
            ("gen_ai.operation.name", Some("invoke_agent")),
            ("gen_ai.provider.name", Some("anthropic")),
            ("gen_ai.system", Some("anthropic")),
            ("gen_ai.agent.name", Some("claude-code")),
            ("gen_ai.conversation.id", Some(self.key.session.as_str())),
            ("gen_ai.request.model", asked.model.as_deref()),
            ("gen_ai.response.model", served.map(String::as_str)),
            ("session_pool.tenant", Some(self.key.tenant.as_str())),
            ("session_pool.turn_id", Some(log.id().as_str())),
            ("session_pool.process", Some(started.origin.name())),
        ] {
            value.inspect(|value| span.set(name, (*value).to_owned()));
        }
        span.set("session_pool.client_id", started.client_id.to_string());
        span.set("session_pool.background", started.background);
        span.set("session_pool.cost_usd", said.spent.cost_usd);
        let usage = (said.spent != Spent::default()).then_some([
            // All that were read, those of the cache among them.
            ("gen_ai.usage.input_tokens", used.input_tokens + written + read),
            ("gen_ai.usage.output_tokens", used.output_tokens),
            ("gen_ai.usage.cache_creation.input_tokens", written),
            ("gen_ai.usage.cache_read.input_tokens", read),
        ]);
        for (name, count) in usage.into_iter().flatten() {
            span.set(name, tokens(count));
        }
        said.note(&mut span);
    }
}

/// What a turn's line says of its end.
pub(super) struct Said {
    outcome: &'static str,
    /// Of a turn without a result: the reason as callers are told it, and in words.
    reason: Option<&'static str>,
    error: Option<String>,
    spent: Spent,
}

impl Said {
    pub(super) fn of(end: &Result<Ending, Failure>) -> Self {
        match end {
            Ok(ending) => Self {
                outcome: match ending {
                    Ending { interrupted: true, .. } => "interrupted",
                    Ending { is_error: true, .. } => "error",
                    Ending { .. } => "completed",
                },
                reason: None,
                error: None,
                spent: ending.spent,
            },
            Err(failure) => Self {
                outcome: match failure.cause == Cause::TurnInterrupted {
                    true => "interrupted",
                    false => "failed",
                },
                reason: Some(failure.cause.reason()),
                // What was printed in place of the protocol may be an answer.
                error: Some(match matches!(failure.cause, Cause::Protocol { .. }) {
                    true => "the CLI broke its protocol".to_owned(),
                    false => failure.cause.to_string(),
                }),
                spent: Spent::default(),
            },
        }
    }
}

impl Said {
    /// Says the same of a span. What a caller has stopped has not failed.
    fn note(&self, span: &mut Span) {
        span.set("session_pool.outcome", self.outcome);
        match (self.outcome, self.reason) {
            ("interrupted", _) => {}
            (_, Some(reason)) => span.fail(reason),
            ("error", None) => span.fail("error"),
            (_, None) => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
