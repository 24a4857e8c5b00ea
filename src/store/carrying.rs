//! How SQLite's writer carries out an order in its transaction.

use super::{
    StoreError,
    columns::elapsed,
    connection::Transaction,
    counts::Counted,
    import::{self, Imports},
    keeping,
    order::{Whose, WriteOp, Written},
    orders, owner,
};

/// Who carries out orders, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    /// This life of the service.
    pub(super) writer: &'a str,
    /// The time, by the store's own clock.
    pub(super) observed_ms: i64,
    /// The transcripts that are being taken up.
    pub(super) imports: &'a Imports,
}

/// Carries out one order, but for what it counted, which is only noted. The inner error is its
/// own fault, and nothing of it is written.
pub(super) async fn carry_out(
    transaction: &mut Transaction<'_>,
    order: &WriteOp,
    by: By<'_>,
    counted: &mut Counted,
) -> Result<Result<Written, StoreError>, StoreError> {
    let By { observed_ms, imports, .. } = by;
    let connection = transaction.connection();
    Ok(Ok(match order {
        WriteOp::Commit(commit, _) => {
            let kept = keeping::keep(connection, commit, by.writer, observed_ms).await?;
            let (key, id) = (&commit.key, commit.record.cli_session_id);
            if kept.is_ok() {
                counted.note(&key.tenant, &commit.totals);
            }
            if kept.is_ok() && imports.settles(key, id) {
                import::settle(connection, key, id, by.writer).await?;
            }
            return Ok(kept.map(|()| Written::Kept));
        }
        WriteOp::Claim(key, _) => Written::Claimed(owner::claim(connection, by.writer, key).await?),
        WriteOp::Release(key, epoch, _) => {
            owner::release(connection, by.writer, key, *epoch).await?;
            Written::Kept
        }
        WriteOp::Count(tenant, totals, _) => {
            counted.note(tenant, totals);
            Written::Kept
        }
        WriteOp::Forget(key, _) => {
            for id in imports.of(key) {
                import::remove(connection, &key.tenant, id).await?;
            }
            Written::Forgotten(orders::forget(connection, key).await?)
        }
        WriteOp::Import(part, _) => {
            let kept = import::keep(
                connection,
                part,
                by.writer,
                imports.has(&part.key.tenant, part.conversation),
            )
            .await?;
            return Ok(kept.map(|()| Written::Kept));
        }
        // Somebody else's is still coming.
        WriteOp::Discard(tenant, id, Whose::Anybody, _) if imports.has(tenant, *id) => {
            Written::Discarded(false)
        }
        WriteOp::Discard(tenant, id, ..) => {
            Written::Discarded(import::discard(connection, tenant, *id).await?)
        }
        WriteOp::LeavePool(key, unused_for, _) => {
            let until_ms = observed_ms.saturating_sub(elapsed(*unused_for));
            Written::Left(keeping::leave_pool(connection, key, until_ms).await?)
        }
    }))
}
