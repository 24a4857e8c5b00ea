//! How connections to SQLite's file are opened, those that read and the one that writes.

use std::{path::Path, time::Duration};

use sqlx::sqlite::SqliteConnectOptions;

/// How long SQLite itself waits for a lock before it is asked again.
pub(super) const BUSY: Duration = Duration::from_millis(500);
/// Bytes that the write-ahead log is cut to once nobody needs more of it.
pub(super) const LOG_BYTES: u64 = 64 << 20;

/// What is set for every connection to a database file.
pub(super) fn pragmas() -> [(&'static str, String); 5] {
    [
        ("journal_mode", "WAL".into()),
        ("synchronous", "FULL".into()),
        ("foreign_keys", "OFF".into()),
        // What is forgotten is overwritten, not only taken out of the index.
        ("secure_delete", "ON".into()),
        ("journal_size_limit", LOG_BYTES.to_string()),
    ]
}

/// How connections are opened that read, and the one that brings a database up to date.
pub(super) fn options(file: &Path) -> SqliteConnectOptions {
    let options =
        SqliteConnectOptions::new().filename(file).create_if_missing(false).busy_timeout(BUSY);
    pragmas().into_iter().fold(options, |options, (name, value)| options.pragma(name, value))
}
