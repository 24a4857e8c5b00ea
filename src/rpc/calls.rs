//! Counts gRPC calls by their method and by how they end, measures how long they take, has them
//! recorded in the audit log, and gives each its place in a trace ([`Trace`](traces::Trace), among the
//! extensions of its request). The
//! names of figures are those that Prometheus dashboards for gRPC servers know (`grpc_server_…`).
//! Knows paths, and the `grpc-status` of an answer; nothing of what is called.
//!
//! A method is one of those that are served; any other path is `unknown`, so that callers make no
//! series. A call is counted once: when its last byte has been handed over, or when it is dropped
//! before, which is how the end of a connection and a caller's reset show here.

mod methods;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::trace::TraceId;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::time::Instant;
use tonic::Code;
use tower_layer::Layer;
use tower_service::Service;

use self::methods::{Methods, UNKNOWN};
use super::{audited::Audited, auth_layer::HEALTH};
use crate::{
    audit::Audit,
    measures::{Histograms, Labels, long},
    traces::{self, Span, Traces},
};

/// The header that ends a call.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How many codes there are.
const CODES: usize = Code::Unauthenticated as usize + 1;

/// What is counted, by labels.
#[derive(Debug)]
struct Families {
    started: Family<Labels, Counter>,
    handled: Family<Labels, Counter>,
    seconds: Histograms,
}

/// What is counted of calls. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct CallMeasures {
    families: Arc<Families>,
    methods: Arc<Methods<Series>>,
}

/// The series of one method: a call finds them once.
#[derive(Debug)]
struct Series {
    labels: Labels,
    started: Counter,
    /// By code, those that have come.
    handled: [OnceLock<Counter>; CODES],
    seconds: Histogram,
}

impl Default for CallMeasures {
    fn default() -> Self {
        let families = Arc::new(Families {
            started: Family::default(),
            handled: Family::default(),
            seconds: Family::new_with_constructor(long),
        });
        let methods = Methods::served(|labels| {
            let series = Series::new(&families, labels);
            // What nobody has called yet is there with 0: a rate of a series that has just begun
            // misses the first call.
            series.handled(&families, Code::Ok);
            series
        });
        Self { families, methods: Arc::new(methods) }
    }
}

impl CallMeasures {
    /// Adds all of them to a registry, under names of their own.
    pub fn register(&self, registry: &mut Registry) {
        let Families { started, handled, seconds } = &*self.families;
        let help = "Calls that have begun, by their method";
        registry.register("grpc_server_started", help, started.clone());
        let help = "Calls that have ended, by their method and their status";
        registry.register("grpc_server_handled", help, handled.clone());
        let help = "How long calls take, streams to their end";
        let name = "grpc_server_handling";
        registry.register_with_unit(name, help, Unit::Seconds, seconds.clone());
    }

    fn open(&self, path: &str) -> Open {
        let (families, series) = (Arc::clone(&self.families), Arc::clone(self.methods.of(path)));
        series.started.inc();
        let (began, span) = (Instant::now(), Span::default());
        Open { families, series, began, code: None, span, trace_id: None, audited: None }
    }
}

impl Series {
    fn new(families: &Families, labels: Labels) -> Self {
        let started = families.started.get_or_create_owned(&labels);
        let seconds = families.seconds.get_or_create_owned(&labels);
        let handled = [const { OnceLock::new() }; CODES];
        Self { labels, started, handled, seconds }
    }

    /// The value of a label.
    fn label(&self, name: &str) -> &str {
        let value = self.labels.iter().find(|(known, _)| *known == name);
        value.map_or(UNKNOWN, |(_, value)| value)
    }

    /// Whether it counts calls of what is not served.
    fn is_of_unknown(&self) -> bool {
        self.labels.iter().all(|(_, value)| value == UNKNOWN)
    }

