//! Whose a session's row is. Whoever goes on with a session claims the row, and from then on
//! nobody who claimed it before can write to it. The one place that says so is [`check`], the
//! first thing that a commit does in its transaction: that has the lock which a claim needs
//! too, so that none slips in between.
//!
//! The number of a claim alone is not enough: after a restore of an older backup one can be
//! given twice. So the life of the service that claimed is compared as well.

use sqlx::{Row as _, SqliteConnection};

use super::{Epoch, StoreError};
use crate::domain::ids::SessionKey;

/// Takes a session's row, whoever had it. There may be none yet.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    writer: &str,
    key: &SessionKey,
) -> Result<Epoch, StoreError> {
    let epoch: Option<i64> = sqlx::query_scalar(
        "UPDATE sessions SET owner = $1, epoch = epoch + 1 WHERE tenant = $2 AND session_id = $3 \
         RETURNING epoch",
    )
    .bind(writer)
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(epoch.map_or(Epoch::NONE, Epoch))
}

/// Gives a row back, unless somebody else has it by now.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    writer: &str,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sessions SET owner = '' WHERE tenant = $1 AND session_id = $2 AND owner = $3 \
         AND epoch = $4",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(writer)
    .bind(epoch.kept().0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the row is the writer's in this epoch. The inner error says whose it is.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    writer: &str,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<Result<(), StoreError>, StoreError> {
    let row =
        sqlx::query("SELECT owner, epoch FROM sessions WHERE tenant = $1 AND session_id = $2")
            .bind(key.tenant.as_str())
            .bind(key.session.as_str())
            .fetch_optional(connection)
            .await?;
    let row: Option<(String, i64)> = match row {
        Some(row) => Some((row.try_get("owner")?, row.try_get("epoch")?)),
        None => None,
    };
    let row = row.as_ref().map(|(owner, epoch)| (owner.as_str(), Epoch(*epoch)));
    Ok(admit(row, writer, epoch))
}

/// Whether somebody may write to a row, or make it where there is none. The first commit of a
/// session makes it; one that is told again after an outcome that nobody knows finds its own.
pub(super) fn admit(
    row: Option<(&str, Epoch)>,
    writer: &str,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let is_own = match row {
        Some((owner, current)) => owner == writer && current == epoch.kept(),
        None => epoch == Epoch::NONE,
    };
    let owner = row.map(|(owner, _)| owner.to_owned()).unwrap_or_default();
    if is_own { Ok(()) } else { Err(StoreError::Fenced { owner }) }
}
