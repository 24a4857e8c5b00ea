//! Sessions that nobody has used for a while, found by an index: a page costs the same however
//! many there are.

use sqlx::{Row as _, sqlite::SqliteRow};

use super::{
    Idle, StoreError,
    columns::{key, signed},
    readers::Readers,
};

/// The sessions that are in the pool and were last used before then, the least recently used
/// first.
pub(super) async fn list(
    readers: &Readers,
    before_ms: i64,
    after: Option<&Idle>,
    limit: usize,
) -> Result<Vec<Idle>, StoreError> {
    let (used_ms, tenant, session) = match after {
        Some(Idle { key, used_ms }) => (*used_ms, key.tenant.as_str(), key.session.as_str()),
        None => (i64::MIN, "", ""),
    };
    let mut reader = readers.take().await?;
    let rows = sqlx::query(
        "SELECT tenant, session_id, used_observed_ms FROM sessions \
         WHERE in_pool = 1 AND used_observed_ms < $1 \
         AND (used_observed_ms, tenant, session_id) > ($2, $3, $4) \
         ORDER BY used_observed_ms, tenant, session_id LIMIT $5",
    )
    .bind(before_ms)
    .bind(used_ms)
    .bind(tenant)
    .bind(session)
    .bind(signed(limit as u64))
    .fetch_all(reader.connection())
    .await?;
    reader.give_back();
    let idle = |row: &SqliteRow| -> Result<Idle, StoreError> {
        Ok(Idle { key: key(row)?, used_ms: row.try_get("used_observed_ms")? })
    };
    rows.iter().map(idle).collect()
}
