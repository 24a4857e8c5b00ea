//! The connections that read, beside the one that writes. Each serves one read at a time;
//! one that failed, or whose read was given up, is not used again: it might hold on to an
//! old snapshot of the database.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::StoreError;

/// Connections that read. Each has a thread of its own while it is there.
const READERS: u32 = 4;
/// How long reads under way are waited for before connections are renewed, and how long one
/// of them may take to close.
const ENDING: Duration = Duration::from_secs(1);

/// Connections to one database.
#[derive(Debug)]
pub(super) struct Readers {
    options: SqliteConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    /// Opens none before it is needed.
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self {
            options: options.read_only(true),
            permits: Semaphore::new(READERS as usize),
            idle: Mutex::default(),
        }
    }

    /// A connection for one read.
    pub(super) async fn take(&self) -> Result<Reader<'_>, StoreError> {
        let closed = |_| StoreError::unavailable("the store is closed");
        let permit = self.permits.acquire().await.map_err(closed)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
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
        let idle = mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
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
        let mut idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.connection);
    }
}
