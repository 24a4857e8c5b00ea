//! When a running turn has been silent, has run or has spent for too long. Pure: what is done
//! about it is `turn_failure`'s.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::{context::Settings, running::Running};

/// How long a turn may go on that has spent its session's budget: most versions of the CLI
/// end it themselves after the model round, unless a subagent spends.
const BUDGET_GRACE: Duration = Duration::from_secs(1);

/// Which watchdog bites next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watchdog {
    /// No first frame.
    FirstChunk,
    /// Silent, and another caller waits.
    Ongoing,
    /// Silent for too long.
    Stalled,
    /// Running for too long.
    Stuck,
    /// The API does not take the credentials.
    Refused,
    /// It may spend nothing more.
    Overspent,
    /// What it says has waited for the store for too long.
    Unkept,
}

impl Running {
    /// The next watchdog and when it bites. `another_waits`: a turn is in the queue; `asks`: a
    /// request of the turn waits for its answer.
    pub fn watchdog(
        &self,
        settings: &Settings,
        another_waits: bool,
        asks: bool,
    ) -> Option<(Watchdog, Instant)> {
        if self.reader.has_credentials_refused() {
            return Some((Watchdog::Refused, self.last_activity));
        }
        let mut candidates = Vec::with_capacity(4);
        let overspent = self.overspent.iter().map(|(since, _)| *since + BUDGET_GRACE);
        candidates.extend(overspent.map(|at| (Watchdog::Overspent, at)));
        if !self.reader.has_first_frame() {
            candidates
                .push((Watchdog::FirstChunk, self.last_activity + settings.first_chunk_timeout));
        } else if !self.reader.waits_for_tools() && !asks {
            // While a tool runs or somebody is asked, silence is honest.
            if another_waits {
                candidates.push((Watchdog::Ongoing, self.last_activity + settings.ongoing_timeout));
            }
            if let Some(limit) = settings.stall_timeout {
                candidates.push((Watchdog::Stalled, self.last_activity + limit));
            }
        }
        if let Some(limit) = settings.stuck_threshold {
            candidates.push((Watchdog::Stuck, self.began + limit));
        }
        candidates.into_iter().min_by_key(|(_, at)| *at)
    }
}
