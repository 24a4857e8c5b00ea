//! A loopback stand-in for the Anthropic Messages API, good enough for the real CLI to run whole turns on.
//!
//! Tests, `make demo` and a `make run` without a key point `ANTHROPIC_BASE_URL` here. What it answers is
//! written in the prompt itself ([`script`] has the table of directives), so that any number of sessions
//! share one server without setting it up or disturbing each other; a prompt without directives is echoed
//! together with the prompts before it, which proves that the conversation was kept.
//!
//! ```text
//! request ─▶ server ─▶ record ─▶ rules             what came in, and why the API would refuse it
//!               │
//!               ├─▶ access                          whether the key is good and the API is up
//!               ├─▶ conversation ─▶ script          who asks, what was said, where in the script we are
//!               │        └─▶ answer ◀─ attempts     what to do now; failures already served are counted
//!               └─▶ delivery ─▶ sse                 doing it: events, pauses, silences, dropped lines
//! ```
//!
//! It knows the wire format of the Messages API and the habits of the CLI as a client of it, and nothing of
//! the service under test. Progress through a script is read off the request (how many of its tool calls
//! are in the history), never remembered, so a retry, a resume in another process or a restart of the
//! stand-in itself goes on at the right place. Only "fail N times" needs memory: [`attempts`].

#![allow(dead_code, reason = "each test binary that includes this module uses only a part of it")]

mod access;
mod answer;
mod attempts;
mod conversation;
mod delivery;
mod directive;
mod error;
mod ids;
mod json;
mod message;
mod record;
mod rules;
mod script;
mod server;
mod side;
mod sse;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use access::Access;
pub use attempts::Times;
use error::ApiError;
use record::Record;
pub use record::RecordedRequest;

/// How long a connection may take to notice a shutdown. Only a client that stops in the middle of sending
/// a request gets this far.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A running stand-in. Dropping it stops the server as well, but only [`StandIn::shutdown`] waits for that.
#[derive(Debug)]
pub struct StandIn {
    addr: SocketAddr,
    record: Arc<Record>,
    access: Arc<Access>,
    serving: JoinHandle<io::Result<()>>,
    stop: DropGuard,
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts on `addr`; port 0 picks a free one. Anything but a loopback address is refused: the answers
    /// carry tool calls that whoever asks will run.
    pub async fn start_on(addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the stand-in listens on loopback only, not on {addr}"),
            ));
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let record = Arc::new(Record::default());
        let access = Arc::new(Access::default());
        let stop = CancellationToken::new();
        let serving =
            server::spawn(listener, Arc::clone(&record), Arc::clone(&access), stop.clone());
        Ok(Self { addr, record, access, serving, stop: stop.drop_guard() })
    }

    /// What `ANTHROPIC_BASE_URL` has to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every request kept, oldest first; see [`record`] for how many that are.
    pub fn requests(&self) -> Vec<Arc<RecordedRequest>> {
        self.record.all()
    }

    /// The requests of one CLI session, oldest first.
    pub fn requests_of(&self, session: &str) -> Vec<Arc<RecordedRequest>> {
        self.record.of_session(session)
    }

    /// The first request that satisfies `wanted`, among those kept and those still to come. Waits for ever:
    /// the caller knows how long is too long.
    pub async fn wait_for_request(
        &self,
        wanted: impl FnMut(&RecordedRequest) -> bool,
    ) -> Arc<RecordedRequest> {
        self.record.wait_for(wanted).await
    }

    /// What the requests kept were refused for, oldest first: none of them should have been sent.
    pub fn refused(&self) -> Vec<String> {
        self.requests().iter().filter_map(|request| request.refused.clone()).collect()
    }

    /// Takes these keys and no others from now on; at first every key is good.
    pub fn accept_only(&self, keys: &[&str]) {
        self.access.accept_only(keys);
    }

    /// Answers the next `times` requests with this status, whatever they ask for.
    pub fn refuse(&self, status: StatusCode, retry_after: Option<u64>, times: Times) {
        self.access.refuse(ApiError::of_status(status, retry_after), times);
    }

    /// Forgets the requests recorded so far.
    pub fn clear_requests(&self) {
        self.record.clear();
    }

    /// Ends every open stream, closes every connection and waits until all of it is gone.
    pub async fn shutdown(self) -> io::Result<()> {
        let Self { serving, stop, .. } = self;
        let abort = serving.abort_handle();
        drop(stop);
        match tokio::time::timeout(SHUTDOWN_GRACE, serving).await {
            Ok(Ok(served)) => served,
            Ok(Err(join)) => Err(io::Error::other(join)),
            Err(_) => {
                abort.abort();
                Err(io::Error::new(io::ErrorKind::TimedOut, "a connection did not end at shutdown"))
            }
        }
    }
}
