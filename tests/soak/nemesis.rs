//! What goes wrong around the service, one thing after the other: the disk is full, another
//! process locks the database, the wall clock jumps, calls are cancelled in bursts,
//! connections say nothing, callers do not read.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use session_pool::proto::{
    GetStatsRequest, QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep},
};
use tonic::{Request, transport::Channel};

use crate::{
    callers::Weather,
    daemon::{Clock, Daemon},
    second::Second,
    support::turn::Turn,
    tally::Tally,
};

/// Calls in a burst; more than a connection may have reset before a server with HTTP/2
/// defaults gives up on it.
const BURST: usize = 150;
/// Connections that say nothing.
const SILENT: usize = 150;

pub struct Nemesis {
    address: String,
    filler: PathBuf,
    clock: Clock,
    second: Second,
    rng: Rng,
    tally: Arc<Tally>,
}

impl Nemesis {
    pub fn new(daemon: &Daemon, number: u64, seed: u64, tally: Arc<Tally>) -> Self {
        Self {
            address: daemon.address().to_owned(),
            filler: daemon.disk().join(format!("filler-{number}")),
            clock: daemon.clock(),
            second: daemon.second(),
            rng: Rng::with_seed(seed),
            tally,
        }
    }

    pub async fn rage_until(mut self, end: Instant) {
        while Instant::now() < end {
            // Every one of them once a round, so that a short run has them all.
            let mut faults = [0, 1, 2, 3, 4, 5];
            self.rng.shuffle(&mut faults);
            for fault in faults {
                if Instant::now() >= end {
                    return;
                }
                match fault {
                    0 => self.fill_the_disk().await,
                    1 => self.lock_the_database().await,
                    2 => self.let_the_clock_jump().await,
                    3 => self.cancel_in_a_burst().await,
                    4 => self.connect_and_say_nothing().await,
                    _ => self.ask_and_not_read().await,
                }
                sleep(self.between(100, 1000)).await;
            }
        }
    }

    fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..most))
    }

    async fn fill_the_disk(&mut self) {
        let path = self.filler.clone();
        tokio::task::spawn_blocking(move || fill(&path)).await.expect("filled");
        sleep(self.between(200, 2500)).await;
        fs::remove_file(&self.filler).expect("removed");
        self.tally.note("full disk", "made room again");
    }

    async fn lock_the_database(&mut self) {
        // On a full disk there is no lock to be had.
        let outcome = if self.second.locks().await {
            sleep(self.between(200, 7000)).await;
            self.second.unlocks().await;
            "held"
        } else {
            "not to be had"
        };
        self.tally.note("locked database", outcome);
    }

    /// Longer than `store.retention` ahead, and back again.
    async fn let_the_clock_jump(&mut self) {
        let jump = ["+31d", "-31d", "+400d", "-2h"][self.rng.usize(..4)];
        self.clock.set(jump);
        sleep(self.between(500, 5000)).await;
        self.clock.set("+0");
        self.tally.note("clock", jump);
    }

    /// A turn of the same connection must not notice.
    async fn cancel_in_a_burst(&mut self) {
        let client = self.client().await;
        let token = format!("token-{:016x}", self.rng.u64(..));
        let request = QueryRequest {
            prompt: format!("#!fake\nsleep 500\nsay {token}"),
            ..QueryRequest::default()
        };
        let long = client.clone().query(request).await;
        for _ in 0..BURST {
            let mut client = client.clone();
            let call = async move { client.get_stats(GetStatsRequest::default()).await };
            // Long enough to be sent, too short to be answered; every other one is not.
            let limit = Duration::from_micros(self.rng.u64(..400));
            drop(tokio::time::timeout(limit, call).await);
        }
        let outcome = match long {
            Ok(response) => {
                let mut turn = Turn::new(response.into_inner());
                turn.finish().await;
                Weather::Foul.judge(&turn, &token)
            }
            Err(status) => Weather::Foul.excuse(&status),
        };
        self.tally.note("burst of cancels", outcome);
    }

    async fn connect_and_say_nothing(&mut self) {
        let address = self.address.trim_start_matches("http://").to_owned();
        let mut silent = Vec::with_capacity(SILENT);
        for _ in 0..SILENT {
            let Ok(mut stream) = TcpStream::connect(&address).await else { break };
            let said = self.rng.usize(..24);
            // A server that has closed it already is right.
            drop(stream.write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..said]).await);
            silent.push(stream);
        }
        sleep(self.between(500, 4000)).await;
        self.tally.note("silent connections", "left");
    }

    async fn ask_and_not_read(&mut self) {
        let mut turns = Vec::new();
        let mut outcome = "left unread".to_owned();
        for _ in 0..4 {
            let mut client = self.client().await;
            let mut request = Request::new(QueryRequest {
                prompt: "#!fake\nframes 60000 300".into(),
                ..QueryRequest::default()
            });
            request.set_timeout(Duration::from_secs(2));
            match client.query(request).await {
                Ok(response) => turns.push(response),
                Err(status) if status.code() == tonic::Code::DeadlineExceeded => {}
                Err(status) if status.code() == tonic::Code::Cancelled => {}
                Err(status) => outcome = Weather::Foul.excuse(&status),
            }
        }
        sleep(self.between(1000, 4000)).await;
        self.tally.note("not read", outcome);
    }

    /// A connection of its own.
    async fn client(&self) -> Client<Channel> {
        Client::connect(self.address.clone()).await.expect("connected")
    }
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("made");
    for size in [1 << 20, 64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
