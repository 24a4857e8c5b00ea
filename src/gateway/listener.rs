//! The socket of the gateway, and its connections: HTTP/1.1 from CLIs on this machine.

use std::convert::Infallible;

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Duration, sleep},
};
use tracing::{debug, debug_span, error_span, warn};

use super::Gateway;
use crate::{tasks::Tasks, telemetry::log_limit::NOT_ACCEPTED};

/// How long the head of a request may take, and how long a connection may be without one.
const HEAD: Duration = Duration::from_secs(300);

/// Wait after a connection could not be accepted: descriptors have run out, most likely.
const PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the tasks end.
pub(super) fn serve(gateway: Gateway, socket: TcpListener, tasks: &Tasks) {
    let (stopping, connections) = (tasks.stopping().clone(), tasks.clone());
    tasks.spawn(error_span!("gateway"), async move {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // An answer comes in many small pieces.
                    stream.set_nodelay(true).ok();
                    let (gateway, stopping) = (gateway.clone(), stopping.clone());
                    connections.spawn(debug_span!("gateway", %peer), async move {
                        tokio::select! {
                            () = answer(gateway, stream) => {}
                            () = stopping.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    if NOT_ACCEPTED.admits() {
                        warn!(%error, "connection_not_accepted");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    });
}

/// Answers the requests of a connection until it ends.
async fn answer(gateway: Gateway, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(gateway.pass_on(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "gateway_connection_ended");
    }
}
