//! Connections to other nodes: kept while they are good, made when they are needed. A node that
//! cannot be reached is asked again only after a pause that grows, and meanwhile every call is
//! told so at once.
//!
//! Each call has a window of its own, and a connection's window holds those of all its calls:
//! a caller that does not read keeps none of the others waiting.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::{Code, Status};
use tracing::{Span, debug, error};

use super::outgoing::Outgoing;
use crate::{access::nodes::Nodes, tasks::Tasks, telemetry::log_limit::NODE_REFUSED};

/// From the first packet to the end of the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// After a failure nobody tries for so long, and twice as long after each one that follows.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A node that says nothing is asked whether it is there, and is gone when it does not answer.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Times that a call is given to a connection that turns out to have ended before it took it.
pub const CONNECTIONS_TRIED: usize = 3;
/// Calls on one connection; for more another one is made. Every node takes so many.
pub const CALLS_ON_A_LINK: u32 = 100;
const MOST_CALLS: usize = CALLS_ON_A_LINK as usize;
/// Bytes of one call that may have come and not been passed on.
const CALL_WINDOW: u32 = 128 * 1024;
/// The same of all calls of a connection.
const CONNECTION_WINDOW: u32 = CALL_WINDOW * CALLS_ON_A_LINK;
/// Bytes of one call that may wait to be sent.
const SEND_BUFFER: usize = 128 * 1024;

/// Sends calls on a connection.
pub type Sender = http2::SendRequest<Outgoing>;
type Stream = Either<TlsStream<TcpStream>, TcpStream>;

/// Why a node cannot be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(Arc<str>);

impl Unreachable {
    /// For this reason.
    pub fn because(problem: impl ToString) -> Self {
        Self(problem.to_string().into())
    }
}

/// The connections to all nodes.
#[derive(Debug)]
pub struct Links {
    nodes: Nodes,
    tasks: Tasks,
    links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
}

/// The connections to one node.
#[derive(Debug, Default)]
struct Link(tokio::sync::Mutex<State>);

#[derive(Debug, Default)]
struct State {
    connections: Vec<Connection>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Connection {
    sender: Sender,
    /// One more for each of its calls.
    calls: Arc<()>,
}

#[derive(Debug)]
struct Failed {
    until: Instant,
    pause: Duration,
    problem: Unreachable,
}

/// The right to make a call on a connection; the call is over when it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Sends it.
    pub sender: Sender,
    scheme: Scheme,
    authority: Authority,
    call: Call,
}

/// A call that is open.
#[derive(Debug)]
pub struct Call(#[expect(dead_code, reason = "counted while it lives")] Arc<()>);

impl Lease {
    /// The address of a call by this connection; `None` if it cannot be written.
    pub fn uri(&self, path: Option<&PathAndQuery>) -> Option<Uri> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
        uri.build().ok()
    }

    /// The part that stands for the open call.
    pub fn into_call(self) -> Call {
        self.call
    }
}

impl Links {
    /// Connections that are secured as `nodes` says.
    pub fn new(nodes: Nodes, tasks: Tasks) -> Self {
        Self { nodes, tasks, links: Mutex::default() }
    }

    /// A connection to a node, if it says where it is reached.
    pub async fn lease_of(&self, address: Option<&Arc<str>>) -> Result<Lease, Unreachable> {
        match address {
            Some(address) => self.lease(address).await,
            None => Err(Unreachable::because("it does not say where (cluster.advertise)")),
        }
    }

