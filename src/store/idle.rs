//! Sessions that nobody has used for a while, found by an index: a page costs the same however
//! many there are.

use super::{
    Idle, StoreError,
    columns::{key, signed},
    statements::{Cells, Statements},
};

/// The sessions that are in the pool and were last used before then, the least recently used
/// first.
pub(super) async fn list<C: Statements>(
    connection: &mut C,
    before_ms: i64,
    after: Option<&Idle>,
    limit: usize,
) -> Result<Vec<Idle>, StoreError> {
    let (used_ms, tenant, session) = match after {
        Some(Idle { key, used_ms }) => (*used_ms, key.tenant.as_str(), key.session.as_str()),
        None => (i64::MIN, "", ""),
    };
    let rows = connection.rows(
        "SELECT tenant, session_id, used_observed_ms FROM sessions \
         WHERE in_pool = 1 AND used_observed_ms < $1 \
         AND (used_observed_ms, tenant, session_id) > ($2, $3, $4) \
         ORDER BY used_observed_ms, tenant, session_id LIMIT $5",
        &[
            before_ms.into(),
            used_ms.into(),
            tenant.into(),
            session.into(),
            signed(limit as u64).into(),
        ],
    );
    let idle = |row: &C::Row| -> Result<Idle, StoreError> {
        Ok(Idle { key: key(row)?, used_ms: row.number("used_observed_ms")? })
    };
    rows.await?.iter().map(idle).collect()
}
