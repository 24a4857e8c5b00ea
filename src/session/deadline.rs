//! Deadlines that may be none.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

/// Sleeps until then; for ever without a time.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
