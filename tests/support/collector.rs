//! A collector for OpenTelemetry: takes spans by OTLP over gRPC, refuses them, or says nothing, as a
//! test wants it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode,
};
use session_pool::internals::tasks::spawn_owned;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::authority::Authority;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace_id: String,
    pub id: String,
    /// Empty where a trace begins.
    pub parent: String,
    pub kind: i32,
    pub began: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
    /// What the status says of an error.
    pub error: Option<String>,
    /// The resource's.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute; empty if it is not there.
    pub fn says(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// What it does with spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Takes,
    Refuses(Code),
    /// Takes all but so many.
    TakesBut(i64),
    Hangs,
}

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<Span>,
    headers: Vec<MetadataMap>,
}

#[derive(Debug, Clone)]
struct Taking {
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Seen>>,
}

/// A collector, until it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    taking: Taking,
    serving: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_at(super::free_address()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        Self::serve(Server::builder(), address).await
    }

    /// One with a certificate of an authority for `localhost`.
    pub async fn start_encrypted(authority: &Authority) -> Self {
        let read = |name: &str| std::fs::read(authority.path().join(name)).expect("readable");
        let identity = Identity::from_pem(read("cert.pem"), read("key.pem"));
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity));
        Self::serve(server.expect("a certificate"), super::free_address()).await
    }

    async fn serve(mut server: Server, address: SocketAddr) -> Self {
        let socket = TcpListener::bind(address).await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let taking = Taking { mood: Arc::new(Mutex::new(Mood::Takes)), seen: Arc::default() };
        let service = TraceServiceServer::new(taking.clone());
        let serving = spawn_owned(async move {
            let incoming = TcpListenerStream::new(socket);
            server.add_service(service).serve_with_incoming(incoming).await.ok();
        });
        Self { address, taking, serving }
    }

    /// Where spans are to be sent.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mood: Mood) {
        *self.taking.mood.lock().expect("no panic") = mood;
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.taking.seen.lock().expect("no panic").spans.clone()
    }

    /// The headers of the requests so far.
    pub fn headers(&self) -> Vec<MetadataMap> {
        self.taking.seen.lock().expect("no panic").headers.clone()
    }

    /// The spans of a trace, once there are as many.
    pub async fn of_trace(&self, trace_id: &str, count: usize) -> Vec<Span> {
        let spans = || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace_id == trace_id);
            spans
        };
        super::eventually(&format!("{count} spans"), async || {
            let spans = spans();
            (spans.len() >= count).then_some(spans)
        })
        .await
    }

    /// The first span of this name, once it is there.
    pub async fn named(&self, name: &str) -> Span {
        super::eventually(name, async || self.spans().into_iter().find(|span| span.name == name))
            .await
    }
}

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mood = *self.mood.lock().expect("no panic");
        let rejected_spans = match mood {
            Mood::Takes => 0,
            Mood::TakesBut(spans) => spans,
            Mood::Refuses(code) => return Err(Status::new(code, "not in the mood")),
            Mood::Hangs => std::future::pending().await,
        };
        let mut seen = self.seen.lock().expect("no panic");
        seen.headers.push(request.metadata().clone());
        seen.spans.extend(spans_of(request.into_inner()));
        let error_message = String::new();
        let partial = ExportTracePartialSuccess { rejected_spans, error_message };
        let partial_success = (rejected_spans > 0).then_some(partial);
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(of_resource.resource.map(|it| it.attributes).unwrap_or_default());
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let failed = |status: &opentelemetry_proto::tonic::trace::v1::Status| {
                status.code == StatusCode::Error as i32
            };
            spans.push(Span {
                name: span.name,
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind,
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                error: span.status.filter(failed).map(|status| status.message),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: KeyValue| Some((pair.key, text(pair.value?.value?)));
    pairs.into_iter().filter_map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
