//! What is written in a transaction, as SQL that both databases take. Knows nothing of
//! connections' lives, and not whose a session is: who writes has found that out before, by
//! what locks the session's row until the transaction ends.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use tracing::warn;

use super::{
    Commit, Line, StoreError,
    columns::bad,
    statements::{Cells, Statements, Value},
    turns,
};
use crate::domain::ids::{CliSessionId, SessionId, SessionKey};

/// Lines in one statement: SQLite takes 32 766 values, PostgreSQL twice as many, and a line is
/// four.
const LINES: usize = 5000;
/// Bytes of lines in one statement, if more than one line has them.
const STATEMENT_BYTES: usize = 1 << 20;
/// Keeps what a turn left, beside the session's record. It has ended `now_ms`.
pub(super) async fn keep_said(
    connection: &mut impl Statements,
    commit: &Commit,
    now_ms: i64,
) -> Result<(), StoreError> {
    let Commit { key, record, turn, lines, .. } = commit;
    if let Some(turn) = turn {
        turns::keep(connection, key, turn, now_ms).await?;
    }
    for same in lines.chunk_by(|a, b| a.conversation == b.conversation) {
        let conversation = same[0].conversation;
        let is_own = conversation == record.cli_session_id;
        if !is_own && take(connection, key, conversation).await?.is_err() {
            warn!(session_id = %key.session, %conversation, "lines_of_another_session_left_out");
            continue;
        }
        for some in parts(same) {
            append(connection, key, conversation, some).await?;
        }
    }
    Ok(())
}

/// Lines that go into one statement each: few enough, and not so many bytes that the way to a
/// server takes longer than a statement may.
pub(super) fn parts(lines: &[Line]) -> Vec<&[Line]> {
    let (mut parts, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, line) in lines.iter().enumerate() {
        if at > from && (at - from == LINES || bytes + line.json.len() > STATEMENT_BYTES) {
            parts.push(&lines[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += line.json.len();
    }
    if from < lines.len() {
        parts.push(&lines[from..]);
    }
    parts
}

/// The session has this conversation from now on, unless only others have it: then it says
/// which.
pub(super) async fn take(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<Result<(), SessionId>, StoreError> {
    let holders = holders(connection, key, conversation).await?;
    take_from(connection, key, conversation, &holders).await
}

/// The sessions that have a conversation.
async fn holders(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<Vec<String>, StoreError> {
    let holders = connection.rows(
        "SELECT session_id FROM conversations WHERE tenant = $1 AND cli_session_id = $2",
        &[key.tenant.as_str().into(), (&conversation.to_string()).into()],
    );
    holders.await?.iter().map(|row| Ok(row.text("session_id")?.to_owned())).collect()
}

/// The same where it is known who has it.
pub(super) async fn take_from(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
    known: &[String],
) -> Result<Result<(), SessionId>, StoreError> {
    if known.iter().any(|holder| holder == key.session.as_str()) {
        return Ok(Ok(()));
    }
    if let Some(holder) = known.first() {
        return Ok(Err(SessionId::parse(holder).map_err(|_| bad("session_id"))?));
    }
    let joined = connection.run(
        "INSERT INTO conversations (tenant, session_id, cli_session_id) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING",
        &[
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            (&conversation.to_string()).into(),
        ],
    );
    if joined.await? > 0 {
        return Ok(Ok(()));
    }
    // In PostgreSQL a conversation has one row: who came first just now has it.
    let holders = holders(connection, key, conversation).await?;
    match holders.iter().find(|holder| *holder != key.session.as_str()) {
        Some(holder) => Ok(Err(SessionId::parse(holder).map_err(|_| bad("session_id"))?)),
        None => Ok(Ok(())),
    }
}

/// Adds lines of one conversation behind those that it has.
pub(super) async fn append(
    connection: &mut impl Statements,
    key: &SessionKey,
    conversation: CliSessionId,
    lines: &[Line],
) -> Result<(), StoreError> {
    let (tenant, conversation) = (key.tenant.as_str(), conversation.to_string());
    let of_it: [Value<'_>; 2] = [tenant.into(), (&conversation).into()];
    let last = connection.row(
        "SELECT COALESCE(MAX(seq), 0) AS last FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2",
        &of_it,
    );
    let last = last.await?.map_or(Ok(0), |row| row.number("last"))?;
    let mut sql =
        "INSERT INTO entries (tenant, cli_session_id, seq, subpath, uuid, line) VALUES ".to_owned();
    let mut values = of_it.to_vec();
    for (seq, line) in (last + 1..).zip(lines) {
        let at = values.len() + 1;
        let comma = if at > 3 { ", " } else { "" };
        // Nothing but the numbers of values.
        write!(sql, "{comma}($1, $2, ${at}, ${}, ${}, ${})", at + 1, at + 2, at + 3).ok();
        values.push(seq.into());
        values.push((&*line.subpath).into());
        values.push(Value::MaybeText(line.uuid.as_deref()));
        values.push((&line.json).into());
    }
    sql.push_str(" ON CONFLICT DO NOTHING");
    connection.run_built(AssertSqlSafe(sql).into_sql_str(), &values).await?;
    Ok(())
}

/// Removes a session; returns the conversations that went with it.
pub(super) async fn forget(
    connection: &mut impl Statements,
    key: &SessionKey,
) -> Result<Option<Vec<String>>, StoreError> {
    let of_it: [Value<'_>; 2] = [key.tenant.as_str().into(), key.session.as_str().into()];
    let removed = "DELETE FROM sessions WHERE tenant = $1 AND session_id = $2";
    let removed = connection.run(removed, &of_it).await?;
    turns::forget(connection, key).await?;
    if removed == 0 {
        return Ok(None);
    }
    let alone = connection.rows(
        "SELECT cli_session_id FROM conversations AS mine WHERE tenant = $1 AND session_id = $2 \
         AND NOT EXISTS (SELECT 1 FROM conversations AS other WHERE other.tenant = mine.tenant \
         AND other.cli_session_id = mine.cli_session_id AND other.session_id <> mine.session_id)",
        &of_it,
    );
    let mut gone = Vec::new();
    for row in alone.await? {
        let conversation = row.text("cli_session_id")?;
        let entries = "DELETE FROM entries WHERE tenant = $1 AND cli_session_id = $2";
        connection.run(entries, &[of_it[0], conversation.into()]).await?;
        gone.push(conversation.to_owned());
    }
    let joined = "DELETE FROM conversations WHERE tenant = $1 AND session_id = $2";
    connection.run(joined, &of_it).await?;
    Ok(Some(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_has_too_much_and_none_is_left_out() {
        let line = |bytes: usize| Line {
            conversation: CliSessionId::fresh(),
            subpath: "".into(),
            uuid: None,
            json: "x".repeat(bytes),
        };
        let sizes = |bytes: &[usize]| -> Vec<usize> {
            let lines: Vec<Line> = bytes.iter().copied().map(line).collect();
            parts(&lines).iter().map(|part| part.len()).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[STATEMENT_BYTES, 1]), [1, 1]);
        assert_eq!(sizes(&[1, STATEMENT_BYTES - 1, 1, 2 * STATEMENT_BYTES, 1]), [2, 1, 1, 1]);
        assert_eq!(sizes(&[0; 2 * LINES + 1]), [LINES, LINES, 1]);
    }
}
