//! What a store answers when it did not do what it was asked. Each kind is one that whoever
//! asks reacts to in its own way; the words are for people.

use sqlx::postgres::PgDatabaseError;

use crate::domain::ids::{CliSessionId, SessionId};

/// The store could not do what it was asked: nothing of it took effect, as far as that
/// could be found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another owner has taken the session since whoever asks claimed it: they have lost it,
    /// and do not go on with it.
    #[error("the session belongs to another owner by now: {owner}")]
    Fenced {
        /// The owner's incarnation, or its node's name where services share the store; empty
        /// where there is none any more.
        owner: String,
    },
    /// Another service that lives has the session: it was not claimed. Who asks has lost
    /// nothing, and is served there.
    #[error("the session is on the node {owner}")]
    Elsewhere {
        /// The node's name.
        owner: String,
        /// Where other nodes reach it; empty where they do not.
        address: String,
    },
    /// Somebody else has the conversation. That does not pass by itself.
    #[error("{}", conflict(.conversation, .owner.as_ref()))]
    Conflict {
        /// The conversation.
        conversation: CliSessionId,
        /// The session that it belongs to; `None` if it is only being taken up, or is none's.
        owner: Option<SessionId>,
    },
    /// The store cannot do it now. It is well again by itself once the obstacle is gone.
    #[error("the store is unavailable: {detail}")]
    Unavailable {
        /// What happened, in words.
        detail: String,
        /// What stands in the way.
        obstacle: Obstacle,
    },
    /// What is in the store cannot be read by this version of the service.
    #[error("the store failed: {0}")]
    Corrupt(String),
}

/// What stands in the way of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Somebody else has the database.
    Busy,
    /// The database can only be read, by this connection.
    ReadOnly,
    /// Something else: the disk is full or fails, the service stops.
    Other,
}

/// SQLite's primary result codes.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READ_ONLY: i32 = 8;
const NOT_A_DATABASE: i32 = 26;

impl StoreError {
    /// A store that cannot be used for a reason that it does not know more of.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::Unavailable { detail: detail.into(), obstacle: Obstacle::Other }
    }

    /// A database whose migration `version` is not known here.
    pub(super) fn newer(version: i64) -> Self {
        Self::Corrupt(format!(
            "the database is of a newer version of the service (its migration {version} is \
             not known here): run that version, or restore an older backup"
        ))
    }

    /// Whether it is worth asking again later.
    #[cfg(test)]
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether somebody else has the database.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Unavailable { obstacle: Obstacle::Busy, .. })
    }

    /// Whether the database can only be read, by this connection.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Unavailable { obstacle: Obstacle::ReadOnly, .. })
    }
}

fn conflict(conversation: &CliSessionId, owner: Option<&SessionId>) -> String {
    match owner {
        Some(_) => format!("conversation {conversation} belongs to another session"),
        None => format!("conversation {conversation} is taken up by somebody else"),
    }
}

/// What PostgreSQL says, by its SQLSTATE. What it does not do now it may do later, but for what
/// says that this version of the service and the database do not fit.
fn of_postgres(code: &str, detail: String) -> StoreError {
    let obstacle = match code {
        // A statement that took too long, a lock, a deadlock, an order of transactions.
        "57014" | "55P03" | "40P01" | "40001" => Obstacle::Busy,
        "25006" => Obstacle::ReadOnly,
        // Data that do not fit, constraints, names that are not there.
        code if ["22", "23", "42"].contains(&code.get(..2).unwrap_or_default()) => {
            return match code {
                // Privileges can be given while the service runs.
                "42501" => StoreError::unavailable(detail),
                _ => StoreError::Corrupt(detail),
            };
        }
        _ => Obstacle::Other,
    };
    StoreError::Unavailable { detail, obstacle }
}

/// What SQLite says, by its result code.
fn of_sqlite(code: Option<i32>, detail: String) -> StoreError {
    // An extended code has the primary one in its low byte.
    let obstacle = match code.map(|code| code & 0xff) {
        Some(BUSY | LOCKED) => Obstacle::Busy,
        Some(READ_ONLY) => Obstacle::ReadOnly,
        Some(NOT_A_DATABASE) => return StoreError::Corrupt(detail),
        // SQLite says "malformed" also of a disk that answers a read with EIO, which
        // may pass: it is told like every other failure of the disk.
        _ => Obstacle::Other,
    };
    StoreError::Unavailable { detail, obstacle }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let detail = error.to_string();
        let sqlx::Error::Database(error) = error else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_) => Self::Corrupt(detail),
                _ => Self::unavailable(detail),
            };
        };
        if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
            return of_postgres(error.code(), detail);
        }
        of_sqlite(error.code().and_then(|code| code.parse().ok()), detail)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        of_sqlite(error.sqlite_error().map(|error| error.extended_code), error.to_string())
    }
}
