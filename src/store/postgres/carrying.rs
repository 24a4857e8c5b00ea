//! How an order is carried out in a transaction on PostgreSQL, where others write at the same
//! time: who writes to a session has its row locked, a conversation's row lets in one session,
//! and the mark of a transcript that is being taken up says by whom.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    me::Me,
    nodes::is_living,
    ownership::{self, Held},
    time::now_ms,
    transaction::Transaction,
};
use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionKey, TenantId},
    store::{
        Clock, Commit, KeptTurn, StoreError,
        columns::elapsed,
        counts::Counted,
        import::{self, Imports, MARK},
        order::{Whose, WriteOp, Written},
        orders, owner,
        recorded::{Recorded, change_record, insert_record},
        statements::{Cells as _, Statements as _, Value},
    },
};

/// What those who write share.
#[derive(Debug)]
pub struct Desk {
    /// Who they are.
    pub me: Arc<Me>,
    /// This life of the service, by which it counts: it may have several incarnations.
    pub life: String,
    /// By which what was counted is ordered.
    pub clock: Clock,
    imports: Mutex<Imports>,
    counted: Mutex<Counted>,
}

impl Desk {
    pub fn new(me: Arc<Me>, life: String, clock: Clock) -> Self {
        Self { me, life, clock, imports: Mutex::default(), counted: Mutex::default() }
    }

    fn imports(&self) -> MutexGuard<'_, Imports> {
        self.imports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an order that is committed.
    pub fn note(&self, order: &WriteOp) {
        match order {
            WriteOp::Commit(commit, _) => {
                let (key, id) = (&commit.key, commit.record.cli_session_id);
                self.counted().placed(&key.tenant);
                let mut imports = self.imports();
                if imports.settles(key, id) {
                    imports.remove(&key.tenant, id);
                }
            }
            WriteOp::Count(tenant, ..) => self.counted().placed(tenant),
            WriteOp::Import(import, _) => self.imports().note(import),
            WriteOp::Discard(tenant, id, Whose::Own, _) => self.imports().remove(tenant, *id),
            WriteOp::Forget(key, _) => self.imports().remove_of(key),
            WriteOp::Discard(..)
            | WriteOp::Claim(..)
            | WriteOp::Release(..)
            | WriteOp::LeavePool(..) => {}
        }
    }
}

/// Carries out an order. The inner error is its own fault: then nothing is to be committed.
pub async fn carry_out(
    transaction: &mut Transaction,
    order: &WriteOp,
    desk: &Desk,
) -> Result<Result<Written, StoreError>, StoreError> {
    let me = desk.me.identity();
    Ok(Ok(match order {
        WriteOp::Commit(commit, _) => {
            return Ok(keep(transaction, commit, desk).await?.map(|()| Written::Kept));
        }
        WriteOp::Claim(key, _) => {
            if let Err(refused) = desk.me.may_claim() {
                return Ok(Err(refused));
            }
            // After the identity: a new one has not the heartbeat of the one before.
            let claimed = ownership::claim(transaction, (&me, desk.me.beat()), key).await?;
            return Ok(claimed.map(Written::Claimed));
        }
        WriteOp::Release(key, epoch, _) => {
            ownership::release(transaction, &me, key, *epoch).await?;
            Written::Kept
        }
        WriteOp::Count(tenant, totals, _) => {
            count(transaction, tenant, totals, desk).await?;
            Written::Kept
        }
        WriteOp::Forget(key, _) => {
            let imports = desk.imports().of(key);
            for id in imports {
                import::remove(transaction, &key.tenant, id).await?;
            }
            Written::Forgotten(orders::forget(transaction, key).await?)
        }
        WriteOp::Import(part, _) => {
            let is_at_it = desk.imports().has(&part.key.tenant, part.conversation);
            let kept = import::keep(transaction, part, &me.incarnation, is_at_it).await?;
            return Ok(kept.map(|()| Written::Kept));
        }
        WriteOp::Discard(tenant, id, whose, _) => {
            Written::Discarded(discard(transaction, tenant, *id, *whose, desk).await?)
        }
        WriteOp::LeavePool(key, unused_for, _) => {
            let left = transaction.run(
                concat!(
                    "UPDATE sessions SET in_pool = 0 WHERE tenant = $1 AND session_id = $2 \
                     AND in_pool = 1 AND used_observed_ms <= ",
                    now_ms!(),
                    " - $3"
                ),
                &[
                    key.tenant.as_str().into(),
                    key.session.as_str().into(),
                    elapsed(*unused_for).into(),
                ],
            );
            Written::Left(left.await? > 0)
        }
    }))
}

