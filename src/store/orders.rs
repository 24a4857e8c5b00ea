//! What the writer does in a transaction, as SQL. Knows nothing of connections' lives.

use std::time::Duration;

use sqlx::{QueryBuilder, SqliteConnection};
use tracing::warn;

use super::{
    Commit, Epoch, Line, Record, StoreError,
    columns::{bad, millis, signed},
    owner::{self, Standing},
    turns,
};
use crate::domain::ids::{CliSessionId, SessionId, SessionKey};

/// Lines in one statement: SQLite takes 32 766 values, and a line is six.
pub(super) const LINES: usize = 5000;
/// Bytes that a store that failed writes to try whether it is well again: more than a page
/// that happened to be free.
const BALLAST: usize = 64 << 10;

/// Writes something of a size that matters.
pub(super) async fn probe(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE store_state SET ballast = $1")
        .bind(" ".repeat(BALLAST))
        .execute(connection)
        .await?;
    Ok(())
}

/// Milliseconds.
pub(super) fn elapsed(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Keeps what a turn left. One that claims a conversation of others is refused before
/// anything of it is written.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    commit: &Commit,
    writer: &str,
    observed_ms: i64,
) -> Result<Result<(), StoreError>, StoreError> {
    let Commit { key, epoch, releases, record, turn, lines, totals: _ } = commit;
    let conversation = record.cli_session_id;
    let standing = Standing::read(connection, key, conversation).await?;
    if let Err(fenced) = standing.check(writer, *epoch) {
        return Ok(Err(fenced));
    }
    if let Err(owner) = take_from(connection, key, conversation, &standing.holders).await? {
        return Ok(Err(StoreError::Conflict { conversation, owner: Some(owner) }));
    }
    keep_record(connection, key, record, writer, observed_ms).await?;
    if let Some(turn) = turn {
        turns::keep(connection, key, turn).await?;
    }
    for same in lines.chunk_by(|a, b| a.conversation == b.conversation) {
        let conversation = same[0].conversation;
        let is_own = conversation == record.cli_session_id;
        if !is_own && take(connection, key, conversation).await?.is_err() {
            warn!(session_id = %key.session, %conversation, "lines_of_another_session_left_out");
            continue;
        }
        for some in same.chunks(LINES) {
            append(connection, key, conversation, some).await?;
        }
    }
    if *releases {
        owner::release(connection, writer, key, *epoch).await?;
    }
    Ok(Ok(()))
}

