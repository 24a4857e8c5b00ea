//! Whose a session's row is, among the services that share the database. A claim takes what
//! nobody has, what this incarnation has, and what a dead node has, or had under a name that is
//! another's by now, once its lease is over; whoever had it before is fenced. A commit shows its
//! claim to [`hold`], the one place that lets write: a statement that checks the row and locks it
//! until the transaction ends, so that no claim slips in between. That it changes no row is the
//! only sign of being fenced; that it waits is not.
//!
//! A session that was never committed has no row. Its claim is a row of `claims` instead, so that
//! of nodes that begin one at once a single one does; the first commit makes the one of the other.
//!
//! Epochs alone are not enough: after a restore, or when a standby that lagged takes over, a
//! number can be given twice. So the incarnation is compared too, and has to be the one that
//! has the node's name: one that was replaced writes nothing from that moment on, though nobody
//! has claimed its sessions yet.

use super::{
    nodes::{self, Beat, Identity, may_have},
    transaction::Transaction,
};
use crate::{
    domain::ids::SessionKey,
    store::{
        Epoch, StoreError,
        error::Obstacle,
        owner,
        statements::{Cells as _, Statements as _, Value},
    },
};

/// What there is of a session that a commit may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its row, which is locked.
    Row,
    /// Nothing: the commit makes its row.
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
        None => hold_claim(transaction, me, key, epoch).await,
        Some(owner) => Ok(Err(StoreError::Fenced { owner })),
    }
}

