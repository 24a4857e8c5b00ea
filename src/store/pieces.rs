//! Conversations are read piece by piece: none is held whole, however long it is.

use std::sync::Arc;

use super::{
    Line, StoreError,
    columns::{conversation, tenant},
    import,
    statements::{Cells, Statements},
};
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
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: CliSessionId,
    from: Option<Place>,
) -> Result<Option<Piece>, StoreError> {
    let conversation = id.to_string();
    let of_it = [tenant.as_str().into(), (&conversation).into()];
    let place = match from {
        Some(place) => place,
        None => match import::first(connection, tenant, id).await? {
            None => return Ok(Some(Piece::default())),
            Some(import::MARK) => return Ok(None),
            Some(first) => {
                let last = "SELECT MAX(seq) AS last FROM entries \
                            WHERE tenant = $1 AND cli_session_id = $2";
                let last = connection.row(last, &of_it).await?;
                let last = last.map(|row| row.maybe_number("last")).transpose()?.flatten();
                Place { after: first - 1, until: last.unwrap_or(first) }
            }
        },
    };
    let end = import::end_of_piece(connection, tenant, id, place.after).await?;
    let end = end.unwrap_or(place.until).min(place.until);
    let rows = connection.rows(
        "SELECT subpath, uuid, line FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq",
        &[of_it[0], of_it[1], place.after.into(), end.into()],
    );
    let mut lines = Vec::new();
    for row in rows.await? {
        lines.push(Line {
            conversation: id,
            subpath: Arc::from(row.text("subpath")?),
            uuid: row.maybe_text("uuid")?.map(str::to_owned),
            json: row.text("line")?.to_owned(),
        });
    }
    let next = (end < place.until).then_some(Place { after: end, ..place });
    Ok(Some(Piece { lines, next }))
}

/// A conversation behind `after`, and whether it is being taken up, or was when a service
/// ended. Looks at its first entry.
pub(super) async fn next(
    connection: &mut impl Statements,
    after: &(String, String),
) -> Result<Option<(TenantId, CliSessionId, bool)>, StoreError> {
    let next = connection.row(
        "SELECT tenant, cli_session_id, seq FROM entries \
         WHERE (tenant, cli_session_id) > ($1, $2) \
         ORDER BY tenant, cli_session_id, seq LIMIT 1",
        &[(&after.0).into(), (&after.1).into()],
    );
    let Some(next) = next.await? else { return Ok(None) };
    let is_unfinished = next.number("seq")? == import::MARK;
    Ok(Some((tenant(&next)?, conversation(next.text("cli_session_id")?)?, is_unfinished)))
}