    /// A connection with room for one more call. Ends within [`CONNECT_LIMIT`], or little more.
    async fn lease(&self, address: &Arc<str>) -> Result<Lease, Unreachable> {
        let authority: Authority = address.parse().map_err(Unreachable::because)?;
        let link = self.link(address);
        // Whoever waits for somebody else's attempt takes what comes of it, also a failure.
        let mut state = link.0.lock().await;
        state.connections.retain(|connection| !connection.sender.is_closed());
        let free = |it: &&Connection| Arc::strong_count(&it.calls) <= MOST_CALLS;
        let (sender, calls) = match state.connections.iter().find(free) {
            Some(free) => (free.sender.clone(), Arc::clone(&free.calls)),
            None => self.add(&mut state, &authority).await?,
        };
        let scheme = if self.nodes.client().is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Lease { sender, scheme, authority, call: Call(calls) })
    }

    fn link(&self, address: &Arc<str>) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(address) {
            return Arc::clone(link);
        }
        // Nodes come and go under new addresses: those that nobody uses are forgotten.
        links.retain(|_, link| Arc::strong_count(link) > 1 || link.is_in_use());
        Arc::clone(links.entry(Arc::clone(address)).or_default())
    }

    /// Makes a connection, unless that has just failed.
    async fn add(
        &self,
        state: &mut State,
        authority: &Authority,
    ) -> Result<(Sender, Arc<()>), Unreachable> {
        let failed = state.failed.as_ref();
        if let Some(failed) = failed.filter(|failed| Instant::now() < failed.until) {
            return Err(failed.problem.clone());
        }
        match self.connect(authority).await {
            Ok(sender) => {
                state.failed = None;
                let calls = Arc::new(());
                state
                    .connections
                    .push(Connection { sender: sender.clone(), calls: Arc::clone(&calls) });
                debug!(node_address = %authority, "node_connected");
                Ok((sender, calls))
            }
            Err(problem) => {
                let pause = state.failed.as_ref().map_or(SHORTEST_PAUSE, |failed| failed.pause);
                let until = Instant::now() + pause;
                let pause = (pause * 2).min(LONGEST_PAUSE);
                state.failed = Some(Failed { until, pause, problem: problem.clone() });
                Err(problem)
            }
        }
    }

    async fn connect(&self, authority: &Authority) -> Result<Sender, Unreachable> {
        let connecting = async {
            let stream = self.stream(authority).await?;
            let mut http = http2::Builder::new(OwnedTasks(self.tasks.clone()));
            http.timer(TokioTimer::new())
                .initial_stream_window_size(CALL_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true);
            http.handshake(TokioIo::new(stream)).await.map_err(Unreachable::because)
        };
        let (sender, connection) = timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| Unreachable::because(format!("no answer within {CONNECT_LIMIT:?}")))??;
        let address = authority.clone();
        OwnedTasks(self.tasks.clone()).execute(async move {
            let ended = connection.await.err().map(|error| cause(&error));
            debug!(node_address = %address, error = ended, "node_disconnected");
        });
        Ok(sender)
    }

    async fn stream(&self, authority: &Authority) -> Result<Stream, Unreachable> {
        let stream = TcpStream::connect(authority.as_str()).await.map_err(Unreachable::because)?;
        stream.set_nodelay(true).ok();
        let Some(config) = self.nodes.client() else { return Ok(Either::Right(stream)) };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(Unreachable::because)?;
        let secured = TlsConnector::from(config).connect(name, stream).await;
        secured.map(Either::Left).map_err(Unreachable::because)
    }
}

impl Link {
    fn is_in_use(&self) -> bool {
        let Ok(state) = self.0.try_lock() else { return true };
        state.connections.iter().any(|connection| !connection.sender.is_closed())
    }
}

/// What an error of the library is about: it says "connection error", and why stands behind.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Why a node does not take this one for a node, if its answer says so: nothing that a caller could
/// mend.
pub fn refusal(node: &str, headers: &HeaderMap) -> Option<String> {
    let status = Status::from_header_map(headers)?;
    if status.code() != Code::Unauthenticated {
        return None;
    }
    let told = status.message();
    if NODE_REFUSED.admits() {
        error!(node, told, "node_refused");
    }
    Some(told.to_owned())
}

/// Spawns what a connection consists of among the service's tasks. It ends with them.
#[derive(Debug, Clone)]
struct OwnedTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OwnedTasks {
    fn execute(&self, future: F) {
        let stopping = self.0.stopping().clone();
        self.0.spawn(Span::none(), async move {
            tokio::select! {
                () = future => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}