/// The same of a session without a row. Its claim goes with the commit that makes that.
async fn hold_claim(
    transaction: &mut Transaction,
    me: &Identity,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<Result<Held, StoreError>, StoreError> {
    let registered = nodes::knows(transaction, me, Beat::default()).await?;
    if registered && give_up_claim(transaction, me, key, epoch).await? {
        return Ok(Ok(Held::Nothing));
    }
    let claimed = transaction.row(
        "SELECT owner_name FROM claims WHERE tenant = $1 AND session_id = $2",
        &[key.tenant.as_str().into(), key.session.as_str().into()],
    );
    let owner = claimed.await?.map(|row| row.text("owner_name").map(str::to_owned)).transpose()?;
    // Where nobody has claimed it, whoever commits first has it.
    if registered && owner.is_none() && epoch == Epoch::NONE {
        return Ok(Ok(Held::Nothing));
    }
    Ok(Err(StoreError::Fenced { owner: owner.unwrap_or_default() }))
}

/// Removes this claim of a session without a row. Returns whether it was there.
async fn give_up_claim(
    transaction: &mut Transaction,
    me: &Identity,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<bool, StoreError> {
    let [name, incarnation] = me.values();
    let removed = transaction.run(
        "DELETE FROM claims WHERE tenant = $1 AND session_id = $2 \
         AND owner_name = $3 AND owner = $4 AND epoch = $5",
        &[
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            name,
            incarnation,
            epoch.kept().0.into(),
        ],
    );
    Ok(removed.await? > 0)
}

/// Gives a session back, unless somebody else has it by now.
pub async fn release(
    transaction: &mut Transaction,
    me: &Identity,
    key: &SessionKey,
    epoch: Epoch,
) -> Result<(), StoreError> {
    owner::release(transaction, &me.incarnation, key, epoch).await?;
    give_up_claim(transaction, me, key, epoch).await?;
    Ok(())
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

/// What is asked about a row of this table.
macro_rules! claim_in {
    ($table:literal) => {
        Claiming {
            // Locked before anybody's heartbeat is looked at: a statement that waits for a row goes
            // on with what it saw of other tables when it began, and would take who lives for dead.
            lock: concat!(
                "SELECT epoch FROM ",
                $table,
                " WHERE tenant = $1 AND session_id = $2 FOR UPDATE"
            ),
            take: concat!(
                "UPDATE ",
                $table,
                " AS s SET owner = $4, owner_name = $3, epoch = epoch + 1 \
                 WHERE tenant = $1 AND session_id = $2 AND (owner = '' OR owner = $4 \
                 OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.name = s.owner_name AND ",
                may_have!(),
                ")) RETURNING epoch"
            ),
            owner: concat!(
                "SELECT s.owner_name, COALESCE(n.address, '') AS address FROM ",
                $table,
                " s LEFT JOIN nodes n ON n.name = s.owner_name AND n.incarnation = s.owner \
                 WHERE s.tenant = $1 AND s.session_id = $2"
            ),
        }
    };
}

/// How a row is claimed.
struct Claiming {
    lock: &'static str,
    take: &'static str,
    owner: &'static str,
}

const SESSION: Claiming = claim_in!("sessions");
/// Of a session without a row.
const NEW: Claiming = claim_in!("claims");

/// Takes a session that no living node has. There may be none yet: then nobody else begins it.
/// Nothing is taken from a database that has forgotten the `last` heartbeat of this node: it was
/// put back to an older state, and sessions that it says are free may be others'.
pub async fn claim(
    transaction: &mut Transaction,
    (me, last): (&Identity, Beat),
    key: &SessionKey,
) -> Result<Result<Epoch, StoreError>, StoreError> {
    if !nodes::knows(transaction, me, last).await? {
        return Ok(Err(StoreError::unavailable(FORGOTTEN)));
    }
    let [name, incarnation] = me.values();
    let of_it: [Value<'_>; 2] = [key.tenant.as_str().into(), key.session.as_str().into()];
    if transaction.row(SESSION.lock, &of_it).await?.is_some() {
        return take(transaction, &SESSION, me, key).await;
    }
    // Whoever has it already, or is just committing, is waited for here.
    let begun = transaction.run(
        "INSERT INTO claims (tenant, session_id, owner_name, owner, epoch) \
         VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING",
        &[of_it[0], of_it[1], name, incarnation],
    );
    let begun = begun.await? > 0;
    if transaction.row(NEW.lock, &of_it).await?.is_none() {
        // It was given back, or has got its row, just now: once more from the beginning.
        let (detail, obstacle) = ("a session was claimed by two at once", Obstacle::Busy);
        return Err(StoreError::Unavailable { detail: detail.to_owned(), obstacle });
    }
    // It may have got its row since it was looked for.
    if begun && transaction.row(SESSION.lock, &of_it).await?.is_some() {
        give_up_claims(transaction, &of_it).await?;
        return take(transaction, &SESSION, me, key).await;
    }
    take(transaction, &NEW, me, key).await
}

async fn give_up_claims(
    transaction: &mut Transaction,
    of_it: &[Value<'_>; 2],
) -> Result<(), StoreError> {
    let claims = "DELETE FROM claims WHERE tenant = $1 AND session_id = $2";
    transaction.run(claims, of_it).await.map(drop)
}

/// Takes a row that is locked, or says whose it is.
async fn take(
    transaction: &mut Transaction,
    row: &Claiming,
    me: &Identity,
    key: &SessionKey,
) -> Result<Result<Epoch, StoreError>, StoreError> {
    let of_it: [Value<'_>; 2] = [key.tenant.as_str().into(), key.session.as_str().into()];
    let [name, incarnation] = me.values();
    let claimed = transaction.row(row.take, &[of_it[0], of_it[1], name, incarnation]);
    if let Some(row) = claimed.await? {
        return Ok(Ok(Epoch(row.number("epoch")?)));
    }
    let Some(owner) = transaction.row(row.owner, &of_it).await? else {
        return Ok(Err(StoreError::Fenced { owner: String::new() }));
    };
    let address = owner.text("address")?.to_owned();
    Ok(Err(StoreError::Elsewhere { owner: owner.text("owner_name")?.to_owned(), address }))
}

/// Why an incarnation that was replaced does nothing.
pub const REPLACED: &str = "another service has taken the name of this node";

/// Why an incarnation claims nothing that the database does not know.
const FORGOTTEN: &str = "another service has taken the name of this node, or its database was put \
                         back to an older state";
