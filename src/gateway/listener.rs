//! The sockets of the gateway, and their connections: HTTP/1.1 from CLIs on this machine. Where
//! sessions have networks of their own, each has a socket in its own.

use std::{convert::Infallible, future::pending, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Duration, sleep},
};
use tracing::{debug, debug_span, error_span, warn};

use super::{Gateway, account::Account, seat::Seat};
use crate::telemetry::log_limit::NOT_ACCEPTED;

/// How long the head of a request may take, and how long a connection may be without one.
const HEAD: Duration = Duration::from_secs(300);

/// Wait after a connection could not be accepted: descriptors have run out, most likely.
const PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the tasks end: from all processes, or from the one whose account this
/// is, and then no longer than that lives.
pub(super) fn serve(gateway: Gateway, socket: TcpListener, of_process: Option<Arc<Account>>) {
    let tasks = gateway.0.tasks.clone();
    tasks.spawn(error_span!("gateway"), async move {
        let stopping = gateway.0.tasks.stopping().clone();
        let ended = async {
            match &of_process {
                Some(account) => account.closed().cancelled().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = accept(&gateway, &socket, of_process.as_ref()) => {}
            () = ended => {}
            () = stopping.cancelled() => {}
        }
    });
}

async fn accept(gateway: &Gateway, socket: &TcpListener, of_process: Option<&Arc<Account>>) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                // An answer comes in many small pieces.
                stream.set_nodelay(true).ok();
                let (gateway, account) = (gateway.clone(), of_process.cloned());
                let tasks = gateway.0.tasks.clone();
                tasks.spawn(debug_span!("gateway", %peer), async move {
                    let stopping = gateway.0.tasks.stopping().clone();
                    let Some(seat) = gateway.0.seats.seat(account) else {
                        return debug!("gateway_connection_refused");
                    };
                    tokio::select! {
                        () = answer(gateway.clone(), stream, Arc::new(seat)) => {}
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
}

/// Answers the requests of a connection until it ends.
async fn answer(gateway: Gateway, stream: TcpStream, seat: Arc<Seat>) {
    let service = service_fn(|request| {
        let (gateway, seat) = (gateway.clone(), Arc::clone(&seat));
        async move { Ok::<_, Infallible>(gateway.pass_on(request, seat).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                debug!(%error, "gateway_connection_ended");
            }
        }
        () = seat.revoked() => debug!("gateway_connection_refused"),
    }
}
