//! One connection, from the moment it is accepted to its end. What bounds each phase is
//! in the header of the folder.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, rt::Executor, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tower_service::Service;
use tracing::{Span, debug};

use super::{
    Limits, Peer,
    gathered::Gathered,
    greeting::{Greeted, PORTION},
    slots::Slot,
};
use crate::tasks::Tasks;

/// How long a connection may take to close once its calls have ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A peer that is gone without a word is noticed by this.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Bytes that a client may send on one call, and on all calls of a connection together,
/// before the service has read them.
const RECEIVE_WINDOW: u32 = 1024 * 1024;
/// Bytes of one call that may wait to be sent.
const SEND_BUFFER: usize = 128 * 1024;
/// Calls that may be opened and cancelled again before they are looked at: a proxy cancels
/// for many callers in one packet. More than fit into one portion of what is read, where
/// the two frames take 27 bytes at least, so that no connection ends by it.
const CANCELLED_AT_ONCE: usize = PORTION / 16;
/// Calls that the service had to reset for a fault of the client, in the whole life of a
/// connection. A proxy has clients of all kinds; an attacker makes a list of them that
/// must not grow for ever.
const FAULTY_CALLS: usize = 65_536;

type Stream = Either<TlsStream<TcpStream>, TcpStream>;

/// What the connections of a listener have in common.
#[derive(Debug)]
pub(super) struct Connections<S> {
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub service: S,
    pub limits: Limits,
    pub tasks: Tasks,
    pub closing: CancellationToken,
}

impl<S, B> Connections<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves a connection to its end.
    pub async fn serve(&self, stream: TcpStream, address: SocketAddr, slot: Slot) {
        let deadline = Instant::now() + self.limits.handshake_timeout;
        stream.set_nodelay(true).ok();
        let secured = tokio::select! {
            secured = timeout_at(deadline, self.secure(stream)) => secured,
            () = slot.revoked().cancelled() => return,
            () = self.closing.cancelled() => return,
        };
        let stream = match secured {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%error, "handshake_failed"),
            Err(_) => return debug!("handshake_timeout"),
        };
        let certificate = match &stream {
            Either::Left(tls) => tls.get_ref().1.peer_certificates(),
            Either::Right(_) => None,
        };
        let certificate = certificate.and_then(|chain| chain.first());
        let certificate = certificate.map(|own| Arc::new(own.clone().into_owned()));
        let slot = Arc::new(slot);
        let peer = Peer {
            address,
            certificate,
            slot: Arc::downgrade(&slot),
            refused: Arc::default(),
            open_unauthenticated: Arc::default(),
        };
        self.calls(stream, peer, &slot, deadline).await;
    }

    async fn secure(&self, stream: TcpStream) -> io::Result<Stream> {
        let Some(config) = &self.tls else { return Ok(Either::Right(stream)) };
        let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
        acceptor.accept(stream).await.map(Either::Left)
    }

    /// Serves calls until the connection ends, for whatever reason.
    async fn calls(&self, stream: Stream, peer: Peer, slot: &Slot, deadline: Instant) {
        let (stream, outgoing) = Gathered::new(stream);
        let (stream, greeted) = Greeted::new(stream, slot.revoked().clone());
        let (portion, calls) = (stream.portion(), Arc::new(watch::Sender::new(0)));
        let service = Calls { service: self.service.clone(), peer, open: Arc::clone(&calls) };
        let connection = self.http().serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut greeted = pin!(async {
            // An error means that the connection has ended, which is noticed below.
            let told = timeout_at(deadline, greeted).await;
            if told.is_ok() {
                std::future::pending().await
            }
        });
        let mut idle = pin!(idle(calls.subscribe(), self.limits.idle_timeout));
        let mut closed_by = None;
        loop {
            tokio::select! {
                ended = poll_fn(|cx| {
                    // The library has looked at every call of the portion when it returns.
                    portion.begin();
                    let ended = connection.as_mut().poll(cx);
                    // And has written what it has to write, of all calls.
                    match outgoing.poll_send(cx) {
                        Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error)),
                        _ => ended.map_err(io::Error::other),
                    }
                }) => {
                    return if let Err(error) = ended { debug!(%error, "connection_failed") };
                }
                () = &mut greeted => return debug!("greeting_timeout"),
                () = slot.revoked().cancelled() => return,
                () = &mut idle, if closed_by.is_none() => {
                    debug!("connection_idle");
                    connection.as_mut().graceful_shutdown();
                    closed_by = Some(Instant::now() + CLOSE_LIMIT);
                }
                () = self.closing.cancelled(), if closed_by.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    closed_by = Some(Instant::now() + CLOSE_LIMIT);
                }
                () = sleep_until(closed_by.unwrap_or(deadline)), if closed_by.is_some() => {
                    if self.closing.is_cancelled() || *calls.borrow() == 0 {
                        return debug!("connection_not_closed_in_time");
                    }
                    // A call came when the connection was about to be closed: it goes on.
                    closed_by = Some(Instant::now() + CLOSE_LIMIT);
                }
            }
        }
    }

    fn http(&self) -> http2::Builder<StreamTasks> {
        let Limits { max_streams, max_header_bytes, .. } = self.limits;
        let mut http = http2::Builder::new(StreamTasks(self.tasks.clone()));
        http.timer(TokioTimer::new())
            .max_concurrent_streams(max_streams)
            .max_pending_accept_reset_streams(CANCELLED_AT_ONCE)
            .max_local_error_reset_streams(FAULTY_CALLS)
            .max_header_list_size(max_header_bytes)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        http
    }
}

/// Resolves when there have been no calls for so long.
async fn idle(mut open: watch::Receiver<usize>, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        if open.wait_for(|open| *open == 0).await.is_err() {
            return std::future::pending().await;
        }
        tokio::select! {
            () = sleep(limit) => return,
            _ = open.changed() => {}
        }
    }
}

/// Spawns the tasks of calls among the service's. What they log is about the call and not
/// about its connection.
#[derive(Debug, Clone)]
struct StreamTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, future: F) {
        self.0.spawn(Span::none(), future);
    }
}

/// The service as one connection sees it: its requests know their peer and are counted
/// until their responses have been sent.
struct Calls<S> {
    service: S,
    peer: Peer,
    open: Arc<watch::Sender<usize>>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Counted<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = Open::new(&self.open);
        request.extensions_mut().insert(self.peer.clone());
        let mut service = self.service.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(request).await?;
            Ok(response.map(|body| Counted { body, _open: open }))
        })
    }
}

/// One open call.
#[derive(Debug)]
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// The body of a response whose call is open as long as it is there.
#[derive(Debug)]
struct Counted<B> {
    body: B,
    _open: Open,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
