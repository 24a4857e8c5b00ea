//! Reads the database from time to time, on a connection of its own that no fault is between:
//! each transcript that it reads has to begin with what it read of it before.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::recorder::{Recorder, Wrong};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);
/// How long a look may take: the database may be stopped.
const LOOK: Duration = Duration::from_secs(2);

/// What of an entry must not change.
type Print = (i64, String);

/// Looks until it is stopped.
pub struct Watcher {
    over: Arc<AtomicBool>,
    shared: Arc<Shared>,
    watching: JoinHandle<()>,
}

struct Shared {
    url: Mutex<String>,
    recorder: Arc<Recorder>,
    transcripts: Mutex<HashMap<String, Vec<Print>>>,
    owners: Mutex<HashMap<String, String>>,
}

/// A connection that nothing is between.
pub async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    options.disable_statement_logging().connect().await
}

impl Watcher {
    pub fn start(url: String, recorder: Arc<Recorder>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            url: Mutex::new(url),
            recorder,
            transcripts: Mutex::default(),
            owners: Mutex::default(),
        });
        let (ends, looks) = (Arc::clone(&over), Arc::clone(&shared));
        let watching = session_pool::internals::tasks::spawn_owned(async move {
            let mut connection = None;
            while !ends.load(Ordering::SeqCst) {
                // It is gone while the database is.
                drop(timeout(LOOK, looks.look(&mut connection)).await);
                sleep(EVERY).await;
            }
        });
        Self { over, shared, watching }
    }

    /// Another server has the database from now on.
    pub fn follow(&self, url: String) {
        *self.shared.url.lock().expect("no panic") = url;
    }

    /// Tells whose a session was when it was last looked at: the node's name.
    pub fn owners(&self) -> impl Fn(&str) -> Option<String> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move |session| {
            let owners = shared.owners.lock().expect("no panic");
            owners.get(session).cloned().filter(|owner| !owner.is_empty())
        }
    }

    pub async fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        self.watching.await.expect("no panic");
        // Once more, when all is over.
        let mut connection = None;
        self.shared.look(&mut connection).await.expect("the database is there");
    }
}

impl Shared {
    async fn look(&self, connection: &mut Option<PgConnection>) -> Result<(), sqlx::Error> {
        let mut by = match connection.take() {
            Some(open) => open,
            None => {
                let url = self.url.lock().expect("no panic").clone();
                connect(&url).await?
            }
        };
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT cli_session_id, seq, COALESCE(uuid, '') || md5(line) FROM entries \
             WHERE seq > 0 ORDER BY cli_session_id, seq",
        )
        .fetch_all(&mut by)
        .await?;
        let owners: Vec<(String, String)> = sqlx::query_as(
            "SELECT session_id, CASE owner WHEN '' THEN '' ELSE owner_name END FROM sessions",
        )
        .fetch_all(&mut by)
        .await?;
        *connection = Some(by);
        let mut now: HashMap<String, Vec<Print>> = HashMap::new();
        for (conversation, seq, print) in rows {
            now.entry(conversation).or_default().push((seq, print));
        }
        let mut transcripts = self.transcripts.lock().expect("no panic");
        for (conversation, before) in transcripts.iter() {
            let after = now.get(conversation).map(Vec::as_slice).unwrap_or_default();
            if !after.starts_with(before) {
                let at = before.iter().zip(after).position(|(a, b)| a != b);
                let what = format!(
                    "{conversation}: {} entries, and then {}, of which the first other one is {at:?}",
                    before.len(),
                    after.len()
                );
                self.recorder.wrong(Wrong::Rewritten, what);
            }
        }
        transcripts.extend(now);
        *self.owners.lock().expect("no panic") = owners.into_iter().collect();
        Ok(())
    }
}
