//! Bounds what one kind of event writes to the log: callers, or a disk that fails, decide
//! how often it happens. The first of each period are written, the rest are counted, and
//! the count is written when the period is over. Knows the kinds by name only.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::info;

/// Lines of one kind that are written in a period.
const WRITTEN: u64 = 10;
/// How long a period takes.
const PERIOD: Duration = Duration::from_secs(10);

/// Calls whose callers are not let in.
pub static UNAUTHENTICATED: LogLimit = LogLimit::new("unauthenticated");
/// Requests that are no gRPC calls.
pub static NOT_GRPC: LogLimit = LogLimit::new("not_grpc");
/// Health checks that give way to others.
pub static HEALTH_CALL_REVOKED: LogLimit = LogLimit::new("health_call_revoked");
/// Connections that are not taken because all places are in use.
pub static CONNECTION_REFUSED: LogLimit = LogLimit::new("connection_refused");
/// Connections that give way to newer ones.
pub static CONNECTION_REVOKED: LogLimit = LogLimit::new("connection_revoked");
/// Failures to accept a connection.
pub static NOT_ACCEPTED: LogLimit = LogLimit::new("connection_not_accepted");
/// New sessions for which the pool has no room.
pub static AT_CAPACITY: LogLimit = LogLimit::new("session_pool_at_capacity");
/// New sessions of a pool that is disabled.
pub static DISABLED: LogLimit = LogLimit::new("session_pool_disabled");
/// Interrupts of sessions that are not there.
pub static NOT_FOUND: LogLimit = LogLimit::new("session_not_found");

/// Commits that fail while the store does: as many as there are sessions.
pub static NOT_KEPT: LogLimit = LogLimit::new("session_not_kept");

/// Prompts of CLIs for which there is no room.
pub static PROMPT_NOT_HELD: LogLimit = LogLimit::new("prompt_not_held");

/// Calls for sessions of nodes that cannot be reached.
pub static NODE_UNREACHABLE: LogLimit = LogLimit::new("node_unreachable");
/// Calls that another node does not take from this one.
pub static NODE_REFUSED: LogLimit = LogLimit::new("node_refused");
/// Calls that were forwarded and whose end nobody knows.
pub static FORWARDED_CALL_LOST: LogLimit = LogLimit::new("forwarded_call_lost");

/// Spans that are lost.
pub static SPANS_DROPPED: LogLimit = LogLimit::new("spans_dropped");
/// Attempts to export spans that fail.
pub static SPANS_NOT_EXPORTED: LogLimit = LogLimit::new("spans_not_exported");

/// Credentials of the API that cannot be read, for each request.
pub static CREDENTIAL: LogLimit = LogLimit::new("gateway_credential_unreadable");
/// Requests that do not reach the API.
pub static UPSTREAM: LogLimit = LogLimit::new("gateway_upstream_failed");

/// Connections of sessions that are refused.
pub static EGRESS: LogLimit = LogLimit::new("egress_refused");

/// Refusals of the API that there were too many requests.
pub static LIMITED: LogLimit = LogLimit::new("gateway_rate_limited");

/// Entries of the audit log that are lost.
pub static AUDIT: LogLimit = LogLimit::new("audit_entry_lost");

static ALL: [&LogLimit; 21] = [
    &AUDIT,
    &LIMITED,
    &EGRESS,
    &CREDENTIAL,
    &UPSTREAM,
    &UNAUTHENTICATED,
    &NOT_GRPC,
    &HEALTH_CALL_REVOKED,
    &CONNECTION_REFUSED,
    &CONNECTION_REVOKED,
    &NOT_ACCEPTED,
    &AT_CAPACITY,
    &DISABLED,
    &NOT_FOUND,
    &NOT_KEPT,
    &PROMPT_NOT_HELD,
    &NODE_UNREACHABLE,
    &NODE_REFUSED,
    &FORWARDED_CALL_LOST,
    &SPANS_DROPPED,
    &SPANS_NOT_EXPORTED,
];

/// Wakes [`report`] when lines are left out.
static LEFT_OUT: Notify = Notify::const_new();

/// The bound of one kind of event.
#[derive(Debug)]
pub struct LogLimit {
    event: &'static str,
    period: Mutex<Period>,
}

#[derive(Debug)]
struct Period {
    began: Option<Instant>,
    seen: u64,
}

impl LogLimit {
    const fn new(event: &'static str) -> Self {
        Self { event, period: Mutex::new(Period { began: None, seen: 0 }) }
    }

    /// Whether a line may be written now. If not it is counted.
    pub fn admits(&self) -> bool {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if period.began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            self.tell(&period);
            *period = Period { began: Some(now), seen: 0 };
        }
        period.seen += 1;
        if period.seen == WRITTEN + 1 {
            LEFT_OUT.notify_one();
        }
        period.seen <= WRITTEN
    }

    /// Ends the period if it is over.
    fn end(&self) -> bool {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(began) = period.began else { return true };
        if Instant::now().duration_since(began) < PERIOD {
            return period.seen <= WRITTEN;
        }
        self.tell(&period);
        *period = Period { began: None, seen: 0 };
        true
    }

    fn tell(&self, period: &Period) {
        let left_out = period.seen.saturating_sub(WRITTEN);
        if left_out > 0 {
            info!(event = self.event, left_out, "log_lines_left_out");
        }
    }
}

/// Writes how many lines were left out, also when nothing follows them. Never ends.
pub async fn report() {
    loop {
        LEFT_OUT.notified().await;
        // A kind whose period began later needs another round.
        loop {
            sleep(PERIOD).await;
            if ALL.iter().filter(|limit| !limit.end()).count() == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn c9_the_first_lines_of_a_period_are_written_and_the_rest_counted() {
        static KIND: LogLimit = LogLimit::new("test");
        let written = (0..30_000).filter(|_| KIND.admits()).count();
        assert_eq!(written as u64, WRITTEN);
        assert!(!KIND.end(), "lines are left to be told of");
        sleep(PERIOD).await;
        assert!(KIND.end(), "told");
        assert!(KIND.admits(), "a new period");
        assert!(KIND.end(), "nothing is left out of it");
    }
}
