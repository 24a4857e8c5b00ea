//! Conversations are read piece by piece: none is held whole, however long it is.

use std::sync::Arc;

use sqlx::{Row as _, sqlite::SqliteRow};

use super::{Line, StoreError, columns::bad, import, readers::Readers};
use crate::domain::ids::{CliSessionId, TenantId};

/// Where in a conversation the next piece begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Behind this line.
    pub(super) after: i64,
    /// The last line that was there when the first piece was read: what came later is of
    /// another turn.
    pub(super) until: i64,
}

/// Some lines of a conversation: up to a mebibyte, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// The lines, in the order in which they came.
    pub lines: Vec<Line>,
    /// Where the next piece begins; `None` where there is none.
    pub next: Option<Place>,
}

/// Reads a piece; `None` if the conversation is one that is being taken up.
pub(super) async fn read(
    readers: &Readers,
    tenant: &TenantId,
    id: CliSessionId,
    from: Option<Place>,
) -> Result<Option<Piece>, StoreError> {
    let mut reader = readers.take().await?;
    let connection = reader.connection();
    let place = match from {
        Some(place) => place,
        None => match import::first(connection, tenant, id).await? {
            None => {
                reader.give_back();
                return Ok(Some(Piece::default()));
            }
            Some(import::MARK) => {
                reader.give_back();
                return Ok(None);
            }
            Some(first) => {
                let last = sqlx::query_scalar(
                    "SELECT MAX(seq) FROM entries WHERE tenant = $1 AND cli_session_id = $2",
                );
                let last = last.bind(tenant.as_str()).bind(id.to_string());
                Place { after: first - 1, until: last.fetch_one(&mut *connection).await? }
            }
        },
    };
    let end = import::end_of_piece(connection, tenant, id, place.after).await?;
    let end = end.unwrap_or(place.until).min(place.until);
    let rows = sqlx::query(
        "SELECT subpath, uuid, line FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq",
    )
    .bind(tenant.as_str())
    .bind(id.to_string())
    .bind(place.after)
    .bind(end)
    .fetch_all(connection)
    .await?;
    reader.give_back();
    let line = |row: SqliteRow| -> Result<Line, StoreError> {
        Ok(Line {
            conversation: id,
            subpath: Arc::from(row.try_get::<&str, _>("subpath")?),
            uuid: row.try_get("uuid")?,
            json: row.try_get("line")?,
        })
    };
    let lines = rows.into_iter().map(line).collect::<Result<_, _>>()?;
    let next = (end < place.until).then_some(Place { after: end, ..place });
    Ok(Some(Piece { lines, next }))
}

/// The first conversation behind `after` that is being taken up, or was when the service
/// ended. Looks at the first entry of each.
pub(super) async fn next_unfinished(
    readers: &Readers,
    mut after: (String, String),
) -> Result<Option<(TenantId, CliSessionId)>, StoreError> {
    loop {
        let mut reader = readers.take().await?;
        let next = sqlx::query(
            "SELECT tenant, cli_session_id, seq FROM entries \
             WHERE (tenant, cli_session_id) > ($1, $2) \
             ORDER BY tenant, cli_session_id, seq LIMIT 1",
        )
        .bind(&after.0)
        .bind(&after.1)
        .fetch_optional(reader.connection())
        .await?;
        reader.give_back();
        let Some(next) = next else { return Ok(None) };
        after = (next.try_get("tenant")?, next.try_get("cli_session_id")?);
        if next.try_get::<i64, _>("seq")? == import::MARK {
            let tenant = TenantId::parse(&after.0).map_err(|_| bad("tenant"))?;
            let id = CliSessionId::parse(&after.1).ok_or_else(|| bad("cli_session_id"))?;
            return Ok(Some((tenant, id)));
        }
    }
}
