//! A TCP proxy between a service and PostgreSQL that cuts connections where a test wants it.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How PostgreSQL's protocol says COMMIT.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// A proxy. It ends with its value.
pub struct Proxy {
    address: String,
    state: Arc<State>,
    /// Aborted with this value, and with it every connection.
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// So many connections by which the next COMMITs come are cut when these have reached the server.
    cut_after_commits: AtomicUsize,
    /// Behind the next COMMIT nothing passes any more, and nobody is told.
    hang_after_commit: AtomicBool,
    /// How many were cut so.
    cut: AtomicUsize,
    /// Nothing passes.
    closed: watch::Sender<bool>,
}

impl Proxy {
    /// Passes everything on to this address.
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let mut connections = JoinSet::new();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let mut closed = state.closed.subscribe();
                    tokio::select! {
                        () = pass(client, server, &state) => {}
                        _ = closed.wait_for(|closed| *closed) => {}
                    }
                });
            }
        });
        Self { address, state, _accepting: accepting }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts the connection by which the next COMMIT comes, when that has reached the server.
    pub fn cut_after_commit(&self) {
        self.cut_after_commits(1);
    }

    /// The same of the next ones.
    pub fn cut_after_commits(&self, count: usize) {
        self.state.cut_after_commits.store(count, Ordering::SeqCst);
    }

    /// Nothing passes any more once the next COMMIT has taken effect: its answer, too, is kept back.
    pub fn hang_after_commit(&self) {
        self.state.hang_after_commit.store(true, Ordering::SeqCst);
    }

    /// How many connections were cut so.
    pub fn cut(&self) -> usize {
        self.state.cut.load(Ordering::SeqCst)
    }

    /// Cuts every connection, and lets none in until it is opened again.
    pub fn close(&self) {
        self.state.closed.send_replace(true);
    }

    pub fn open(&self) {
        self.state.closed.send_replace(false);
    }
}

async fn pass(mut client: TcpStream, server: String, state: &State) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                let is_commit = asked[..count].ends_with(COMMIT);
                if server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
                let less = |count: usize| count.checked_sub(1);
                let cuts = || {
                    let left = &state.cut_after_commits;
                    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
                };
                if is_commit && state.hang_after_commit.load(Ordering::SeqCst) {
                    let count = server.read(&mut answered).await.unwrap_or_default();
                    assert!(count > 0, "the server is gone");
                    state.cut.fetch_add(1, Ordering::SeqCst);
                    return std::future::pending().await;
                }
                if is_commit && cuts() {
                    // Its answer shows that it took effect, and is kept from the client.
                    let count = server.read(&mut answered).await.unwrap_or_default();
                    assert!(count > 0, "the server is gone");
                    state.cut.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            count = server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                if client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
