//! The clock that conversations age by. It advances only while a service runs on the store,
//! and by no more than the machine's steady clock does: what somebody makes of the clock on
//! the wall erases nothing.

#[cfg(test)]
use std::time::Duration;

use tokio::time::Instant;

/// Time that services on this store have seen pass, the present one included.
#[derive(Debug)]
pub(super) struct Clock {
    base_ms: i64,
    started: Instant,
}

impl Clock {
    /// Goes on from what earlier services have seen.
    pub(super) fn from(base_ms: i64) -> Self {
        Self { base_ms, started: Instant::now() }
    }

    /// Milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        let since = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.base_ms.saturating_add(since)
    }

    /// For how long something has been that was so at `then_ms`.
    #[cfg(test)]
    pub(super) fn since(&self, then_ms: i64) -> Duration {
        let since = self.now_ms().saturating_sub(then_ms);
        Duration::from_millis(since.try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_what_was_seen() {
        let clock = Clock::from(5000);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now_ms(), 12_000);
        assert_eq!(clock.since(4000), Duration::from_secs(8));
        assert_eq!(clock.since(99_000), Duration::ZERO);
    }
}
