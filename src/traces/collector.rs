//! The collector: a service that takes spans by OTLP over gRPC. It need not be there: the
//! connection is made when there is something to send, and made again when it has ended.

use std::{fs, sync::Arc, time::Duration};

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry_proto::{
    tonic::collector::trace::v1::{
        ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
    },
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector, trace::SpanData};
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{Settings, headers};

/// Why spans were not taken.
#[derive(Debug)]
pub struct Failed {
    /// In words.
    pub error: String,
    /// Whether that may be otherwise soon.
    pub may_pass: bool,
}

/// The collector of an exporter.
#[derive(Debug)]
pub struct Collector {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    resource: ResourceAttributesWithSchema,
    timeout: Duration,
}

impl Collector {
    /// The collector that the settings name.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let Settings { headers_file, timeout, .. } = settings;
        let headers = headers_file.as_deref().map(headers::read).transpose()?;
        let channel = channel(settings)?;
        Ok(Self {
            client: TraceServiceClient::new(channel.connect_lazy()),
            headers: headers.unwrap_or_default(),
            resource: (&resource(settings)).into(),
            timeout: *timeout,
        })
    }

    /// Spans as they are sent.
    pub fn request(&self, batch: Vec<SpanData>) -> Arc<ExportTraceServiceRequest> {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        Arc::new(ExportTraceServiceRequest { resource_spans })
    }

    /// Sends spans; returns how many of them the collector has refused.
    pub async fn send(&mut self, spans: Arc<ExportTraceServiceRequest>) -> Result<usize, Failed> {
        let mut request = Request::new(ExportTraceServiceRequest::clone(&spans));
        *request.metadata_mut() = self.headers.clone();
        // A timeout of its own: that of the channel is over once an answer has begun.
        let sent = tokio::time::timeout(self.timeout, self.client.export(request)).await;
        let late = |_| Status::deadline_exceeded("the collector did not answer in time");
        let answer = sent.map_err(late).and_then(|sent| sent).map_err(|status| failed(&status))?;
        let refused = answer.into_inner().partial_success.map_or(0, |some| some.rejected_spans);
        Ok(usize::try_from(refused).unwrap_or_default())
    }
}

/// Reads the files that the settings name, to say what is wrong with them.
///
/// # Errors
///
/// What is wrong with the first one that is not accepted, with its path.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    settings.headers_file.as_deref().map(headers::read).transpose()?;
    channel(settings).map(drop)
}

fn channel(settings: &Settings) -> anyhow::Result<Endpoint> {
    let Settings { endpoint, ca, timeout, .. } = settings;
    let named = || format!("traces.otlp_endpoint: {endpoint}");
    let channel = Channel::from_shared(endpoint.clone()).with_context(named)?;
    let channel = channel.connect_timeout(*timeout);
    if !endpoint.starts_with("https:") {
        return Ok(channel);
    }
    let tls = match ca {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(file) => {
            let pem = fs::read(file).with_context(|| format!("traces.ca: {}", file.display()))?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    };
    channel.tls_config(tls).with_context(named)
}

/// What the service is to whoever reads its traces. `OTEL_RESOURCE_ATTRIBUTES` may say more of it,
/// and goes before what the service itself says, but for its name.
fn resource(settings: &Settings) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.instance.id", settings.instance.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_service_name(settings.service_name.clone())
        .build()
}

/// The protocol says which failures may pass.
fn failed(status: &Status) -> Failed {
    let may_pass = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            // The protocol does not list it, but a proxy answers so while the collector is away.
            | Code::Unknown
    );
    let mut error = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(inner) = cause {
        error = format!("{error}: {inner}");
        cause = inner.source();
    }
    Failed { error, may_pass }
}
