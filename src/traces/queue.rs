//! Spans that have ended, on their way to the collector. They wait in a queue with a bound, and
//! one task sends them, so that whoever ends a span waits for nobody: what finds no room is
//! dropped, counted and told in the log, each within bounds of its own.
//!
//! A batch that the collector does not take now is sent again for a while, in which the queue
//! fills; one that it refuses is not.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Settings,
    collector::{Collector, Failed},
};
use crate::{
    measures::Labels,
    tasks::spawn_owned,
    telemetry::log_limit::{SPANS_DROPPED, SPANS_NOT_EXPORTED},
};

/// Spans that are sent together.
const BATCH: usize = 512;

/// How long a batch is sent again that the collector does not take now.
const LONGEST_TRY: Duration = Duration::from_secs(60);
/// Between the first two attempts; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Why spans are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    /// As many as may wait did.
    QueueFull,
    /// The collector did not take them for as long as they were tried.
    Unreachable,
    /// It refused them.
    Refused,
    /// The service stopped before they were sent.
    Stopped,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::QueueFull, Self::Unreachable, Self::Refused, Self::Stopped];

    fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// What has become of spans.
#[derive(Debug, Clone)]
pub struct Counts {
    exported: Counter,
    dropped: Family<Labels, Counter>,
    /// Those that wait, or are on their way.
    unsent: Arc<AtomicUsize>,
}

impl Default for Counts {
    fn default() -> Self {
        let (exported, dropped) = (Counter::default(), Family::default());
        let counts = Self { exported, dropped, unsent: Arc::default() };
        // Whoever alerts on a counter has to see its first step.
        Dropped::ALL.into_iter().for_each(|why| counts.dropped(why, 0));
        counts
    }
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Spans that the collector has taken";
        registry.register("trace_spans_exported", help, self.exported.clone());
        let help = "Spans that were not exported, by why not";
        registry.register("trace_spans_dropped", help, self.dropped.clone());
    }

    fn dropped(&self, why: Dropped, spans: u64) {
        let labels = vec![("reason", why.name().to_owned())];
        self.dropped.get_or_create(&labels).inc_by(spans);
    }

    /// Counts spans that are lost, and says so.
    fn lose(&self, why: Dropped, spans: usize) {
        if spans == 0 {
            return;
        }
        self.dropped(why, spans as u64);
        if SPANS_DROPPED.admits() {
            warn!(spans, reason = why.name(), "spans_dropped");
        }
    }
}

/// A span that has ended.
#[derive(Debug)]
pub struct Ended {
    pub context: SpanContext,
    pub parent: SpanId,
    pub parent_is_remote: bool,
    pub kind: SpanKind,
    pub name: Cow<'static, str>,
    pub began: SystemTime,
    pub attributes: Vec<KeyValue>,
    pub status: Status,
}

/// Where spans wait.
#[derive(Debug)]
pub struct Queue {
    spans: mpsc::Sender<SpanData>,
    scope: InstrumentationScope,
    counts: Counts,
}

impl Queue {
    /// Adds a span that ends now, or drops it if there is no room.
    pub fn push(&self, ended: Ended) {
        let Ended { context, parent, parent_is_remote, kind, name, began, attributes, status } =
            ended;
        let now = SystemTime::now();
        let span = SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: parent_is_remote,
            span_kind: kind,
            name,
            // A clock that was put back makes no span that ends before it begins.
            start_time: began.min(now),
            end_time: now,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        };
        // Before it is sent: it may have been taken at once.
        self.counts.unsent.fetch_add(1, Ordering::Relaxed);
        let Err(error) = self.spans.try_send(span) else { return };
        self.counts.unsent.fetch_sub(1, Ordering::Relaxed);
        match error {
            TrySendError::Full(_) => self.counts.lose(Dropped::QueueFull, 1),
            TrySendError::Closed(_) => self.counts.lose(Dropped::Stopped, 1),
        }
    }
}

/// The task that sends spans. Dropped, it sends nothing more.
#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    closing: CancellationToken,
    counts: Counts,
}

impl Exporting {
    /// Sends what waits, for at most this long. What ends afterwards is dropped.
    pub async fn close(mut self, limit: Duration) {
        self.closing.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
            self.counts.lose(Dropped::Stopped, self.counts.unsent.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A queue, and the task that empties it.
pub fn begin(settings: &Settings, collector: Collector, counts: Counts) -> (Queue, Exporting) {
    let (spans, queued) = mpsc::channel(settings.max_queued);
    let closing = CancellationToken::new();
    let sender = Sender {
        collector,
        counts: counts.clone(),
        interval: settings.interval,
        closing: closing.clone(),
    };
    let task = spawn_owned(sender.run(queued));
    let scope = InstrumentationScope::builder("session-pool")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build();
    let queue = Queue { spans, scope, counts: counts.clone() };
    (queue, Exporting { task, closing, counts })
}

struct Sender {
    collector: Collector,
    counts: Counts,
    interval: Duration,
    closing: CancellationToken,
}

impl Sender {
    /// Until nobody has spans any more, or until what waits at the end was sent.
    async fn run(mut self, mut queued: mpsc::Receiver<SpanData>) {
        while let Some(first) = self.next(&mut queued).await {
            let mut batch = vec![first];
            let full = async {
                while batch.len() < BATCH && queued.recv_many(&mut batch, BATCH / 2).await > 0 {}
            };
            tokio::select! {
                () = full => {}
                () = sleep(self.interval) => {}
                () = self.closing.cancelled() => {}
            }
            // At the end nobody waits for others, but what is there goes together.
            while batch.len() < BATCH
                && let Ok(span) = queued.try_recv()
            {
                batch.push(span);
            }
            let spans = batch.len();
            self.send(batch).await;
            self.counts.unsent.fetch_sub(spans, Ordering::Relaxed);
        }
    }

    async fn next(&self, queued: &mut mpsc::Receiver<SpanData>) -> Option<SpanData> {
        tokio::select! {
            biased;
            span = queued.recv() => return span,
            () = self.closing.cancelled() => {}
        }
        // Takes nothing more in: what is there comes first, and then the end.
        queued.close();
        queued.recv().await
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let request = self.collector.request(batch);
        let (until, mut pause) = (Instant::now() + LONGEST_TRY, FIRST_PAUSE);
        loop {
            let Failed { error, may_pass } = match self.collector.send(Arc::clone(&request)).await {
                Ok(refused) => {
                    let refused = refused.min(spans);
                    self.counts.exported.inc_by((spans - refused) as u64);
                    self.counts.lose(Dropped::Refused, refused);
                    debug!(spans, refused, "spans_exported");
                    return;
                }
                Err(failed) => failed,
            };
            if SPANS_NOT_EXPORTED.admits() {
                warn!(spans, %error, goes_on = may_pass, "spans_not_exported");
            }
            if !may_pass {
                return self.counts.lose(Dropped::Refused, spans);
            }
            if self.closing.is_cancelled() {
                return self.counts.lose(Dropped::Stopped, spans);
            }
            if Instant::now() + pause > until {
                return self.counts.lose(Dropped::Unreachable, spans);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.closing.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
