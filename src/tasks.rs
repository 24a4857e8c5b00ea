//! Where tasks are spawned: every one has an owner that joins or aborts it. Calling
//! `tokio::spawn` elsewhere is refused by the linter. Also how they wait for a time that may be
//! none. Knows nothing of what tasks do.

use std::{
    future::{Future, pending},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, Span};

/// Sleeps until then; for ever without a time.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Spawns a task that its caller owns: it keeps the handle and aborts or joins it.
#[expect(clippy::disallowed_methods, reason = "the caller owns the handle")]
pub fn spawn_owned<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(task.in_current_span())
}

/// The tasks of one service, which end together.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Spawns a task in a span of its own. It must end soon after
    /// [`Self::stopping`] is cancelled.
    #[expect(clippy::disallowed_methods, reason = "the tracker joins it")]
    pub fn spawn(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        let tracked = self.tracker.track_future(task.instrument(span));
        drop(tokio::spawn(tracked));
    }

    /// Cancelled when the tasks are to end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// How many tasks have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to end and waits until they have, at most `limit`. Returns
    /// whether they all have.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
