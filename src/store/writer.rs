//! The one task that writes to the database. What is asked of it while it writes is
//! written together next: a transaction costs a wait for the disk, however much is in it.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Sqlite, SqlitePool, Transaction};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, error_span, warn};

use super::{
    Commit, Line, StoreError,
    sql::{millis, signed},
    turns,
};
use crate::{
    counters::Totals,
    ids::{CliSessionId, SessionKey, TenantId},
    tasks::Tasks,
};

/// Orders that may wait. More make those who ask wait.
const WAITING: usize = 256;
/// Lines in one statement: SQLite takes 32 766 values, and a line is six.
const LINES: usize = 5000;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Keep what a turn left.
    Commit(Box<Commit>, Answer<()>),
    /// Keep what a tenant has counted.
    Count(TenantId, Box<Totals>, Answer<()>),
    /// Remove a session; the answer is the conversations that went with it.
    Forget(SessionKey, Answer<Option<Vec<String>>>),
    /// Note that a session is in the pool no more.
    LeavePool(SessionKey, Answer<()>),
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
}

impl Writer {
    /// Starts the writer. It ends with the service's tasks, after all that was asked
    /// before.
    pub(super) fn start(database: SqlitePool, tasks: &Tasks) -> Self {
        let (orders, mut waiting) = mpsc::channel(WAITING);
        let stopping = tasks.stopping().clone();
        tasks.spawn(error_span!("store"), async move {
            let mut batch = Vec::with_capacity(WAITING);
            let mut counted = HashMap::new();
            loop {
                let count = tokio::select! {
                    count = waiting.recv_many(&mut batch, WAITING) => count,
                    () = stopping.cancelled(), if !waiting.is_closed() => {
                        waiting.close();
                        continue;
                    }
                };
                if count == 0 {
                    break;
                }
                batch.iter_mut().for_each(|order| raise(order, &mut counted));
                if write_all(&database, std::mem::take(&mut batch)).await {
                    empty_log(&database).await;
                }
            }
            database.close().await;
        });
        Self { orders }
    }

