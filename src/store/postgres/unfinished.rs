//! What was taken up of transcripts from files, and never became a session's: nobody sees it, and
//! it is removed, piece by piece.

use tracing::warn;

use super::{transaction::Database, writers::Writers};
use crate::{
    domain::ids::{CliSessionId, TenantId},
    store::{
        StoreError,
        order::{Whose, WriteOp},
        pieces,
    },
};

/// Removes what was taken up of transcripts by services that are gone.
pub async fn discard_unfinished(database: &Database, writers: &Writers) {
    let mut after = (String::new(), String::new());
    loop {
        match discard_next(database, writers, &after).await {
            Ok(Some(next)) => after = next,
            Ok(None) => return,
            Err(error) => {
                // Nobody sees what is left, and the next start tries again.
                warn!(%error, "store_not_cleaned_up");
                return;
            }
        }
    }
}

/// Returns where to go on; `None` behind the last conversation.
async fn discard_next(
    database: &Database,
    writers: &Writers,
    after: &(String, String),
) -> Result<Option<(String, String)>, StoreError> {
    let mut transaction = database.read().await?;
    let next = pieces::next(&mut transaction, after).await?;
    transaction.commit().await?;
    let Some((tenant, id, is_unfinished)) = next else { return Ok(None) };
    if is_unfinished {
        discard(writers, &tenant, id, Whose::Anybody).await?;
    }
    Ok(Some((tenant.to_string(), id.to_string())))
}

/// Removes what was taken up of a transcript, piece by piece.
pub async fn discard(
    writers: &Writers,
    tenant: &TenantId,
    id: CliSessionId,
    whose: Whose,
) -> Result<(), StoreError> {
    while writers.ask(|reply| WriteOp::Discard(tenant.clone(), id, whose, reply)).await? {}
    Ok(())
}
