//! Named turns in the database: written in the transaction that keeps what was said in
//! them, so that a name is kept exactly if its turn is.

use std::time::SystemTime;

use sqlx::{Row as _, SqliteConnection};

use super::{
    KeptEnding, KeptTurn, StoreError,
    columns::{bad, millis, signed, time},
    readers::Readers,
    record::{MOST_TURN_BYTES, MOST_TURNS},
};
use crate::domain::ids::{CliSessionId, ClientId, SessionKey, TurnId};

/// Keeps a turn, and lets go of those that are past their time or too many.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    key: &SessionKey,
    turn: &KeptTurn,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO turns (tenant, session_id, turn_id, client_id, cli_session_id, started_ms, \
         ended_ms, expires_ms, interrupted, result) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (tenant, session_id, turn_id) DO UPDATE SET client_id = excluded.client_id, \
         cli_session_id = excluded.cli_session_id, started_ms = excluded.started_ms, \
         ended_ms = excluded.ended_ms, expires_ms = excluded.expires_ms, \
         interrupted = excluded.interrupted, result = excluded.result",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(turn.turn_id.as_str())
    .bind(turn.client_id.to_string())
    .bind(turn.cli_session_id.to_string())
    .bind(millis(turn.start_time))
    .bind(millis(turn.end_time))
    .bind(millis(turn.expire_time))
    .bind(turn.ending.to_number())
    .bind(&*turn.result)
    .execute(&mut *connection)
    .await?;
    for (statement, bound) in [
        (
            "DELETE FROM turns WHERE tenant = $1 AND session_id = $2 AND expires_ms <= $3",
            millis(turn.end_time),
        ),
        (
            "DELETE FROM turns WHERE tenant = $1 AND session_id = $2 AND turn_id IN (SELECT turn_id FROM \
             (SELECT turn_id, ROW_NUMBER() OVER (ORDER BY ended_ms DESC, turn_id) AS place FROM turns \
             WHERE tenant = $1 AND session_id = $2) AS placed WHERE place > $3)",
            signed(MOST_TURNS as u64),
        ),
        (
            "UPDATE turns SET result = '' WHERE tenant = $1 AND session_id = $2 AND turn_id IN (SELECT turn_id \
             FROM (SELECT turn_id, SUM(LENGTH(result)) OVER (ORDER BY ended_ms DESC, turn_id) AS bytes \
             FROM turns WHERE tenant = $1 AND session_id = $2) AS sized WHERE bytes > $3)",
            signed(MOST_TURN_BYTES as u64),
        ),
    ] {
        sqlx::query(statement)
            .bind(key.tenant.as_str())
            .bind(key.session.as_str())
            .bind(bound)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Forgets the turns of a session.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    key: &SessionKey,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM turns WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// A turn of this name, if it is kept.
pub(super) async fn find(
    readers: &Readers,
    key: &SessionKey,
    turn: &TurnId,
) -> Result<Option<KeptTurn>, StoreError> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT client_id, cli_session_id, started_ms, ended_ms, expires_ms, interrupted, result \
         FROM turns WHERE tenant = $1 AND session_id = $2 AND turn_id = $3 AND expires_ms > $4",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(turn.as_str())
    .bind(millis(SystemTime::now()))
    .fetch_optional(reader.connection())
    .await?;
    reader.give_back();
    let Some(row) = row else { return Ok(None) };
    let client_id = ClientId::parse(row.try_get("client_id")?);
    let cli_session_id = CliSessionId::parse(row.try_get("cli_session_id")?);
    Ok(Some(KeptTurn {
        turn_id: turn.clone(),
        client_id: client_id.ok_or_else(|| bad("client_id"))?,
        cli_session_id: cli_session_id.ok_or_else(|| bad("cli_session_id"))?,
        start_time: time(row.try_get("started_ms")?),
        end_time: time(row.try_get("ended_ms")?),
        expire_time: time(row.try_get("expires_ms")?),
        ending: KeptEnding::from_number(row.try_get("interrupted")?)
            .ok_or_else(|| bad("interrupted"))?,
        result: row.try_get::<&str, _>("result")?.into(),
    }))
}
