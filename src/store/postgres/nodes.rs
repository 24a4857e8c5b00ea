//! The services that share the database: one row for each name, whose incarnation is that of
//! the service that registered last. A node lives while its heartbeat, by the database's clock,
//! is no older than the lease that it had registered with: so all agree on who is dead, whatever
//! their own clocks and configurations say.

use std::{collections::HashMap, time::Duration};

use sqlx::postgres::PgRow;

use super::transaction::{Database, Transaction};
use crate::{
    domain::ids::{SessionId, SessionKey, TenantId},
    store::{
        StoreError,
        columns::{bad, elapsed},
        statements::{Cells, Statements as _, Value},
    },
};

/// In SQL, whether the node `n` lives.
macro_rules! lives {
    () => {
        "n.heartbeat + n.lease_ms * INTERVAL '1 millisecond' > clock_timestamp()"
    };
}
pub(super) use lives;

/// In SQL, whether the node `n`, that has the name of whoever claimed `s`, lives and has it still;
/// or whether it has taken the name over from another, who may not know that yet.
macro_rules! may_have {
    () => {
        concat!(
            "CASE WHEN n.incarnation = s.owner THEN ",
            $crate::store::postgres::nodes::lives!(),
            " ELSE n.earlier_until > clock_timestamp() END"
        )
    };
}
pub(super) use may_have;

/// A heartbeat that is known to have been committed: microseconds by the database's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beat(i64);

impl Beat {
    fn value(self) -> Value<'static> {
        self.0.into()
    }
}

/// In SQL, a heartbeat as a [`Beat`] has it.
macro_rules! beat {
    () => {
        "CAST(EXTRACT(EPOCH FROM nodes.heartbeat) * 1000000 AS BIGINT)"
    };
}

/// Who this service is to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, which stays over restarts.
    pub name: String,
    /// Its life: another one at each start.
    pub incarnation: String,
    /// Where other nodes reach it; empty where they do not.
    pub address: String,
    /// How old its heartbeat may become.
    pub lease: Duration,
}

impl Identity {
    /// Its name and its incarnation, as values of a statement.
    pub fn values(&self) -> [Value<'_>; 2] {
        [(&self.name).into(), (&self.incarnation).into()]
    }
}

/// A node, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it is reached; empty where it is not.
    pub address: String,
    /// Its life.
    pub incarnation: String,
    /// Whether it takes no new sessions.
    pub draining: bool,
}

fn node(row: &impl Cells) -> Result<Node, StoreError> {
    Ok(Node {
        name: row.text("name")?.to_owned(),
        address: row.text("address")?.to_owned(),
        incarnation: row.text("incarnation")?.to_owned(),
        draining: row.is_true("draining")?,
    })
}

/// A node that has registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// Whether an earlier incarnation seemed to live.
    pub takes_over: bool,
    pub beat: Beat,
}

/// Takes the node's name, whoever had it: the commits of an earlier incarnation are refused from
/// then on, and what it has claimed is free when its lease is over, or at once if it is known to
/// have `ended`.
pub async fn register(
    database: &Database,
    identity: &Identity,
    ended: Option<&str>,
    slots: usize,
) -> Result<Registration, StoreError> {
    let mut transaction = database.write().await?;
    let [name, _] = identity.values();
    let earlier = concat!("SELECT ", lives!(), " AS lives FROM nodes n WHERE n.name = $1");
    let earlier = transaction.rows(earlier, &[name]).await?;
    let earlier = earlier.first().is_some_and(|row| row.is_true("lives").unwrap_or_default());
    let beat = take_name(&mut transaction, identity, ended.unwrap_or_default(), slots).await?;
    transaction.commit().await?;
    Ok(Registration { takes_over: earlier, beat })
}

/// What became of a node that registers once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It has its name again.
    Done {
        /// Its first heartbeat.
        beat: Beat,
        /// Whether the database knew the last one.
        was_known: bool,
    },
    /// Another service that lives has it.
    Taken,
}

