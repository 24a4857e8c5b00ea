//! The connections that read, beside the one that writes. Each serves one read at a time;
//! one that failed, or whose read was given up, is not used again: it might hold on to an
//! old snapshot of the database. After a burst all but one are closed.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout},
};

use super::StoreError;

/// Connections that read. Each has a thread of its own while it is there.
const READERS: u32 = 4;
/// How long a connection that nobody needs is kept for the next burst of reads.
const UNUSED: Duration = Duration::from_secs(1);
/// How long reads under way are waited for before connections are renewed, and how long one
/// of them may take to close.
const ENDING: Duration = Duration::from_secs(1);

/// Connections to one database.
#[derive(Debug)]
pub(super) struct Readers {
    options: SqliteConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<Unused>>,
    /// One was given back.
    given_back: Notify,
}

/// A connection by which nobody reads, and since when.
#[derive(Debug)]
struct Unused {
    since: Instant,
    connection: SqliteConnection,
}

impl Readers {
    /// Opens none before it is needed.
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self {
            options: options.read_only(true),
            permits: Semaphore::new(READERS as usize),
            idle: Mutex::default(),
            given_back: Notify::new(),
        }
    }

    /// Closes connections that nobody has needed for a while, all but the last one. Never
    /// ends.
    pub(super) async fn close_unused(&self) {
        loop {
            self.given_back.notified().await;
            while self.idle().len() > 1 {
                sleep(UNUSED).await;
                while let Some(connection) = self.take_unused() {
                    drop(timeout(ENDING, connection.close()).await);
                }
            }
        }
    }

    /// The one that was not needed for the longest time, if that is long enough.
    fn take_unused(&self) -> Option<SqliteConnection> {
        let mut idle = self.idle();
        let is_unused = idle.len() > 1 && idle.first()?.since.elapsed() >= UNUSED;
        is_unused.then(|| idle.remove(0).connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Unused>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one read.
    pub(super) async fn take(&self) -> Result<Reader<'_>, StoreError> {
        let closed = |_| StoreError::unavailable("the store is closed");
        let permit = self.permits.acquire().await.map_err(closed)?;
        // The one that was used last: the others may be closed.
        let idle = self.idle().pop();
        let connection = match idle {
            Some(Unused { connection, .. }) => connection,
            None => self.options.connect().await?,
        };
        Ok(Reader { readers: self, connection, _permit: permit })
    }

    /// Closes every connection once nobody reads by it; the next reads open others. SQLite
    /// shares the index of the write-ahead log among all connections of a process: opened
    /// while the disk was read-only, it stays read-only, also for who writes, for as long as
    /// one of them is there.
    pub(super) async fn renew(&self) {
        let all = timeout(ENDING, self.permits.acquire_many(READERS)).await;
        if !matches!(all, Ok(Ok(_))) {
            return;
        }
        let idle = mem::take(&mut *self.idle());
        for Unused { connection, .. } in idle {
            drop(timeout(ENDING, connection.close()).await);
        }
    }
}

/// A connection for one read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    readers: &'a Readers,
    connection: SqliteConnection,
    _permit: SemaphorePermit<'a>,
}

impl Reader<'_> {
    /// What is read by.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// The read succeeded: the next may use the connection.
    pub(super) fn give_back(self) {
        let since = Instant::now();
        self.readers.idle().push(Unused { since, connection: self.connection });
        self.readers.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::opening, tasks::spawn_owned};

    #[tokio::test]
    async fn after_a_burst_of_reads_one_connection_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = opening::options(&folder.path().join("db"));
        let made = options.clone().create_if_missing(true).connect().await.expect("made");
        made.close().await.expect("closed");
        let readers = std::sync::Arc::new(Readers::new(options));
        let closing = std::sync::Arc::clone(&readers);
        let closing = spawn_owned(async move { closing.close_unused().await });
        let mut burst = Vec::new();
        for _ in 0..READERS {
            burst.push(readers.take().await.expect("opened"));
        }
        burst.into_iter().for_each(Reader::give_back);
        assert_eq!(readers.idle().len(), READERS as usize);
        while readers.idle().len() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
        // Nobody who reads now and then opens another.
        readers.take().await.expect("there").give_back();
        assert_eq!(readers.idle().len(), 1);
        closing.abort();
    }
}
