//! Named turns in the database: written in the transaction that keeps what was said in
//! them, so that a name is kept exactly if its turn is. For how long is by the clock of whoever
//! asks: services that share a database take that one's.

use super::{
    KeptEnding, KeptTurn, StoreError,
    columns::{bad, elapsed, millis, signed, time},
    record::{MOST_TURN_BYTES, MOST_TURNS},
    statements::{Cells, Statements},
};
use crate::domain::ids::{CliSessionId, ClientId, SessionKey, TurnId};

/// Keeps a turn that has ended `now_ms`, and lets go of those that are past their time or too many.
pub(super) async fn keep(
    connection: &mut impl Statements,
    key: &SessionKey,
    turn: &KeptTurn,
    now_ms: i64,
) -> Result<(), StoreError> {
    let (tenant, session) = (key.tenant.as_str(), key.session.as_str());
    let retention = turn.expire_time.duration_since(turn.end_time).unwrap_or_default();
    let kept = connection.run(
        "INSERT INTO turns (tenant, session_id, turn_id, client_id, cli_session_id, started_ms, \
         ended_ms, expires_ms, interrupted, result) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (tenant, session_id, turn_id) DO UPDATE SET client_id = excluded.client_id, \
         cli_session_id = excluded.cli_session_id, started_ms = excluded.started_ms, \
         ended_ms = excluded.ended_ms, expires_ms = excluded.expires_ms, \
         interrupted = excluded.interrupted, result = excluded.result",
        &[
            tenant.into(),
            session.into(),
            turn.turn_id.as_str().into(),
            (&turn.client_id.to_string()).into(),
            (&turn.cli_session_id.to_string()).into(),
            millis(turn.start_time).into(),
            millis(turn.end_time).into(),
            now_ms.saturating_add(elapsed(retention)).into(),
            turn.ending.to_number().into(),
            (&*turn.result).into(),
        ],
    );
    kept.await?;
    for (statement, bound) in [
        ("DELETE FROM turns WHERE tenant = $1 AND session_id = $2 AND expires_ms <= $3", now_ms),
        (
            "DELETE FROM turns WHERE tenant = $1 AND session_id = $2 AND turn_id IN (SELECT turn_id FROM \
             (SELECT turn_id, ROW_NUMBER() OVER (ORDER BY ended_ms DESC, turn_id) AS place FROM turns \
             WHERE tenant = $1 AND session_id = $2) AS placed WHERE place > $3)",
            signed(MOST_TURNS as u64),
        ),
        (
            "UPDATE turns SET result = '' WHERE tenant = $1 AND session_id = $2 AND result <> '' \
             AND turn_id IN (SELECT turn_id \
             FROM (SELECT turn_id, SUM(OCTET_LENGTH(result)) OVER (ORDER BY ended_ms DESC, turn_id) AS bytes \
             FROM turns WHERE tenant = $1 AND session_id = $2) AS sized WHERE bytes > $3)",
            signed(MOST_TURN_BYTES as u64),
        ),
    ] {
        connection.run(statement, &[tenant.into(), session.into(), bound.into()]).await?;
    }
    Ok(())
}

/// Forgets the turns of a session.
pub(super) async fn forget(
    connection: &mut impl Statements,
    key: &SessionKey,
) -> Result<(), StoreError> {
    let of_it = [key.tenant.as_str().into(), key.session.as_str().into()];
    connection.run("DELETE FROM turns WHERE tenant = $1 AND session_id = $2", &of_it).await?;
    Ok(())
}

/// A turn of this name, if it is kept still.
pub(super) async fn find(
    connection: &mut impl Statements,
    key: &SessionKey,
    turn: &TurnId,
    now_ms: i64,
) -> Result<Option<KeptTurn>, StoreError> {
    let row = connection.row(
        "SELECT client_id, cli_session_id, started_ms, ended_ms, expires_ms, interrupted, result \
         FROM turns WHERE tenant = $1 AND session_id = $2 AND turn_id = $3 AND expires_ms > $4",
        &[
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            turn.as_str().into(),
            now_ms.into(),
        ],
    );
    let Some(row) = row.await? else { return Ok(None) };
    let client_id = ClientId::parse(row.text("client_id")?);
    let cli_session_id = CliSessionId::parse(row.text("cli_session_id")?);
    Ok(Some(KeptTurn {
        turn_id: turn.clone(),
        client_id: client_id.ok_or_else(|| bad("client_id"))?,
        cli_session_id: cli_session_id.ok_or_else(|| bad("cli_session_id"))?,
        start_time: time(row.number("started_ms")?),
        end_time: time(row.number("ended_ms")?),
        expire_time: time(row.number("expires_ms")?),
        ending: KeptEnding::from_number(row.number("interrupted")?)
            .ok_or_else(|| bad("interrupted"))?,
        result: row.text("result")?.into(),
    }))
}