/// Registers a node whose incarnation `last` is over as another one, which `drains` or not, unless
/// somebody else who lives has the name by now. May be done once more for the same one, when what
/// became of it is not known. Says whether the database still knew the heartbeat of the last one.
pub async fn register_again(
    database: &Database,
    (last, beat): (&Identity, Beat),
    (next, drains): (&Identity, bool),
    slots: usize,
) -> Result<Registered, StoreError> {
    let mut transaction = database.write().await?;
    let others = concat!(
        "SELECT n.name FROM nodes n WHERE n.name = $1 AND n.incarnation NOT IN ($2, $3) AND ",
        lives!(),
        " FOR UPDATE"
    );
    let ([name, before], [_, incarnation]) = (last.values(), next.values());
    if transaction.row(others, &[name, before, incarnation]).await?.is_some() {
        transaction.commit().await?;
        return Ok(Registered::Taken);
    }
    // If the next one is there already, whose registration was not answered, nobody can say any more
    // what was known: the careful answer is no.
    let was_known = knows(&mut transaction, last, beat).await?;
    // What the last one has started may be ending still: it has its lease for that.
    let beat = take_name(&mut transaction, next, &next.incarnation, slots).await?;
    if drains {
        mark_draining(&mut transaction, next).await?;
    }
    transaction.commit().await?;
    Ok(Registered::Done { beat, was_known })
}

/// Whether the database has this incarnation, and remembers this heartbeat of it. If not, the name
/// is another's, or an older state of the database was put back.
pub async fn knows(
    transaction: &mut Transaction,
    identity: &Identity,
    beat: Beat,
) -> Result<bool, StoreError> {
    let known = concat!(
        "SELECT 1 AS found FROM nodes WHERE name = $1 AND incarnation = $2 AND ",
        beat!(),
        " >= $3"
    );
    let [name, incarnation] = identity.values();
    Ok(transaction.row(known, &[name, incarnation, beat.value()]).await?.is_some())
}

async fn take_name(
    transaction: &mut Transaction,
    identity: &Identity,
    ended: &str,
    slots: usize,
) -> Result<Beat, StoreError> {
    let [name, incarnation] = identity.values();
    let address = (&identity.address).into();
    let registered = transaction.row(
        concat!(
            "INSERT INTO nodes (name, incarnation, address, heartbeat, lease_ms, draining) \
             VALUES ($1, $2, $3, clock_timestamp(), $4, FALSE) ON CONFLICT (name) DO UPDATE SET \
             earlier_until = CASE nodes.incarnation WHEN $5 THEN nodes.earlier_until ELSE \
             GREATEST(nodes.earlier_until, \
             nodes.heartbeat + nodes.lease_ms * INTERVAL '1 millisecond') END, \
             incarnation = excluded.incarnation, address = excluded.address, \
             heartbeat = excluded.heartbeat, lease_ms = excluded.lease_ms, draining = FALSE, \
             ballast = '' RETURNING ",
            beat!(),
            " AS beat"
        ),
        &[name, incarnation, address, elapsed(identity.lease).into(), ended.into()],
    );
    let registered = registered.await?;
    let beat = registered.map(|row| row.number("beat").map(Beat)).transpose()?.unwrap_or_default();
    transaction
        .run(
            "INSERT INTO transactions (incarnation, slot, commit_id) \
             SELECT $1, slot, '' FROM generate_series(0, $2 - 1) AS slot ON CONFLICT DO NOTHING",
            &[incarnation, i64::try_from(slots).unwrap_or(i64::MAX).into()],
        )
        .await?;
    Ok(beat)
}

/// Removes what nobody needs any more of nodes that are long dead.
pub async fn clean_up(database: &Database) -> Result<(), StoreError> {
    let mut transaction = database.write().await?;
    let dead = "DELETE FROM nodes WHERE heartbeat < clock_timestamp() - INTERVAL '1 day'";
    transaction.run(dead, &[]).await?;
    let orphans = "DELETE FROM transactions t WHERE NOT EXISTS \
                   (SELECT 1 FROM nodes n WHERE n.incarnation = t.incarnation)";
    transaction.run(orphans, &[]).await?;
    let claims = "DELETE FROM claims c WHERE NOT EXISTS \
                  (SELECT 1 FROM nodes n WHERE n.incarnation = c.owner)";
    transaction.run(claims, &[]).await?;
    transaction.commit().await
}

/// Renews the heartbeat, and writes `ballast` beside it. Returns the new one; `None` if the name is
/// not this incarnation's any more, or if the database has forgotten the `last` one: then an older
/// state of it was put back, in which sessions may be anybody's, and what was said since is gone.
pub async fn beat(
    database: &Database,
    identity: &Identity,
    ballast: &str,
    last: Beat,
) -> Result<Option<Beat>, StoreError> {
    let mut transaction = database.write().await?;
    let [name, incarnation] = identity.values();
    let renewed = transaction.row(
        concat!(
            "UPDATE nodes SET heartbeat = clock_timestamp(), ballast = $3 \
             WHERE name = $1 AND incarnation = $2 AND ",
            beat!(),
            " >= $4 RETURNING ",
            beat!(),
            " AS beat"
        ),
        &[name, incarnation, ballast.into(), last.value()],
    );
    let renewed = renewed.await?.map(|row| row.number("beat").map(Beat)).transpose()?;
    transaction.commit().await?;
    Ok(renewed)
}

