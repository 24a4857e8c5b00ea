//! The accept loop. It never spins: every failure that may repeat itself is followed by a
//! pause, which grows while failures follow each other.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tower_service::Service;
use tracing::{debug, debug_span, info, warn};

use super::{connection::Connections, reserve::Reserve, slots::Slots};
use crate::telemetry::log_limit::{CONNECTION_REFUSED, CONNECTION_REVOKED, NOT_ACCEPTED};

/// The pause after a failure: time for a connection that was revoked to be closed.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between failures that follow each other.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections until the listener is closed.
pub(super) async fn accept<S, B>(
    socket: TcpListener,
    connections: Arc<Connections<S>>,
    slots: Arc<Slots>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let closing = connections.closing.clone();
    let reserve = Arc::new(Reserve::new());
    let mut pause = SHORTEST_PAUSE;
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok((stream, address)) => {
                    pause = SHORTEST_PAUSE;
                    take(stream, address, &connections, &slots, &reserve).await;
                }
                Err(error) if concerns_one_connection(&error) => debug!(%error, "not_accepted"),
                Err(error) => pause = recover(&error, pause, &slots, &reserve).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing.cancelled() => {}
    }
}

/// Gives a connection a slot and a task of its own, or closes it.
async fn take<S, B>(
    stream: TcpStream,
    address: SocketAddr,
    connections: &Arc<Connections<S>>,
    slots: &Arc<Slots>,
    reserve: &Arc<Reserve>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(slot) = slots.take(()).await else {
        if CONNECTION_REFUSED.admits() {
            let connections = slots.taken();
            warn!(peer = %address, connections, "connection_refused");
        }
        return;
    };
    let (connection, reserve) = (Arc::clone(connections), Arc::clone(reserve));
    connections.tasks.spawn(debug_span!("connection", peer = %address), async move {
        let revoked = slot.revoked().clone();
        connection.serve(stream, address, slot).await;
        if revoked.is_cancelled() && CONNECTION_REVOKED.admits() {
            info!(peer = %address, "connection_revoked");
        }
        // Its descriptor is free again.
        reserve.refill();
    });
}

/// Failures of a connection that ended before it was accepted: the next one may be good.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Makes room after a failure, or waits. Returns the next pause.
async fn recover(error: &io::Error, pause: Duration, slots: &Slots, reserve: &Reserve) -> Duration {
    if NOT_ACCEPTED.admits() {
        let connections = slots.taken();
        warn!(%error, connections, "connection_not_accepted");
    }
    let no_descriptors = [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if no_descriptors && slots.revoke_oldest().is_some() {
        sleep(SHORTEST_PAUSE).await;
        return SHORTEST_PAUSE;
    }
    if no_descriptors && reserve.spend() {
        return SHORTEST_PAUSE;
    }
    sleep(pause).await;
    (pause * 2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn c4_without_descriptors_the_loop_makes_room_then_spends_the_reserve_then_pauses() {
        let error = io::Error::from(Errno::MFILE);
        let (slots, reserve) = (Slots::new(8, Duration::ZERO), Reserve::new());
        let idle = slots.take(()).await.expect("free");
        let mut pause = SHORTEST_PAUSE;
        pause = recover(&error, pause, &slots, &reserve).await;
        assert!(idle.revoked().is_cancelled());
        let before = Instant::now();
        for _ in 0..4 {
            pause = recover(&error, pause, &slots, &reserve).await;
        }
        assert_eq!(Instant::now(), before, "the reserve is there to be spent at once");
        for _ in 0..60 {
            pause = recover(&error, pause, &slots, &reserve).await;
        }
        assert_eq!(pause, LONGEST_PAUSE);
        assert!(Instant::now() - before > Duration::from_secs(50), "it does not spin");
    }
}
