//! Whose a session's row is, among the services that share the database. A claim takes what
//! nobody has, what this incarnation has, and what a dead node has; whoever had it before is
//! fenced. A commit shows its claim to [`hold`], the one place that lets write: a statement that
//! checks the row and locks it until the transaction ends, so that no claim slips in between.
//! That it changes no row is the only sign of being fenced; that it waits is not.
//!
//! Epochs alone are not enough: after a restore, or when a standby that lagged takes over, a
//! number can be given twice. So the incarnation is compared too, and has to be the one that
//! has the node's name: one that was replaced writes nothing from that moment on, though nobody
//! has claimed its sessions yet.

use super::{
    nodes::{Identity, lives},
    transaction::Transaction,
};
use crate::{
    domain::ids::SessionKey,
    store::{
        Epoch, StoreError,
        statements::{Cells as _, Statements as _, Value},
    },
};

/// What there is of a session that a commit may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its row, which is locked.
    Row,
    /// Nothing: the commit makes it.
    Nothing,
}

/// Locks a session's row for a commit by this claim, or says whose it is.
pub async fn hold(
    transaction: &mut Transaction,
    me: &Identity,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<Result<Held, StoreError>, StoreError> {
    let [name, incarnation] = me.values();
    let held = transaction.row(
        "UPDATE sessions SET epoch = epoch WHERE tenant = $1 AND session_id = $2 \
         AND owner_name = $3 AND owner = $4 AND epoch = $5 \
         AND EXISTS (SELECT 1 FROM nodes WHERE nodes.name = $3 AND nodes.incarnation = $4) \
         RETURNING epoch",
        &[
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            name,
            incarnation,
            epoch.kept().0.into(),
        ],
    );
    if held.await?.is_some() {
        return Ok(Ok(Held::Row));
    }
    match owner_of(transaction, key).await? {
        None if epoch == Epoch::NONE && is_registered(transaction, me).await? => {
            Ok(Ok(Held::Nothing))
        }
        owner => Ok(Err(StoreError::Fenced { owner: owner.unwrap_or_default() })),
    }
}

/// The name of the node that has a session, empty if none has it; `None` if there is none.
pub async fn owner_of(
    transaction: &mut Transaction,
    key: &SessionKey,
) -> Result<Option<String>, StoreError> {
    let row = transaction.row(
        "SELECT CASE owner WHEN '' THEN '' ELSE owner_name END AS name FROM sessions \
         WHERE tenant = $1 AND session_id = $2",
        &[key.tenant.as_str().into(), key.session.as_str().into()],
    );
    row.await?.map(|row| row.text("name").map(str::to_owned)).transpose()
}

async fn is_registered(transaction: &mut Transaction, me: &Identity) -> Result<bool, StoreError> {
    let registered = "SELECT 1 AS found FROM nodes WHERE name = $1 AND incarnation = $2";
    Ok(transaction.row(registered, &me.values()).await?.is_some())
}

/// Takes a session that no living node has. There may be none yet.
pub async fn claim(
    transaction: &mut Transaction,
    me: &Identity,
    key: &SessionKey,
) -> Result<Result<Epoch, StoreError>, StoreError> {
    let of_it: [Value<'_>; 2] = [key.tenant.as_str().into(), key.session.as_str().into()];
    // Locked before anybody's heartbeat is looked at: a statement that waits for a row goes on
    // with what it saw of other tables when it began, and would take who lives for dead.
    let lock = "SELECT epoch FROM sessions WHERE tenant = $1 AND session_id = $2 FOR UPDATE";
    if transaction.row(lock, &of_it).await?.is_none() {
        return Ok(Ok(Epoch::NONE));
    }
    if !is_registered(transaction, me).await? {
        return Ok(Err(StoreError::unavailable(REPLACED)));
    }
    let [name, incarnation] = me.values();
    let claimed = transaction.row(
        concat!(
            "UPDATE sessions SET owner = $4, owner_name = $3, epoch = epoch + 1 \
             WHERE tenant = $1 AND session_id = $2 AND (owner = '' OR owner = $4 \
             OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.name = sessions.owner_name \
             AND n.incarnation = sessions.owner AND ",
            lives!(),
            ")) RETURNING epoch"
        ),
        &[of_it[0], of_it[1], name, incarnation],
    );
    if let Some(row) = claimed.await? {
        return Ok(Ok(Epoch(row.number("epoch")?)));
    }
    let owner = transaction.row(
        "SELECT s.owner_name, COALESCE(n.address, '') AS address FROM sessions s \
         LEFT JOIN nodes n ON n.name = s.owner_name AND n.incarnation = s.owner \
         WHERE s.tenant = $1 AND s.session_id = $2",
        &of_it,
    );
    let Some(owner) = owner.await? else { return Ok(Ok(Epoch::NONE)) };
    let address = owner.text("address")?.to_owned();
    Ok(Err(StoreError::Elsewhere { owner: owner.text("owner_name")?.to_owned(), address }))
}

/// Why an incarnation that was replaced does nothing.
pub const REPLACED: &str = "another service has taken the name of this node";
