//! The connection that writes: the only place where it is opened, begins and ends its
//! transactions, and is thrown away.
//!
//! - A transaction takes the connection out of its place, and only a commit that succeeded
//!   puts it back. Whatever goes wrong in between leaves nothing behind that a later one
//!   could mistake for its own: SQLite rolls some failures back by itself and some not,
//!   and whoever counts along is wrong about one of them.
//! - Every transaction counts itself in the database. When a commit fails, its number is
//!   read back over a new connection: it took effect or it did not.
//! - The file is the one that was opened first. What is written to a file that was removed
//!   or replaced meanwhile would be gone with the next start.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::{
    StoreError,
    columns::bad,
    sqlite::SqliteWriter,
    statements::{Cells as _, Value},
};

/// The wait before a lock is asked for again that was refused at once.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a connection that is thrown away may take to close.
const CLOSING: Duration = Duration::from_secs(1);

/// A database file and the connection that writes to it.
#[derive(Debug)]
pub(super) struct Database {
    file: PathBuf,
    identity: (u64, u64),
    connection: Option<SqliteWriter>,
}

impl Database {
    /// Writes to this file, which is there.
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let identity = identity(file)?;
        Ok(Self { file: file.to_owned(), identity, connection: None })
    }

    /// Begins a transaction that may write. While somebody else has the database it is
    /// tried again for as long as `goes_on` says.
    pub(super) async fn begin(
        &mut self,
        observed_ms: i64,
        mut goes_on: impl FnMut(&StoreError) -> bool,
    ) -> Result<Transaction<'_>, StoreError> {
        let (connection, number) = loop {
            match self.try_begin(observed_ms).await {
                Ok(begun) => break begun,
                Err(error) if error.is_busy() && goes_on(&error) => sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        };
        Ok(Transaction { database: self, connection, number })
    }

    async fn try_begin(&mut self, observed_ms: i64) -> Result<(SqliteWriter, i64), StoreError> {
        self.check_file()?;
        let mut connection = self.take()?;
        match start(&mut connection, observed_ms) {
            Ok(number) => Ok((connection, number)),
            Err(error) => {
                discard(connection).await;
                Err(error)
            }
        }
    }

    fn take(&mut self) -> rusqlite::Result<SqliteWriter> {
        self.connection.take().map_or_else(|| SqliteWriter::open(&self.file), Ok)
    }

    fn check_file(&self) -> Result<(), StoreError> {
        match identity(&self.file) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => Err(StoreError::unavailable(
                "the database file was replaced while it was in use: restart the service",
            )),
            Err(error) => Err(StoreError::unavailable(format!("the database file: {error}"))),
        }
    }

    /// Moves the write-ahead log into the database and cuts it. Returns whether nothing is
    /// left in it: somebody who reads keeps what they see.
    pub(super) async fn empty_log(&mut self) -> Result<bool, StoreError> {
        let mut connection = self.take()?;
        match number(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)", &[], "busy") {
            Ok(busy) => {
                self.connection = Some(connection);
                Ok(busy == 0)
            }
            Err(error) => {
                discard(connection).await;
                Err(error)
            }
        }
    }

    /// Bytes of the database and of its write-ahead log.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let size = |file: &Path| fs::metadata(file).map_or(0, |found| found.len());
        (size(&self.file), size(&self.log()))
    }

    fn log(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// Ends in order.
    pub(super) fn close(self) {
        drop(self.connection);
    }

    async fn was_committed(&self, transaction: i64) -> Result<bool, StoreError> {
        let mut connection = SqliteWriter::open(&self.file)?;
        let last = "SELECT transactions FROM store_state";
        let last = number(&mut connection, last, &[], "transactions")?;
        discard(connection).await;
        Ok(last >= transaction)
    }
}

/// Device and number of a file.
fn identity(file: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(file).map(|found| (found.dev(), found.ino()))
}

/// Begins a transaction; returns its number.
fn start(connection: &mut SqliteWriter, observed_ms: i64) -> Result<i64, StoreError> {
    connection.batch("BEGIN IMMEDIATE")?;
    let counted = "UPDATE store_state SET transactions = transactions + 1, \
                   observed_ms = MAX(observed_ms, $1) RETURNING transactions";
    number(connection, counted, &[observed_ms.into()], "transactions")
}

/// The number in the only row of a statement.
fn number(
    connection: &mut SqliteWriter,
    sql: &str,
    values: &[Value<'_>],
    column: &str,
) -> Result<i64, StoreError> {
    let rows = connection.read(sql, values)?;
    rows.first().ok_or_else(|| bad(column))?.number(column)
}

/// Throws a connection away; what it has not committed is rolled back.
async fn discard(connection: SqliteWriter) {
    let (closed, is_closed) = oneshot::channel::<()>();
    // One that hangs on its disk is left to a thread of its own.
    let close = move || {
        drop(connection);
        drop(closed);
    };
    // Without a thread it is closed here.
    drop(thread::Builder::new().spawn(close));
    drop(timeout(CLOSING, is_closed).await);
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    database: &'a mut Database,
    connection: SqliteWriter,
    number: i64,
}

impl Transaction<'_> {
    /// What it writes by.
    pub(super) fn connection(&mut self) -> &mut SqliteWriter {
        &mut self.connection
    }

    /// Makes it durable. Fails only if it did not take effect, as far as that can be read.
    pub(super) async fn commit(mut self, until: Instant) -> Result<(), StoreError> {
        loop {
            let error = match self.connection.batch("COMMIT") {
                Ok(()) => return self.settle(),
                Err(error) => StoreError::from(error),
            };
            if error.is_busy() && Instant::now() < until {
                sleep(AGAIN).await;
                continue;
            }
            discard(self.connection).await;
            return match self.database.was_committed(self.number).await {
                Ok(true) => {
                    warn!(%error, "store_commit_took_effect_after_an_error");
                    Ok(())
                }
                Ok(false) | Err(_) => Err(error),
            };
        }
    }

    /// It is committed, if the files that it is in are there.
    fn settle(self) -> Result<(), StoreError> {
        self.database.check_file()?;
        let log = self.database.log();
        if let Err(error) = fs::metadata(&log) {
            return Err(StoreError::unavailable(format!("the write-ahead log: {error}")));
        }
        self.database.connection = Some(self.connection);
        Ok(())
    }

    /// Takes back what it wrote.
    pub(super) async fn abandon(self) {
        discard(self.connection).await;
    }
}
