//! What a store answers when it did not do what it was asked.

/// The store could not do what it was asked: nothing of it took effect, as far as that
/// could be found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It does not do that, now or later.
    #[error("the store refused: {0}")]
    Refused(String),
    /// It cannot now: somebody else has it, the disk is full or fails. It is well again
    /// by itself once that is over.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Somebody else has it. Likewise.
    #[error("the store is unavailable: {0}")]
    Busy(String),
    /// It can only be read. Likewise.
    #[error("the store is unavailable: {0}")]
    ReadOnly(String),
    /// What is in it cannot be read.
    #[error("the store failed: {0}")]
    Broken(String),
}

/// SQLite's primary result codes.
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const READ_ONLY: i64 = 8;
const NOT_A_DATABASE: i64 = 26;

impl StoreError {
    /// Whether somebody else has the database.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_))
    }

    /// Whether the database can only be read, by this connection.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly(_))
    }

    /// Whether it is worth asking again later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy(_) | Self::ReadOnly(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        let sqlx::Error::Database(error) = error else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_) => Self::Broken(text),
                _ => Self::Unavailable(text),
            };
        };
        // An extended code has the primary one in its low byte.
        match error.code().and_then(|code| code.parse::<i64>().ok()).map(|code| code & 0xff) {
            Some(BUSY | LOCKED) => Self::Busy(text),
            Some(READ_ONLY) => Self::ReadOnly(text),
            Some(NOT_A_DATABASE) => Self::Broken(text),
            // SQLite says "malformed" also of a disk that answers a read with EIO, which may
            // pass: it is told like every other failure of the disk.
            _ => Self::Unavailable(text),
        }
    }
}
