//! HTTP/1 for those who watch the service, with bounds: so many connections, the oldest of which
//! gives way to a new one; a time for a request's head to arrive; and an age at which a connection
//! ends, whatever its reader still has to read. Monitoring connects again, and whoever is slow holds
//! nothing for long. Knows nothing of what is served.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{debug, debug_span, error_span, warn};

use crate::{
    tasks::Tasks,
    telemetry::log_limit::NOT_ACCEPTED,
    transport::slots::{Slot, Slots},
};

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// A connection does not give way to another before it has this age.
    pub grace: Duration,
    /// How long the head of a request may take, and how long a connection may be without one.
    pub head: Duration,
    /// How long a connection takes requests.
    pub age: Duration,
    /// How long the answer that is under way then may take.
    pub last_answer: Duration,
}

impl Limits {
    /// What monitoring needs, with room for people who look as well.
    pub const MONITORING: Self = Self {
        connections: 64,
        grace: Duration::from_secs(1),
        head: Duration::from_secs(10),
        age: Duration::from_secs(60),
        last_answer: Duration::from_secs(10),
    };
}

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Wait after a connection could not be accepted: descriptors have run out, most likely.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves on this socket until the tasks end: probes ask until then.
pub fn serve(socket: TcpListener, routes: Router, limits: Limits, tasks: &Tasks) {
    let (stopping, of_connections) = (tasks.stopping().clone(), tasks.clone());
    let slots = Slots::new(limits.connections, limits.grace);
    tasks.spawn(error_span!("metrics"), async move {
        let accepting = async {
            loop {
                match socket.accept().await {
                    Ok((stream, peer)) => {
                        take(stream, peer, (&slots, limits), &routes, &of_connections).await;
                    }
                    Err(error) => not_accepted(&error).await,
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stopping.cancelled() => {}
        }
    });
}

async fn not_accepted(error: &io::Error) {
    if NOT_ACCEPTED.admits() {
        warn!(%error, "connection_not_accepted");
    }
    sleep(PAUSE).await;
}

/// Gives a connection a slot and a task of its own.
async fn take(
    stream: TcpStream,
    peer: SocketAddr,
    (slots, limits): (&Arc<Slots>, Limits),
    routes: &Router,
    tasks: &Tasks,
) {
    // All of them give way, so that there is one.
    let Some(slot) = slots.take(()).await else { return };
    let (routes, stopping) = (routes.clone(), tasks.stopping().clone());
    tasks.spawn(debug_span!("connection", %peer), async move {
        tokio::select! {
            () = answer(stream, routes, limits, &slot) => {}
            () = stopping.cancelled() => {}
        }
    });
}

/// Answers requests until the connection ends, for whatever reason.
async fn answer(stream: TcpStream, routes: Router, limits: Limits, slot: &Slot) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_BYTES);
    let service = TowerToHyperService::new(routes);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = sleep(limits.age) => None,
        () = slot.revoked().cancelled() => return debug!("connection_revoked"),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = sleep(limits.last_answer) => return debug!("connection_not_closed_in_time"),
                () = slot.revoked().cancelled() => return debug!("connection_revoked"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection_failed");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;

    /// More than the buffers of two sockets take.
    const LONG: usize = 64 << 20;

    const SHORT: Limits = Limits {
        connections: 2,
        grace: Duration::ZERO,
        head: Duration::from_millis(300),
        age: Duration::from_millis(700),
        last_answer: Duration::from_millis(300),
    };

    async fn served(limits: Limits) -> (SocketAddr, Tasks) {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("an address");
        let long = bytes::Bytes::from(vec![b'x'; LONG]);
        let routes = Router::new()
            .route("/", get(async || "ok"))
            .route("/long", get(async move || long.clone()));
        let tasks = Tasks::default();
        serve(socket, routes, limits, &tasks);
        (address, tasks)
    }

    async fn connected(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("connected")
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
    }

    /// Reads to the end of the connection.
    async fn rest(stream: &mut TcpStream) -> usize {
        let mut bytes = Vec::new();
        timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes))
            .await
            .expect("it ends")
            .ok();
        bytes.len()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_in_time_ends_its_connection() {
        let (address, tasks) = served(SHORT).await;
        for begun in ["", "GET / HTTP/1.1\r\nhost: "] {
            let (mut stream, began) = (connected(address).await, Instant::now());
            stream.write_all(begun.as_bytes()).await.expect("sent");
            rest(&mut stream).await;
            assert!(began.elapsed() < Duration::from_secs(10), "{begun:?}");
        }
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let (address, tasks) = served(Limits::MONITORING).await;
        let mut stream = connected(address).await;
        let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
        stream.write_all(head.as_bytes()).await.ok();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 431");
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn who_does_not_read_an_answer_is_let_go_of() {
        let (address, tasks) = served(SHORT).await;
        let (mut stream, began) = (connected(address).await, Instant::now());
        ask(&mut stream, "/long").await;
        while tasks.len() < 2 {
            tokio::task::yield_now().await;
        }
        // The listener's own task is left.
        while tasks.len() > 1 {
            assert!(began.elapsed() < Duration::from_secs(20), "it holds its connection");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(rest(&mut stream).await < LONG);
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_connection_takes_requests_up_to_its_age() {
        let (head, age) = (Duration::from_secs(60), Duration::from_secs(3));
        let (address, tasks) = served(Limits { head, age, ..SHORT }).await;
        let (mut stream, mut answer) = (connected(address).await, [0; 15]);
        for _ in 0..3 {
            ask(&mut stream, "/").await;
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            let mut byte = [0];
            let mut end = Vec::new();
            while !end.ends_with(b"\r\n\r\nok") {
                stream.read_exact(&mut byte).await.expect("the rest");
                end.extend(byte);
            }
        }
        assert_eq!(rest(&mut stream).await, 0, "it is closed");
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn who_holds_connections_keeps_nobody_out() {
        let limits =
            Limits { head: Duration::from_secs(60), age: Duration::from_secs(60), ..SHORT };
        let (address, tasks) = served(limits).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut stream = connected(address).await;
            ask(&mut stream, "/long").await;
            held.push(stream);
        }
        let mut stream = connected(address).await;
        ask(&mut stream, "/").await;
        let mut answer = [0; 15];
        let answered = stream.read_exact(&mut answer);
        timeout(Duration::from_secs(20), answered).await.expect("in time").expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        assert!(tasks.len() <= limits.connections + 2, "{}", tasks.len());
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}
