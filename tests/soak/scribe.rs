//! A caller whose session nobody forgets: whatever it was told is in the database at that
//! moment, as a connection of another process sees it, and still there at the end.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use session_pool::proto::{
    QueryRequest, session_pool_service_client::SessionPoolServiceClient as Client,
};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::{callers::Weather, daemon::Daemon, second::Second, support::turn::Turn, tally::Tally};

/// How long a look at the database may fail for the disk's sake.
const LONGEST_LOOK: Duration = Duration::from_secs(40);

/// One caller with a session of its own.
pub struct Scribe {
    client: Client<Channel>,
    session: String,
    second: Second,
    rng: Rng,
    tally: Arc<Tally>,
    told: Vec<String>,
}

impl Scribe {
    pub async fn new(daemon: &Daemon, number: u64, seed: u64, tally: Arc<Tally>) -> Self {
        Self {
            client: daemon.client().await,
            session: format!("scribe-{number}"),
            second: daemon.second(),
            rng: Rng::with_seed(seed),
            tally,
            told: Vec::new(),
        }
    }

    /// Asks until `end`; returns what it was told.
    pub async fn write_until(mut self, end: Instant) -> Vec<String> {
        while Instant::now() < end {
            let token = format!("token-{:016x}", self.rng.u64(..));
            let request = QueryRequest {
                session_id: self.session.clone(),
                prompt: format!("#!fake\nsay {token}"),
                ..QueryRequest::default()
            };
            let outcome = match self.client.query(request).await {
                Ok(response) => {
                    let mut turn = Turn::new(response.into_inner());
                    turn.finish().await;
                    let outcome = Weather::Foul.judge(&turn, &token);
                    if outcome == "answered" {
                        assert!(
                            holds(&mut self.second, &token).await,
                            "{token} was told and not kept"
                        );
                        self.told.push(token);
                    }
                    outcome
                }
                Err(status) => Weather::Foul.excuse(&status),
            };
            self.tally.note("scribe", outcome);
        }
        self.told
    }
}

/// Whether the database holds what was said, as another process sees it. A look fails while
/// there is no room even for the index of its log: it is repeated, since what is committed
/// stays.
pub async fn holds(second: &mut Second, said: &str) -> bool {
    let until = Instant::now() + LONGEST_LOOK;
    loop {
        match second.looks_for(said).await {
            Ok(found) => return found,
            Err(error) if Instant::now() > until => panic!("cannot look: {error}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
