//! Counts gRPC calls by their method and by how they end, and measures how long they take. The
//! names are those that Prometheus dashboards for gRPC servers know (`grpc_server_…`). Knows paths,
//! and the `grpc-status` of an answer; nothing of what is called.
//!
//! A method is one of those that are served; any other path is `unknown`, so that callers make no
//! series. A call is counted once: when its last byte has been handed over, or when it is dropped
//! before, which is how the end of a connection and a caller's reset show here.

mod methods;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};
use tokio::time::Instant;
use tonic::Code;
use tower_layer::Layer;
use tower_service::Service;

use self::methods::Methods;
use crate::measures::{Histograms, Labels, long};

/// The header that ends a call.
const STATUS: &str = "grpc-status";

#[derive(Debug)]
struct Kept {
    methods: Methods,
    started: Family<Labels, Counter>,
    handled: Family<Labels, Counter>,
    seconds: Histograms,
}

/// What is counted of calls. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct CallMeasures(Arc<Kept>);

impl Default for CallMeasures {
    fn default() -> Self {
        let kept = Kept {
            methods: Methods::served(),
            started: Family::default(),
            handled: Family::default(),
            seconds: Family::new_with_constructor(long),
        };
        // What nobody has called yet is there with 0: a rate of a series that has just begun
        // misses the first call.
        for labels in kept.methods.all() {
            drop(kept.started.get_or_create(labels));
            drop(kept.handled.get_or_create(&with_code(labels, Code::Ok)));
        }
        Self(Arc::new(kept))
    }
}

impl CallMeasures {
    /// Adds all of them to a registry, under names of their own.
    pub fn register(&self, registry: &mut Registry) {
        let Kept { started, handled, seconds, methods: _ } = &*self.0;
        let help = "Calls that have begun, by their method";
        registry.register("grpc_server_started", help, started.clone());
        let help = "Calls that have ended, by their method and their status";
        registry.register("grpc_server_handled", help, handled.clone());
        let help = "How long calls take, streams to their end";
        let name = "grpc_server_handling";
        registry.register_with_unit(name, help, Unit::Seconds, seconds.clone());
    }

    fn open(&self, path: &str) -> Open {
        let labels = Arc::clone(self.0.methods.of(path));
        self.0.started.get_or_create(&labels).inc();
        Open { measures: self.clone(), labels, began: Instant::now(), code: None }
    }
}

fn with_code(labels: &Labels, code: Code) -> Labels {
    let mut labels = labels.clone();
    labels.push(("grpc_code", name_of(code).to_owned()));
    labels
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

/// A call that has not ended. Dropped without a code, it was cancelled.
#[derive(Debug)]
struct Open {
    measures: CallMeasures,
    labels: Arc<Labels>,
    began: Instant,
    code: Option<Code>,
}

impl Open {
    /// Takes note of the status among headers or trailers, if there is one.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Kept { handled, seconds, .. } = &*self.measures.0;
        let code = self.code.unwrap_or(Code::Cancelled);
        handled.get_or_create(&with_code(&self.labels, code)).inc();
        seconds.get_or_create(&self.labels).observe(self.began.elapsed().as_secs_f64());
    }
}

/// Puts [`Counted`] before services.
#[derive(Debug, Clone)]
pub struct CountLayer(pub CallMeasures);

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { measures: self.0.clone(), inner }
    }
}

/// Counts all calls of a service.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    measures: CallMeasures,
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

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let mut open = self.measures.open(request.uri().path());
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
