//! Traces for OpenTelemetry: which trace a call belongs to, the spans of what the service does
//! for it, and their way to a collector.
//!
//! - `context` reads and writes what callers, other nodes and CLIs say of a trace (W3C Trace
//!   Context);
//! - `place` has the places in a trace, and the spans at them;
//! - `queue` takes spans that have ended, and never waits;
//! - `collector` sends them, by OTLP over gRPC.
//!
//! What always holds: whoever ends a span neither waits nor fails, whatever the collector does:
//! a span for which there is no room is dropped and counted. Without an exporter a caller's trace
//! is passed on as it came, and nothing is recorded. Spans say who, how long and how it ended;
//! prompts, answers and what tools do are in none of them. Nothing here is global: the service
//! hands [`Traces`] to those who begin traces, and a [`Trace`] goes along with a call. Knows
//! nothing of sessions or of gRPC calls.

mod collector;
mod context;
mod headers;
mod place;
mod queue;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceState};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};
use prometheus_client::registry::Registry;

pub use collector::check as check_files;
pub use context::VARIABLE;
pub use opentelemetry::trace::SpanKind as Kind;
pub use place::{Span, Trace, TurnTrace};

use collector::Collector;
pub use queue::Exporting;

use queue::{Counts, Queue};

/// What an exporter is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector, as a URL.
    pub endpoint: String,
    /// A file with headers that every request to it carries.
    pub headers_file: Option<PathBuf>,
    /// Authorities that its certificate may be from, in the place of the system's.
    pub ca: Option<PathBuf>,
    /// What the service is called in traces.
    pub service_name: String,
    /// Which of several services of that name this is.
    pub instance: String,
    /// The share of traces that begin here which is recorded.
    pub sample_ratio: f64,
    /// How long spans wait for others to be sent with them.
    pub interval: Duration,
    /// How long the collector may take for a request.
    pub timeout: Duration,
    /// Spans that may wait.
    pub max_queued: usize,
}

/// Where traces begin, and where they go. Cloning gives another handle to the same; by default
/// nothing is recorded.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    counts: Counts,
    recorder: Option<Arc<Recorder>>,
}

/// What there is with an exporter alone.
#[derive(Debug)]
struct Recorder {
    ids: RandomIdGenerator,
    sampler: Sampler,
    queue: Queue,
}

impl Traces {
    /// Traces whose spans are exported, and what exports them. Has to be called within a runtime:
    /// the connection to the collector is a task of it. The collector need not be there.
    ///
    /// # Errors
    ///
    /// What is wrong with a file that the settings name.
    pub fn exported(settings: &Settings) -> anyhow::Result<(Self, Exporting)> {
        let collector = Collector::new(settings)?;
        let counts = Counts::default();
        let (queue, exporting) = queue::begin(settings, collector, counts.clone());
        let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let recorder = Recorder { ids: RandomIdGenerator::default(), sampler, queue };
        Ok((Self { counts, recorder: Some(Arc::new(recorder)) }, exporting))
    }

    /// The trace that a call with these headers belongs to: its caller's, if it names one, else
    /// one that begins with the call if spans are exported, else none.
    pub fn of_call(&self, headers: &HeaderMap) -> Trace {
        match (context::read(headers), &self.recorder) {
            (Some(caller), recorder) => Trace::of_caller(caller, recorder.clone()),
            (None, Some(_)) => self.begun_here(),
            (None, None) => Trace::default(),
        }
    }

    /// A trace that begins here, if spans are exported.
    pub fn begun_here(&self) -> Trace {
        self.recorder.as_ref().map(Trace::root).unwrap_or_default()
    }

    /// Adds what was counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.counts.register(registry);
    }
}

impl Recorder {
    /// The parent of the first span of a trace: it has the decision whether the trace is recorded,
    /// and no span.
    fn root(&self) -> SpanContext {
        let id = self.ids.new_trace_id();
        let sampled = self.sampler.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
        let is_sampled = sampled.decision == SamplingDecision::RecordAndSample;
        let flags = TraceFlags::default().with_sampled(is_sampled);
        SpanContext::new(id, SpanId::INVALID, flags, false, TraceState::NONE)
    }

    /// A span of the same trace as its parent, which decides for all of them.
    fn child_of(&self, parent: &SpanContext) -> SpanContext {
        SpanContext::new(
            parent.trace_id(),
            self.ids.new_span_id(),
            parent.trace_flags(),
            false,
            parent.trace_state().clone(),
        )
    }
}
