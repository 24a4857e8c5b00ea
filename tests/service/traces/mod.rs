//! Traces: which spans a call leaves at a collector, what of its caller's trace reaches the CLI and
//! the log, and that no collector, whatever it does, is felt by callers.

mod collectors;
mod handed_on;
mod lines;
mod queries;

use std::time::Duration;

use session_pool::{config::Config, proto::QueryRequest};
use tonic::{Request, metadata::MetadataValue};

use crate::support::{collector::Collector, service::Service, turn::Turn};

/// A trace of a caller's, and its span that is the parent of a call.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const CALL: &str = "sessionpool.v1.SessionPoolService/Query";
const TURN: &str = "invoke_agent claude-code";

/// A caller's `traceparent`.
fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{PARENT}-{flags}")
}

/// A trace of its own for each test that shares a collector or a log with others.
fn trace(number: u32) -> String {
    format!("{number:08x}{}", &TRACE[8..])
}

/// A service whose spans go to a collector soon.
async fn exporting(collector: &Collector, change: impl FnOnce(&mut Config)) -> Service {
    let endpoint = collector.endpoint();
    Service::start(|config| {
        config.traces.otlp_endpoint = endpoint;
        config.traces.export_interval = Duration::from_millis(5);
        change(config);
    })
    .await
}

/// A call with this metadata.
fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        let value = MetadataValue::try_from(*value).expect("a value");
        request.metadata_mut().append(*key, value);
    }
    request
}

/// Begins a turn in a caller's trace.
async fn open(service: &Service, request: QueryRequest, traceparent: &str) -> Turn {
    let call = with(request, &[("traceparent", traceparent)]);
    Turn::new(service.client.clone().query(call).await.expect("taken").into_inner())
}

/// Runs a turn in a caller's trace to its end.
async fn run(service: &Service, request: QueryRequest, traceparent: &str) -> Turn {
    let mut turn = open(service, request, traceparent).await;
    turn.finish().await;
    turn
}