async fn keep_record(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    record: &Record,
    writer: &str,
    observed_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sessions (tenant, session_id, cli_session_id, options, created_ms, last_used_ms, \
         message_count, error_count, spent, reported_cost_usd, in_pool, created_observed_ms, \
         used_observed_ms, acquired, owner, epoch) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
         ON CONFLICT (tenant, session_id) DO UPDATE SET cli_session_id = excluded.cli_session_id, \
         options = excluded.options, created_ms = excluded.created_ms, \
         last_used_ms = excluded.last_used_ms, message_count = excluded.message_count, \
         error_count = excluded.error_count, spent = excluded.spent, \
         reported_cost_usd = excluded.reported_cost_usd, in_pool = excluded.in_pool, \
         created_observed_ms = excluded.created_observed_ms, \
         used_observed_ms = excluded.used_observed_ms, acquired = excluded.acquired",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(record.cli_session_id.to_string())
    .bind(json(serde_json::to_string(&record.options))?)
    .bind(millis(record.create_time))
    .bind(millis(record.last_used_time))
    .bind(signed(record.message_count))
    .bind(signed(record.error_count))
    .bind(json(serde_json::to_string(&record.spent))?)
    .bind(record.reported_cost_usd)
    .bind(i64::from(record.in_pool))
    .bind(observed_ms.saturating_sub(elapsed(record.age)))
    .bind(observed_ms.saturating_sub(elapsed(record.unused_for)))
    .bind(json(serde_json::to_string(&record.acquired))?)
    .bind(writer)
    .bind(Epoch::NONE.kept().0)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// The session has this conversation from now on.
async fn join(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO conversations (tenant, session_id, cli_session_id) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(conversation.to_string())
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// The same unless only others have it: then it says which.
async fn take(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<Result<(), SessionId>, StoreError> {
    let owners: Vec<String> = sqlx::query_scalar(
        "SELECT session_id FROM conversations WHERE tenant = $1 AND cli_session_id = $2",
    )
    .bind(key.tenant.as_str())
    .bind(conversation.to_string())
    .fetch_all(&mut *connection)
    .await?;
    take_from(connection, key, conversation, &owners).await
}

/// The same where it is known who has it.
async fn take_from(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    conversation: CliSessionId,
    owners: &[String],
) -> Result<Result<(), SessionId>, StoreError> {
    if owners.iter().any(|owner| owner == key.session.as_str()) {
        return Ok(Ok(()));
    }
    match owners.first() {
        Some(owner) => Ok(Err(SessionId::parse(owner).map_err(|_| bad("session_id"))?)),
        None => join(connection, key, conversation).await.map(Ok),
    }
}

fn json(text: serde_json::Result<String>) -> Result<String, StoreError> {
    text.map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Adds lines of one conversation behind those that it has.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    conversation: CliSessionId,
    lines: &[Line],
) -> Result<(), StoreError> {
    let conversation = conversation.to_string();
    let last: i64 = sqlx::query_scalar(
        "SELECT COALESCE(MAX(seq), 0) FROM entries WHERE tenant = $1 AND cli_session_id = $2",
    )
    .bind(key.tenant.as_str())
    .bind(&conversation)
    .fetch_one(&mut *connection)
    .await?;
    let mut insert = QueryBuilder::new(
        "INSERT INTO entries (tenant, cli_session_id, seq, subpath, uuid, line) ",
    );
    insert.push_values((last + 1..).zip(lines), |mut row, (seq, line)| {
        row.push_bind(key.tenant.as_str())
            .push_bind(&conversation)
            .push_bind(seq)
            .push_bind(&*line.subpath)
            .push_bind(&line.uuid)
            .push_bind(&line.json);
    });
    insert.push(" ON CONFLICT DO NOTHING");
    insert.build().execute(&mut *connection).await?;
    Ok(())
}

/// Notes that a session is in the pool no more, if it was not used after `until_ms`. Returns
/// whether it was in the pool.
pub(super) async fn leave_pool(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    until_ms: i64,
) -> Result<bool, StoreError> {
    let left = sqlx::query(
        "UPDATE sessions SET in_pool = 0 WHERE tenant = $1 AND session_id = $2 \
         AND in_pool = 1 AND used_observed_ms <= $3",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(until_ms)
    .execute(&mut *connection)
    .await?;
    Ok(left.rows_affected() > 0)
}

/// Removes a session; returns the conversations that went with it.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    key: &SessionKey,
) -> Result<Option<Vec<String>>, StoreError> {
    let removed = sqlx::query("DELETE FROM sessions WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut *connection)
        .await?;
    turns::forget(connection, key).await?;
    if removed.rows_affected() == 0 {
        return Ok(None);
    }
    let alone: Vec<String> = sqlx::query_scalar(
        "SELECT cli_session_id FROM conversations AS mine WHERE tenant = $1 AND session_id = $2 \
         AND NOT EXISTS (SELECT 1 FROM conversations AS other WHERE other.tenant = mine.tenant \
         AND other.cli_session_id = mine.cli_session_id AND other.session_id <> mine.session_id)",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for conversation in &alone {
        sqlx::query("DELETE FROM entries WHERE tenant = $1 AND cli_session_id = $2")
            .bind(key.tenant.as_str())
            .bind(conversation)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("DELETE FROM conversations WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut *connection)
        .await?;
    Ok(Some(alone))
}
