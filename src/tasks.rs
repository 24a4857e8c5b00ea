//! Where tasks are spawned: every one has an owner that joins or aborts it. Calling
//! `tokio::spawn` elsewhere is refused by the linter. Also how they wait for a time that may be
//! none, and for short work that a disk may hold up. Knows nothing of what tasks do.

use std::{
    future::{Future, pending},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, sleep_until, timeout},
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

/// How many pieces of short work are done at once, unless they wait for each other's disk: each
/// takes a thread, and more of them than there are processors are done no sooner.
const AT_ONCE: usize = 2;

/// What is not done by then is not short: others do not wait for it any more. On a disk that is
/// well it takes a tenth of this.
const SHORT: Duration = Duration::from_millis(20);

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Does short work that may have to wait for a disk away from the runtime's own threads. A burst
/// of it is done by a few threads one after the other. Work that hangs holds up nobody: it gives
/// its turn back, and nobody waits longer for a turn than for short work.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let turn = timeout(SHORT, TURNS.acquire()).await;
    let mut working = tokio::task::spawn_blocking(work);
    tokio::select! {
        done = &mut working => return done,
        () = sleep(SHORT) => drop(turn),
    }
    working.await
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_burst_of_short_work_takes_few_threads_and_what_hangs_holds_up_none_of_it() {
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let burst = async || {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
                all.spawn(apart(move || {
                    most.fetch_max(1 + at_once.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    std::thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                }));
            }
            all.join_all().await.into_iter().all(|done| done.is_ok())
        };
        // Other tests of this process take turns as well, and may be slow.
        assert!(burst().await);
        assert!(most.load(Ordering::SeqCst) < 50, "{most:?}");
        let hanging = Arc::new(Barrier::new(2 * AT_ONCE + 1));
        let mut stuck = tokio::task::JoinSet::new();
        for _ in 0..2 * AT_ONCE {
            let hanging = Arc::clone(&hanging);
            stuck.spawn(apart(move || {
                hanging.wait();
            }));
        }
        assert!(burst().await);
        hanging.wait();
        assert!(stuck.join_all().await.into_iter().all(|done| done.is_ok()));
    }
}
