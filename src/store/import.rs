//! Transcripts that a session takes up from a file: kept piece by piece, so that none is
//! held whole and others write in between, and seen by nobody before the session's next
//! commit has made the conversation its own.
//!
//! A conversation that is being taken up has a mark: an entry before its first. While the
//! mark is there nothing of it is read. The commit that makes it the session's removes the
//! mark in the same transaction, and only if all pieces had come. A mark that nobody works
//! on is of a start that failed, or of an earlier life of the service: what is behind it is
//! discarded, also piece by piece, since the file still counts.

use std::collections::HashMap;

use super::{
    Line, StoreError,
    columns::bad,
    orders,
    statements::{Cells, Statements},
};
use crate::domain::ids::{CliSessionId, SessionId, SessionKey, TenantId};

/// Bytes of lines that are read or removed at a time, if more than one has them.
pub(super) const PIECE_BYTES: i64 = 1 << 20;
/// Lines of a piece.
const PIECE_LINES: i64 = 2000;
/// The number of the entry that is the mark; lines have theirs from 1 on.
pub(super) const MARK: i64 = 0;

/// What is taken up of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Who takes it up.
    pub key: SessionKey,
    /// The conversation.
    pub conversation: CliSessionId,
    /// Its next part.
    pub part: Part,
}

/// A part of a transcript that is taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It begins.
    Begin,
    /// Some of its lines, behind those before.
    Lines(Vec<Line>),
    /// That was all.
    End,
}

impl Part {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.iter().map(|line| line.json.len()).sum(),
            Self::Begin | Self::End => 0,
        }
    }
}

/// A transcript that is being taken up.
#[derive(Debug)]
struct Taking {
    by: SessionKey,
    all_came: bool,
}

/// The transcripts that are being taken up in this life of the service.
#[derive(Debug, Default)]
pub(super) struct Imports(HashMap<(TenantId, CliSessionId), Taking>);

impl Imports {
    fn place(tenant: &TenantId, id: CliSessionId) -> (TenantId, CliSessionId) {
        (tenant.clone(), id)
    }

    /// Whether somebody is at it.
    pub(super) fn has(&self, tenant: &TenantId, id: CliSessionId) -> bool {
        self.0.contains_key(&Self::place(tenant, id))
    }

    /// Whether a commit of the session makes it a conversation like others.
    pub(super) fn settles(&self, key: &SessionKey, id: CliSessionId) -> bool {
        let taking = self.0.get(&Self::place(&key.tenant, id));
        taking.is_some_and(|taking| taking.all_came && taking.by == *key)
    }

    /// It is nobody's any more.
    pub(super) fn remove(&mut self, tenant: &TenantId, id: CliSessionId) {
        self.0.remove(&Self::place(tenant, id));
    }

    /// A part of it was committed.
    pub(super) fn note(&mut self, import: &Import) {
        let place = Self::place(&import.key.tenant, import.conversation);
        match import.part {
            Part::Begin => {
                self.0.insert(place, Taking { by: import.key.clone(), all_came: false });
            }
            Part::Lines(_) => {}
            Part::End => {
                if let Some(taking) = self.0.get_mut(&place) {
                    taking.all_came = true;
                }
            }
        }
    }

    /// Those that a session is at.
    pub(super) fn of(&self, key: &SessionKey) -> Vec<CliSessionId> {
        let of_it = self.0.iter().filter(|(_, taking)| taking.by == *key);
        of_it.map(|((_, id), _)| *id).collect()
    }

    /// A session is at none any more.
    pub(super) fn remove_of(&mut self, key: &SessionKey) {
        self.0.retain(|_, taking| taking.by != *key);
    }
}

/// Keeps a part. The inner error is the order's own fault. The mark says who takes it up.
pub(super) async fn keep(
    connection: &mut impl Statements,
    import: &Import,
    writer: &str,
    is_at_it: bool,
) -> Result<Result<(), StoreError>, StoreError> {
    let Import { key, conversation, part } = import;
    match part {
        Part::Begin => begin(connection, key, *conversation, writer).await,
        Part::Lines(lines) => {
            if !is_at_it || !hold(connection, &key.tenant, *conversation, writer).await? {
                // Whoever was at it has given it up meanwhile.
                let conversation = *conversation;
                return Ok(Err(StoreError::Conflict { conversation, owner: None }));
            }
            for some in orders::parts(lines) {
                orders::append(connection, key, *conversation, some).await?;
            }
            Ok(Ok(()))
        }
        Part::End => Ok(Ok(())),
    }
}