/// Keeps what a turn left.
async fn keep(
    transaction: &mut Transaction,
    commit: &Commit,
    desk: &Desk,
) -> Result<Result<(), StoreError>, StoreError> {
    let Commit { key, epoch, releases, record, totals, .. } = commit;
    let (me, id) = (desk.me.identity(), record.cli_session_id);
    let held = match ownership::hold(transaction, &me, key, *epoch).await? {
        Ok(held) => held,
        Err(fenced) => return Ok(Err(fenced)),
    };
    let recorded = Recorded::of(key, record)?;
    let mut values = recorded.values();
    let [name, incarnation] = me.values();
    values.extend::<[Value<'_>; 3]>([incarnation, epoch.kept().0.into(), name]);
    let written = transaction.run(
        match held {
            Held::Row => insert_record!(", owner_name", ", $17", now_ms!(), change_record!()),
            Held::Nothing => insert_record!(", owner_name", ", $17", now_ms!(), " DO NOTHING"),
        },
        &values,
    );
    if written.await? == 0 {
        // Somebody else has made it just now.
        let owner = ownership::owner_of(transaction, key).await?.unwrap_or_default();
        return Ok(Err(StoreError::Fenced { owner }));
    }
    if let Err(owner) = orders::take(transaction, key, id).await? {
        return Ok(Err(StoreError::Conflict { conversation: id, owner: Some(owner) }));
    }
    let now_ms = match &commit.turn {
        Some(turn) => match name_of(transaction, key, turn).await? {
            Name::Free { now_ms } => now_ms,
            Name::Taken => return Ok(Err(StoreError::Fenced { owner: me.name.clone() })),
        },
        None => 0,
    };
    orders::keep_said(transaction, commit, now_ms).await?;
    let settles = desk.imports().settles(key, id);
    if settles && !import::settle(transaction, key, id, &me.incarnation).await? {
        return Ok(Err(StoreError::Conflict { conversation: id, owner: None }));
    }
    if *releases {
        owner::release(transaction, &me.incarnation, key, *epoch).await?;
    }
    // The last, since all of a tenant's commits write the same row.
    count(transaction, &key.tenant, totals, desk).await?;
    Ok(Ok(()))
}

/// What a turn's name is when its turn is to be kept.
enum Name {
    /// Nobody's, at this time by the database's clock.
    Free { now_ms: i64 },
    /// That of another run of the turn, which is kept.
    Taken,
}

/// Whether another run of a turn is kept under its name. Whoever lost the session has told its
/// caller so, and its last commit may have come through all the same, behind the back of the
/// caller that asked again and was not told yet: the second run is the one that is lost then.
/// The lock of the session's row is held.
async fn name_of(
    transaction: &mut Transaction,
    key: &SessionKey,
    turn: &KeptTurn,
) -> Result<Name, StoreError> {
    let kept = transaction.row(
        concat!(
            "SELECT ",
            now_ms!(),
            " AS now_ms, (SELECT result FROM turns WHERE tenant = $1 AND session_id = $2 \
             AND turn_id = $3 AND expires_ms > ",
            now_ms!(),
            ") AS result"
        ),
        &[key.tenant.as_str().into(), key.session.as_str().into(), turn.turn_id.as_str().into()],
    );
    let Some(row) = kept.await? else { return Ok(Name::Taken) };
    Ok(match row.maybe_text("result")? {
        Some(result) if *result != *turn.result => Name::Taken,
        Some(_) | None => Name::Free { now_ms: row.number("now_ms")? },
    })
}

async fn count(
    transaction: &mut Transaction,
    tenant: &TenantId,
    totals: &Totals,
    desk: &Desk,
) -> Result<(), StoreError> {
    let state = {
        let mut counted = desk.counted();
        counted.note(tenant, totals);
        counted.state(tenant, desk.clock.now_ms())
    };
    match state {
        Some(state) => state.keep(transaction, &desk.life, tenant).await,
        None => Ok(()),
    }
}

/// Removes a piece of a transcript that nobody who lives takes up. Returns whether there is
/// more.
async fn discard(
    transaction: &mut Transaction,
    tenant: &TenantId,
    id: CliSessionId,
    whose: Whose,
    desk: &Desk,
) -> Result<bool, StoreError> {
    let mark = transaction.row(
        "SELECT line FROM entries \
         WHERE tenant = $1 AND cli_session_id = $2 AND seq = $3 FOR UPDATE",
        &[tenant.as_str().into(), (&id.to_string()).into(), MARK.into()],
    );
    let Some(mark) = mark.await? else { return Ok(false) };
    let incarnation = mark.text("line")?;
    let is_own = incarnation == desk.me.identity().incarnation;
    let is_free = match whose {
        Whose::Own => is_own,
        Whose::Anybody if is_own => !desk.imports().has(tenant, id),
        Whose::Anybody => !is_living(transaction, incarnation).await?,
    };
    if is_free { import::discard(transaction, tenant, id).await } else { Ok(false) }
}

/// What an order is about: orders about the same are carried out one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A session.
    Session(SessionKey),
    /// A transcript that is taken up.
    Conversation(TenantId, CliSessionId),
    /// What a tenant has counted.
    Tenant(TenantId),
}

impl Subject {
    pub fn of(order: &WriteOp) -> Self {
        match order {
            WriteOp::Commit(commit, _) => Self::Session(commit.key.clone()),
            WriteOp::Claim(key, _)
            | WriteOp::Release(key, ..)
            | WriteOp::Forget(key, _)
            | WriteOp::LeavePool(key, ..) => Self::Session(key.clone()),
            WriteOp::Count(tenant, ..) => Self::Tenant(tenant.clone()),
            WriteOp::Import(import, _) => {
                Self::Conversation(import.key.tenant.clone(), import.conversation)
            }
            WriteOp::Discard(tenant, id, ..) => Self::Conversation(tenant.clone(), *id),
        }
    }
}
