//! The section `traces`: where spans are exported to, and which. As in `sections`, each comment ends
//! with the default and the bounds, and `docs/configuration.md` is made from it.

use std::{path::PathBuf, time::Duration};

/// Traces for OpenTelemetry.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// The collector that spans are exported to by OTLP over gRPC, as `http://HOST:PORT` or
    /// `https://HOST:PORT` ([traces.md](traces.md)). Nothing is exported without it. Default none.
    pub otlp_endpoint: String,
    /// A file with headers that the collector wants to see, such as a key: lines of `NAME: VALUE`,
    /// read at the start. Agents cannot read it where the sandbox keeps sessions apart. Default none.
    pub headers_file: Option<PathBuf>,
    /// Authorities (PEM) that the collector's certificate may be from. Default none, which is those
    /// of the system.
    pub ca: Option<PathBuf>,
    /// What the service is called in traces (`service.name`). Default `session-pool`, at most 255
    /// bytes.
    pub service_name: String,
    /// The share of traces that is exported of those that begin here. Where a caller sends a
    /// `traceparent`, that says whether its trace is. Default 1, 0 to 1.
    pub sample_ratio: f64,
    /// How long a span waits for others to be sent with it. Default 1 s, over 0, at most 1 minute.
    pub export_interval: Duration,
    /// How long the collector may take for a request. Default 10 s, over 0, at most 1 minute.
    pub export_timeout: Duration,
    /// Spans that wait for the collector; more are dropped, and counted. Default 2048, 1 to
    /// 1 000 000.
    pub max_queued_spans: usize,
    /// Whether the CLI is told to export spans of its own to the same collector, without the headers
    /// of `traces.headers_file`, which agents could read. Default false.
    pub cli_telemetry: bool,
}

impl TracesConfig {
    /// Whether spans are exported.
    pub fn are_exported(&self) -> bool {
        !self.otlp_endpoint.is_empty()
    }

    /// The paths in it.
    pub(super) fn paths_mut(&mut self) -> [Option<&mut PathBuf>; 2] {
        [self.headers_file.as_mut(), self.ca.as_mut()]
    }
}
