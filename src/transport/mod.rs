//! Listeners and their connections: one accept loop and one set of limits for all of
//! them, with TLS and without. Knows HTTP/2; nothing of gRPC or of what is called.
//!
//! A connection lives in phases, each of which has an end:
//! - it is accepted and given a slot ([`slots`]): when all are taken, the oldest connection
//!   on which no call has been let in yet gives way;
//! - within `handshake_timeout` the TLS handshake is done and the client has said what
//!   every HTTP/2 connection begins with (`greeting`);
//! - it serves calls, at most `max_streams` at once; a peer that does not answer pings is
//!   taken for gone;
//! - without calls for `idle_timeout` it is closed in the way that HTTP/2 has for it, on
//!   which no call is lost: clients connect again with their next one.
//!
//! When there are no file descriptors, the accept loop (`accept`) revokes a connection
//! that has not proven itself, then spends one of a small reserve, then pauses.

mod accept;
mod connection;
mod gathered;
mod greeting;
mod reserve;
pub mod slots;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::body::Incoming;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::error_span;

use crate::tasks::Tasks;
use slots::{Slot, Slots};

/// A connection is not revoked before it has this age: time to prove itself.
const GRACE: Duration = Duration::from_secs(1);

/// The limits of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Calls at once on one connection; clients are told.
    pub max_streams: u32,
    /// From accepting a connection to the end of its greeting.
    pub handshake_timeout: Duration,
    /// How long a connection may be without calls; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// Bytes of a request's headers, as HTTP/2 counts them; clients are told.
    pub max_header_bytes: u32,
}

/// Who is at the other end of a connection; among the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address.
    pub address: SocketAddr,
    /// The certificate that it has shown.
    pub certificate: Option<Arc<CertificateDer<'static>>>,
    slot: Weak<Slot>,
    /// Calls that were refused.
    refused: Arc<AtomicU32>,
    /// Calls that are open and need no credentials.
    open_unauthenticated: Arc<AtomicU32>,
}

/// A call that needs no credentials, counted with its connection until it is dropped.
#[derive(Debug)]
pub struct UnauthenticatedCall(Peer);

impl Drop for UnauthenticatedCall {
    fn drop(&mut self) {
        self.0.open_unauthenticated.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls without credentials that may be open on a connection before one is let in.
const OPEN_UNAUTHENTICATED: u32 = 32;

/// Calls that may be refused on a connection before one is let in.
const REFUSALS: u32 = 100;

impl Peer {
    /// A call has been let in: from now on the connection does not give way to others.
    pub fn has_proven_itself(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.keep();
        }
    }

    /// A call has been refused. A connection on which many are and none is let in ends:
    /// each of them costs something, and a client that means well connects again.
    pub fn has_been_refused(&self) {
        if self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS {
            self.give_way();
        }
    }

    /// Counts a call that needs no credentials. A connection with many of them, on which
    /// none was let in, ends.
    pub fn unauthenticated_call(&self) -> UnauthenticatedCall {
        if self.open_unauthenticated.fetch_add(1, Ordering::Relaxed) >= OPEN_UNAUTHENTICATED {
            self.give_way();
        }
        UnauthenticatedCall(self.clone())
    }

    /// Whether the connection has been told to end.
    pub fn has_to_go(&self) -> bool {
        self.slot.upgrade().is_none_or(|slot| slot.revoked().is_cancelled())
    }

    /// Ends the connection, unless a call has been let in on it.
    pub fn give_way(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.give_way();
        }
    }
}

/// A listener and what is served on it.
#[derive(Debug)]
pub struct Listener<S> {
    /// What it is called in the log.
    pub name: &'static str,
    /// The socket.
    pub socket: TcpListener,
    /// Certificates, where there is TLS.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// What answers requests.
    pub service: S,
    /// The limits.
    pub limits: Limits,
}

impl<S, B> Listener<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves among `tasks`, until `closing` is cancelled: then nothing is accepted any
    /// more, and connections are closed once their calls have ended, within a bound.
    pub fn serve(self, tasks: &Tasks, closing: CancellationToken) {
        let Self { name, socket, tls, service, limits } = self;
        let slots = Slots::new(limits.max_connections, GRACE);
        let tasks_of_connections = tasks.clone();
        tasks.spawn(error_span!("listener", name), async move {
            let connections = connection::Connections {
                tls,
                service,
                limits,
                tasks: tasks_of_connections,
                closing,
            };
            accept::accept(socket, Arc::new(connections), slots).await;
        });
    }
}