    pub(super) async fn ask<T>(
        &self,
        order: impl FnOnce(Answer<T>) -> Order,
    ) -> Result<T, StoreError> {
        let gone = || StoreError("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Orders come in another order than their totals were taken: the highest count.
fn raise(order: &mut Order, counted: &mut HashMap<TenantId, Totals>) {
    let (tenant, totals) = match order {
        Order::Commit(commit, _) => (&commit.key.tenant, &mut commit.totals),
        Order::Count(tenant, totals, _) => (&*tenant, &mut **totals),
        Order::Forget(..) | Order::LeavePool(..) => return,
    };
    let highest = counted.entry(tenant.clone()).or_default();
    highest.raise(totals);
    totals.clone_from(highest);
}

/// Empties the write-ahead log, which holds what was written before, forgotten texts
/// among it. If somebody reads just now, a later one does it.
async fn empty_log(database: &SqlitePool) {
    let done = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(database).await;
    if let Err(error) = done {
        warn!(%error, "store_log_not_emptied");
    }
}

/// Writes orders in one transaction. If that fails each is tried by itself, so that none
/// fails for another's sake. Returns whether something was forgotten.
async fn write_all(database: &SqlitePool, orders: Vec<Order>) -> bool {
    let mut forgotten = false;
    let together = match &orders[..] {
        [_] => Err(StoreError("alone anyway".into())),
        _ => in_one(database, &orders).await,
    };
    match together {
        Ok(answers) => {
            forgotten = answers.iter().any(Option::is_some);
            orders.into_iter().zip(answers).for_each(|(order, gone)| answer(order, Ok(gone)));
        }
        Err(_) => {
            for order in orders {
                let written = in_one(database, std::slice::from_ref(&order)).await;
                if let Err(error) = &written {
                    error!(%error, "store_failed");
                }
                let written = written.map(|mut answers| answers.pop().flatten());
                forgotten |= matches!(written, Ok(Some(_)));
                answer(order, written);
            }
        }
    }
    forgotten
}

/// Whoever asked may be gone; what was written stays written.
fn answer(order: Order, written: Result<Option<Vec<String>>, StoreError>) {
    match order {
        Order::Commit(_, reply) | Order::Count(_, _, reply) | Order::LeavePool(_, reply) => {
            drop(reply.send(written.map(|_| ())))
        }
        Order::Forget(_, reply) => drop(reply.send(written)),
    }
}

async fn in_one(
    database: &SqlitePool,
    orders: &[Order],
) -> Result<Vec<Option<Vec<String>>>, StoreError> {
    let mut transaction = database.begin().await?;
    let mut answers = Vec::with_capacity(orders.len());
    for order in orders {
        answers.push(match order {
            Order::Commit(commit, _) => {
                keep(&mut transaction, commit).await?;
                None
            }
            Order::Count(tenant, totals, _) => {
                keep_totals(&mut transaction, tenant, totals).await?;
                None
            }
            Order::Forget(key, _) => forget(&mut transaction, key).await?,
            Order::LeavePool(key, _) => {
                leave_pool(&mut transaction, key).await?;
                None
            }
        });
    }
    transaction.commit().await?;
    Ok(answers)
}

async fn keep(
    transaction: &mut Transaction<'_, Sqlite>,
    commit: &Commit,
) -> Result<(), StoreError> {
    let Commit { key, record, turn, lines, totals } = commit;
    let conversation = record.cli_session_id;
    if !take(transaction, key, conversation).await? {
        return Err(super::owned(conversation));
    }
    sqlx::query(
        "INSERT INTO sessions (tenant, session_id, cli_session_id, options, created_ms, last_used_ms, \
         message_count, error_count, spent, reported_cost_usd, in_pool) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (tenant, session_id) DO UPDATE SET cli_session_id = excluded.cli_session_id, \
         options = excluded.options, created_ms = excluded.created_ms, \
         last_used_ms = excluded.last_used_ms, message_count = excluded.message_count, \
         error_count = excluded.error_count, spent = excluded.spent, \
         reported_cost_usd = excluded.reported_cost_usd, in_pool = excluded.in_pool",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(record.cli_session_id.to_string())
    .bind(json(serde_json::to_string(&record.options))?)
    .bind(millis(record.create_time))
    .bind(millis(record.last_used_time))
    .bind(signed(record.message_count))
    .bind(signed(record.error_count))
    .bind(json(serde_json::to_string(&record.spent))?)
    .bind(record.reported_cost_usd)
    .bind(i64::from(record.in_pool))
    .execute(&mut **transaction)
    .await?;
    if let Some(turn) = turn {
        turns::keep(transaction, key, turn).await?;
    }
    keep_totals(transaction, &key.tenant, totals).await?;
    for same in lines.chunk_by(|a, b| a.conversation == b.conversation) {
        let conversation = same[0].conversation;
        if conversation != record.cli_session_id && !take(transaction, key, conversation).await? {
            warn!(session_id = %key.session, %conversation, "lines_of_another_session_left_out");
            continue;
        }
        for some in same.chunks(LINES) {
            append(transaction, key, conversation, some).await?;
        }
    }
    Ok(())
}

/// The session has this conversation from now on.
async fn join(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO conversations (tenant, session_id, cli_session_id) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .bind(conversation.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The same unless only others have it. Returns whether the session has it. Decided in the
/// transaction that keeps what was said in it.
async fn take(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &SessionKey,
    conversation: CliSessionId,
) -> Result<bool, StoreError> {
    let owners: Vec<String> = sqlx::query_scalar(
        "SELECT session_id FROM conversations WHERE tenant = $1 AND cli_session_id = $2",
    )
    .bind(key.tenant.as_str())
    .bind(conversation.to_string())
    .fetch_all(&mut **transaction)
    .await?;
    if owners.is_empty() {
        join(transaction, key, conversation).await?;
    }
    Ok(owners.is_empty() || owners.iter().any(|owner| owner == key.session.as_str()))
}

async fn keep_totals(
    transaction: &mut Transaction<'_, Sqlite>,
    tenant: &TenantId,
    totals: &Totals,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO totals (tenant, counters) VALUES ($1, $2) \
         ON CONFLICT (tenant) DO UPDATE SET counters = excluded.counters",
    )
    .bind(tenant.as_str())
    .bind(json(serde_json::to_string(totals))?)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn json(text: serde_json::Result<String>) -> Result<String, StoreError> {
    text.map_err(|error| StoreError(error.to_string()))
}

/// Adds lines of one conversation behind those that it has.
async fn append(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &SessionKey,
    conversation: CliSessionId,
    lines: &[Line],
) -> Result<(), StoreError> {
    let conversation = conversation.to_string();
    let last: i64 = sqlx::query_scalar(
        "SELECT COALESCE(MAX(seq), 0) FROM entries WHERE tenant = $1 AND cli_session_id = $2",
    )
    .bind(key.tenant.as_str())
    .bind(&conversation)
    .fetch_one(&mut **transaction)
    .await?;
    let mut insert = QueryBuilder::new(
        "INSERT INTO entries (tenant, cli_session_id, seq, subpath, uuid, line) ",
    );
    insert.push_values((last + 1..).zip(lines), |mut row, (seq, line)| {
        row.push_bind(key.tenant.as_str())
            .push_bind(&conversation)
            .push_bind(seq)
            .push_bind(&*line.subpath)
            .push_bind(&line.uuid)
            .push_bind(&line.json);
    });
    insert.push(" ON CONFLICT DO NOTHING");
    insert.build().execute(&mut **transaction).await?;
    Ok(())
}

async fn leave_pool(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &SessionKey,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET in_pool = 0 WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn forget(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &SessionKey,
) -> Result<Option<Vec<String>>, StoreError> {
    let removed = sqlx::query("DELETE FROM sessions WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut **transaction)
        .await?;
    turns::forget(transaction, key).await?;
    if removed.rows_affected() == 0 {
        return Ok(None);
    }
    let alone: Vec<String> = sqlx::query_scalar(
        "SELECT cli_session_id FROM conversations AS mine WHERE tenant = $1 AND session_id = $2 \
         AND NOT EXISTS (SELECT 1 FROM conversations AS other WHERE other.tenant = mine.tenant \
         AND other.cli_session_id = mine.cli_session_id AND other.session_id <> mine.session_id)",
    )
    .bind(key.tenant.as_str())
    .bind(key.session.as_str())
    .fetch_all(&mut **transaction)
    .await?;
    for conversation in &alone {
        sqlx::query("DELETE FROM entries WHERE tenant = $1 AND cli_session_id = $2")
            .bind(key.tenant.as_str())
            .bind(conversation)
            .execute(&mut **transaction)
            .await?;
    }
    sqlx::query("DELETE FROM conversations WHERE tenant = $1 AND session_id = $2")
        .bind(key.tenant.as_str())
        .bind(key.session.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(Some(alone))
}
