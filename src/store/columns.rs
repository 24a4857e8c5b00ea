//! What the columns of the database mean, and what is wrong with one that means nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{StoreError, statements::Cells};
use crate::domain::ids::{CliSessionId, SessionId, SessionKey, TenantId};

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.try_into().unwrap_or_default())
}

/// Milliseconds of a time that passed.
pub(super) fn elapsed(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Numbers in the database are signed.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn bad(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the database holds a bad {what}"))
}

pub(super) fn conversation(text: &str) -> Result<CliSessionId, StoreError> {
    CliSessionId::parse(text).ok_or_else(|| bad("cli_session_id"))
}

pub(super) fn tenant(row: &impl Cells) -> Result<TenantId, StoreError> {
    TenantId::parse(row.text("tenant")?).map_err(|_| bad("tenant"))
}

pub(super) fn key(row: &impl Cells) -> Result<SessionKey, StoreError> {
    let tenant = tenant(row)?;
    let session = SessionId::parse(row.text("session_id")?).map_err(|_| bad("session_id"))?;
    Ok(SessionKey::new(tenant, session))
}

pub(super) fn json(text: serde_json::Result<String>) -> Result<String, StoreError> {
    text.map_err(|error| StoreError::Corrupt(error.to_string()))
}
