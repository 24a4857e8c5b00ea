//! What is read of sessions, as SQL that both databases take.

use super::{
    Record, StoreError,
    columns::{bad, key, signed, tenant},
    recorded::record,
    statements::{Cells, Statements},
};
use crate::domain::ids::{SessionId, SessionKey, TenantId};

/// A session's record, as it is at this time by the database's own clock.
pub(super) async fn load(
    connection: &mut impl Statements,
    key: &SessionKey,
    now_ms: i64,
) -> Result<Option<Record>, StoreError> {
    let row = connection.row(
        "SELECT * FROM sessions WHERE tenant = $1 AND session_id = $2",
        &[key.tenant.as_str().into(), key.session.as_str().into()],
    );
    row.await?.map(|row| record(&row, now_ms)).transpose()
}

/// A page of the sessions of a tenant that are in the pool.
pub(super) async fn list(
    connection: &mut impl Statements,
    tenant: &TenantId,
    after: Option<&SessionId>,
    limit: usize,
    now_ms: i64,
) -> Result<Vec<(SessionId, Record)>, StoreError> {
    let rows = connection.rows(
        "SELECT * FROM sessions WHERE tenant = $1 AND session_id > $2 AND in_pool = 1 \
         ORDER BY session_id LIMIT $3",
        &[
            tenant.as_str().into(),
            after.map_or("", SessionId::as_str).into(),
            signed(limit as u64).into(),
        ],
    );
    let mut page = Vec::new();
    for row in rows.await? {
        let id = SessionId::parse(row.text("session_id")?).map_err(|_| bad("session_id"))?;
        page.push((id, record(&row, now_ms)?));
    }
    Ok(page)
}

/// Sessions that were last used before then.
pub(super) async fn unused(
    connection: &mut impl Statements,
    before_ms: i64,
    limit: usize,
) -> Result<Vec<SessionKey>, StoreError> {
    let rows = connection.rows(
        "SELECT tenant, session_id FROM sessions WHERE used_observed_ms < $1 \
         ORDER BY used_observed_ms LIMIT $2",
        &[before_ms.into(), signed(limit as u64).into()],
    );
    rows.await?.iter().map(key).collect()
}

/// How many sessions of each tenant are in the pool, as they are counted beside them.
pub(super) async fn in_pool(
    connection: &mut impl Statements,
) -> Result<Vec<(TenantId, usize)>, StoreError> {
    let rows = connection.rows(
        "SELECT tenant, CAST(SUM(sessions) AS BIGINT) AS sessions FROM pool_sizes \
         GROUP BY tenant HAVING SUM(sessions) > 0",
        &[],
    );
    let mut sizes = Vec::new();
    for row in rows.await? {
        let size = usize::try_from(row.number("sessions")?).map_err(|_| bad("sessions"))?;
        sizes.push((tenant(&row)?, size));
    }
    Ok(sizes)
}
