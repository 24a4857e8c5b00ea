//! How SQLite keeps what a turn left: its transaction has the database for itself, so that what
//! it has read is so until it ends.

use super::{
    Commit, Epoch, Record, StoreError,
    columns::millis,
    orders::{keep_said, take_from},
    owner::{self, Standing},
    recorded::{Recorded, change_record, insert_record},
    statements::{Statements, Value},
};
use crate::domain::ids::SessionKey;

/// Bytes that a store that failed writes to try whether it is well again: more than a page
/// that happened to be free.
const BALLAST: usize = 64 << 10;

/// Writes something of a size that matters.
pub(super) async fn probe(connection: &mut impl Statements) -> Result<(), StoreError> {
    let ballast = " ".repeat(BALLAST);
    connection.run("UPDATE store_state SET ballast = $1", &[(&ballast).into()]).await?;
    Ok(())
}

/// Keeps what a turn left. One that claims a conversation of others is refused before
/// anything of it is written.
pub(super) async fn keep(
    connection: &mut impl Statements,
    commit: &Commit,
    writer: &str,
    observed_ms: i64,
) -> Result<Result<(), StoreError>, StoreError> {
    let Commit { key, epoch, releases, record, .. } = commit;
    let conversation = record.cli_session_id;
    let standing = Standing::read(connection, key, conversation).await?;
    if let Err(fenced) = standing.check(writer, *epoch) {
        return Ok(Err(fenced));
    }
    if let Err(owner) = take_from(connection, key, conversation, &standing.holders).await? {
        return Ok(Err(StoreError::Conflict { conversation, owner: Some(owner) }));
    }
    keep_record(connection, key, record, writer, observed_ms).await?;
    let ended = commit.turn.as_ref().map_or(0, |turn| millis(turn.end_time));
    keep_said(connection, commit, ended).await?;
    if *releases {
        owner::release(connection, writer, key, *epoch).await?;
    }
    Ok(Ok(()))
}

async fn keep_record(
    connection: &mut impl Statements,
    key: &SessionKey,
    record: &Record,
    writer: &str,
    observed_ms: i64,
) -> Result<(), StoreError> {
    let recorded = Recorded::of(key, record)?;
    let mut values = recorded.values();
    let epoch = Epoch::NONE.kept().0;
    values.extend::<[Value<'_>; 3]>([writer.into(), epoch.into(), observed_ms.into()]);
    connection.run(insert_record!("", "", "$17", change_record!()), &values).await?;
    Ok(())
}

/// Notes that a session is in the pool no more, if it was not used after `until_ms`. Returns
/// whether it was in the pool.
pub(super) async fn leave_pool(
    connection: &mut impl Statements,
    key: &SessionKey,
    until_ms: i64,
) -> Result<bool, StoreError> {
    let left = connection.run(
        "UPDATE sessions SET in_pool = 0 WHERE tenant = $1 AND session_id = $2 \
         AND in_pool = 1 AND used_observed_ms <= $3",
        &[key.tenant.as_str().into(), key.session.as_str().into(), until_ms.into()],
    );
    Ok(left.await? > 0)
}