    fn handled(&self, families: &Families, code: Code) -> &Counter {
        // Codes are numbered from 0 on, without a gap.
        self.handled[code as usize].get_or_init(|| {
            let mut labels = self.labels.clone();
            labels.push(("grpc_code", name_of(code).to_owned()));
            families.handled.get_or_create_owned(&labels)
        })
    }
}

/// A code as the figures of other servers name it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Whether a code says that the server has failed, as the conventions for spans of gRPC servers
/// have it; the others are the caller's.
fn is_of_the_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// A call that has not ended. Dropped without a code, it was cancelled.
#[derive(Debug)]
struct Open {
    families: Arc<Families>,
    series: Arc<Series>,
    began: Instant,
    code: Option<Code>,
    /// The call in its trace.
    span: Span,
    trace_id: Option<TraceId>,
    /// What is recorded of it, if it is.
    audited: Option<Audited>,
}

impl Open {
    /// Gives the call its place in a trace, if there is one. Probes ask for health without end, and
    /// what is not served has no name.
    fn trace<B>(&mut self, traces: &Traces, request: &mut Request<B>) {
        let path = request.uri().path();
        if path.starts_with(HEALTH) || self.series.is_of_unknown() {
            return;
        }
        let place = traces.of_call(request.headers()).below();
        if !place.is_some() {
            return;
        }
        self.trace_id = place.trace_id();
        self.span = place.span(path[1..].to_owned(), traces::Kind::Server);
        if self.span.is_recorded() {
            self.span.set("rpc.system", "grpc");
            for (label, name) in [("grpc_service", "rpc.service"), ("grpc_method", "rpc.method")] {
                self.span.set(name, self.series.label(label).to_owned());
            }
        }
        request.extensions_mut().insert(place);
    }

    /// Takes note of the status among headers or trailers, if there is one.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
            if let Some(audited) = &mut self.audited {
                audited.heard(headers);
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.series.handled(&self.families, code).inc();
        let took = self.began.elapsed();
        self.series.seconds.observe(took.as_secs_f64());
        if let Some(audited) = self.audited.take() {
            let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let trace_id = self.trace_id.map(|id| id.to_string());
            audited.end((self.series.label("grpc_method"), name_of(code)), took, trace_id);
        }
        if self.span.is_recorded() {
            self.span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
            if is_of_the_server(code) {
                self.span.fail(name_of(code));
            } else if code != Code::Ok {
                self.span.set("error.type", name_of(code));
            }
        }
    }
}

/// Puts [`Counted`] before services.
#[derive(Debug, Clone)]
pub struct CountLayer {
    /// What is counted.
    pub measures: CallMeasures,
    /// Where calls have their places.
    pub traces: Traces,
    /// Where they are recorded.
    pub audit: Audit,
}

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { layer: self.clone(), inner }
    }
}

/// Counts all calls of a service.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    layer: CountLayer,
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Counted<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<CountedBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<R>) -> Self::Future {
        let CountLayer { measures, traces, audit } = &self.layer;
        let mut open = measures.open(request.uri().path());
        open.trace(traces, &mut request);
        open.audited = Audited::begin(audit, &mut request);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if response.status() != StatusCode::OK {
                // An answer to what was no gRPC.
                open.code = Some(Code::Unknown);
            }
            open.note(response.headers());
            Ok(response.map(|body| CountedBody { body, open: Some(open) }))
        })
    }
}

/// The body of a response whose call is open as long as it is there.
#[derive(Debug)]
pub struct CountedBody<B> {
    body: B,
    open: Option<Open>,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match (&frame, &mut self.open) {
            (Some(Ok(frame)), Some(open)) => {
                let trailers = frame.trailers_ref();
                trailers.inspect(|trailers| open.note(trailers));
                trailers.is_some()
            }
            (Some(Err(_)) | None, Some(open)) => {
                // The caller sees a stream without a status.
                open.code = open.code.or(Some(Code::Unknown));
                true
            }
            (_, None) => false,
        };
        if ended {
            self.open = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