/// Tells other nodes that this one takes no new sessions.
pub async fn drain(database: &Database, identity: &Identity) -> Result<(), StoreError> {
    let mut transaction = database.write().await?;
    mark_draining(&mut transaction, identity).await?;
    transaction.commit().await
}

async fn mark_draining(
    transaction: &mut Transaction,
    identity: &Identity,
) -> Result<(), StoreError> {
    let drains = "UPDATE nodes SET draining = TRUE WHERE name = $1 AND incarnation = $2";
    transaction.run(drains, &identity.values()).await.map(drop)
}

/// Gives the name back: what is still this incarnation's can be claimed at once.
pub async fn deregister(database: &Database, identity: &Identity) -> Result<(), StoreError> {
    let mut transaction = database.write().await?;
    let node = "DELETE FROM nodes WHERE name = $1 AND incarnation = $2";
    transaction.run(node, &identity.values()).await?;
    let slots = "DELETE FROM transactions WHERE incarnation = $1";
    transaction.run(slots, &[(&identity.incarnation).into()]).await?;
    let claims = "DELETE FROM claims WHERE owner = $1";
    transaction.run(claims, &[(&identity.incarnation).into()]).await?;
    transaction.commit().await
}

/// The nodes that live, by name.
pub async fn living(database: &Database) -> Result<Vec<Node>, StoreError> {
    let mut transaction = database.read().await?;
    let nodes = read_living(&mut transaction).await?;
    transaction.commit().await?;
    Ok(nodes)
}

/// The same in a transaction that reads something else as well.
pub async fn read_living(transaction: &mut Transaction) -> Result<Vec<Node>, StoreError> {
    let rows = transaction.rows(
        concat!(
            "SELECT n.name, n.address, n.incarnation, n.draining FROM nodes n WHERE ",
            lives!(),
            " ORDER BY n.name"
        ),
        &[],
    );
    rows.await?.iter().map(node).collect()
}

/// Whether an incarnation is that of a node that lives.
pub async fn is_living(
    transaction: &mut Transaction,
    incarnation: &str,
) -> Result<bool, StoreError> {
    let found = concat!("SELECT n.name FROM nodes n WHERE n.incarnation = $1 AND ", lives!());
    Ok(transaction.row(found, &[incarnation.into()]).await?.is_some())
}

/// The node that has a session, if that is another one and lives.
pub async fn owner(
    database: &Database,
    me: &Identity,
    key: &SessionKey,
) -> Result<Option<Node>, StoreError> {
    let mut transaction = database.read().await?;
    let found = concat!(
        "SELECT n.name, n.address, n.incarnation, n.draining FROM \
         (SELECT owner_name, owner FROM sessions WHERE tenant = $1 AND session_id = $2 \
         UNION ALL SELECT owner_name, owner FROM claims WHERE tenant = $1 AND session_id = $2) s \
         JOIN nodes n ON n.name = s.owner_name AND n.incarnation = s.owner \
         WHERE s.owner <> $3 AND ",
        lives!()
    );
    let of_it = [key.tenant.as_str().into(), key.session.as_str().into(), me.values()[1]];
    let row = transaction.row(found, &of_it).await?;
    transaction.commit().await?;
    row.map(|row| node(&row)).transpose()
}

/// The other nodes that live and have sessions of a tenant that are in the pool, of those with
/// ids between these, the last one included.
pub async fn owners(
    transaction: &mut Transaction,
    me: &Identity,
    tenant: &TenantId,
    (after, last): (Option<&SessionId>, &SessionId),
) -> Result<HashMap<SessionId, String>, StoreError> {
    let rows = transaction.rows(
        concat!(
            "SELECT s.session_id, n.name FROM sessions s JOIN nodes n \
             ON n.name = s.owner_name AND n.incarnation = s.owner \
             WHERE s.tenant = $1 AND s.session_id > $2 AND s.session_id <= $3 \
             AND s.in_pool = 1 AND s.owner <> $4 AND ",
            lives!()
        ),
        &[
            tenant.as_str().into(),
            after.map_or("", SessionId::as_str).into(),
            last.as_str().into(),
            me.values()[1],
        ],
    );
    let owner = |row: &PgRow| {
        let id = SessionId::parse(row.text("session_id")?).map_err(|_| bad("session_id"))?;
        Ok((id, row.text("name")?.to_owned()))
    };
    rows.await?.iter().map(owner).collect()
}