async fn begin(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
    writer: &str,
) -> Result<Result<(), StoreError>, StoreError> {
    if let Some(owner) = other_owner(connection, key, conversation).await? {
        return Ok(Err(StoreError::Conflict { conversation, owner: Some(owner) }));
    }
    let taken_up = Ok(Err(StoreError::Conflict { conversation, owner: None }));
    if first(connection, &key.tenant, conversation).await?.is_some() {
        return taken_up;
    }
    let begun = connection.run(
        "INSERT INTO entries (tenant, cli_session_id, seq, subpath, line) \
         VALUES ($1, $2, $3, '', $4) ON CONFLICT DO NOTHING",
        &[
            key.tenant.as_str().into(),
            (&conversation.to_string()).into(),
            MARK.into(),
            writer.into(),
        ],
    );
    // Somebody else may have begun just now.
    if begun.await? == 0 { taken_up } else { Ok(Ok(())) }
}

/// Another session of the tenant that has a conversation, if there is one.
pub(super) async fn other_owner(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<Option<SessionId>, StoreError> {
    let owner = connection.row(
        "SELECT session_id FROM conversations WHERE tenant = $1 AND cli_session_id = $2 \
         AND session_id <> $3 LIMIT 1",
        &[
            key.tenant.as_str().into(),
            (&conversation.to_string()).into(),
            key.session.as_str().into(),
        ],
    );
    let Some(owner) = owner.await? else { return Ok(None) };
    Ok(Some(SessionId::parse(owner.text("session_id")?).map_err(|_| bad("session_id"))?))
}

/// Keeps the mark in its place until the transaction ends. Returns whether it is there, and the
/// writer's.
async fn hold(
    connection: &mut impl Statements,
    tenant: &TenantId,
    conversation: CliSessionId,
    writer: &str,
) -> Result<bool, StoreError> {
    let held = connection.run(
        "UPDATE entries SET line = line \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq = $3 AND line = $4",
        &[tenant.as_str().into(), (&conversation.to_string()).into(), MARK.into(), writer.into()],
    );
    Ok(held.await? > 0)
}

/// The number of the first entry of a conversation: of its mark, if it has one.
pub(super) async fn first(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: CliSessionId,
) -> Result<Option<i64>, StoreError> {
    let first = connection.row(
        "SELECT MIN(seq) AS first FROM entries WHERE tenant = $1 AND cli_session_id = $2",
        &[tenant.as_str().into(), (&id.to_string()).into()],
    );
    Ok(first.await?.map(|row| row.maybe_number("first")).transpose()?.flatten())
}

/// Removes the mark: what was taken up is a conversation like others from here on. Returns
/// whether it was there, and the writer's.
pub(super) async fn settle(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
    writer: &str,
) -> Result<bool, StoreError> {
    let removed = connection.run(
        "DELETE FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq = $3 AND line = $4",
        &[
            key.tenant.as_str().into(),
            (&conversation.to_string()).into(),
            MARK.into(),
            writer.into(),
        ],
    );
    Ok(removed.await? > 0)
}

/// The number of the last line of a piece that begins behind `after`; `None` behind the last.
pub(super) async fn end_of_piece(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: CliSessionId,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let lines = connection.rows(
        "SELECT seq, CAST(OCTET_LENGTH(line) AS BIGINT) AS bytes FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq > $3 ORDER BY seq LIMIT $4",
        &[tenant.as_str().into(), (&id.to_string()).into(), after.into(), PIECE_LINES.into()],
    );
    let (mut end, mut sum) = (None, 0_i64);
    for line in lines.await? {
        sum = sum.saturating_add(line.number("bytes")?);
        if end.is_some() && sum > PIECE_BYTES {
            break;
        }
        end = Some(line.number("seq")?);
    }
    Ok(end)
}

/// Removes all of it at once.
pub(super) async fn remove(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: CliSessionId,
) -> Result<(), StoreError> {
    let removed = connection.run(
        "DELETE FROM entries WHERE tenant = $1 AND cli_session_id = $2",
        &[tenant.as_str().into(), (&id.to_string()).into()],
    );
    removed.await?;
    Ok(())
}

/// Removes a piece of what has a mark, the mark last. Returns whether there is more.
pub(super) async fn discard(
    connection: &mut impl Statements,
    tenant: &TenantId,
    id: CliSessionId,
) -> Result<bool, StoreError> {
    if first(connection, tenant, id).await? != Some(MARK) {
        return Ok(false);
    }
    let end = end_of_piece(connection, tenant, id, MARK).await?;
    let from = if end.is_some() { MARK + 1 } else { MARK };
    let removed = connection.run(
        "DELETE FROM entries WHERE tenant = $1 AND cli_session_id = $2 AND seq BETWEEN $3 AND $4",
        &[
            tenant.as_str().into(),
            (&id.to_string()).into(),
            from.into(),
            end.unwrap_or(MARK).into(),
        ],
    );
    removed.await?;
    Ok(end.is_some())
}
