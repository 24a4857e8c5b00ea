//! A session's record as columns of its row, the same in both databases.

use super::{
    Epoch, Record, StoreError,
    columns::{bad, conversation, elapsed, json, millis, signed, time},
    statements::{Cells, Value},
};
use crate::domain::ids::SessionKey;

/// The statement that makes a session's row, or with ` DO UPDATE SET` behind it changes one.
/// `$now` is the database's own time in milliseconds: what is kept of ages counts back from it.
/// Its values are those of [`Recorded::values`], then the owner and the epoch of a new row, and
/// what `$now` or `$more` need.
macro_rules! insert_record {
    ($columns:literal, $values:literal, $now:expr, $conflict:expr) => {
        concat!(
            "INSERT INTO sessions (tenant, session_id, cli_session_id, options, created_ms, \
             last_used_ms, message_count, error_count, spent, reported_cost_usd, in_pool, \
             created_observed_ms, used_observed_ms, acquired, owner, epoch",
            $columns,
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, ",
            $now,
            " - $12, ",
            $now,
            " - $13, $14, $15, $16",
            $values,
            ") ON CONFLICT (tenant, session_id)",
            $conflict
        )
    };
}
pub(super) use insert_record;

/// Changes all of a row but whose it is.
macro_rules! change_record {
    () => {
        " DO UPDATE SET cli_session_id = excluded.cli_session_id, \
         options = excluded.options, created_ms = excluded.created_ms, \
         last_used_ms = excluded.last_used_ms, message_count = excluded.message_count, \
         error_count = excluded.error_count, spent = excluded.spent, \
         reported_cost_usd = excluded.reported_cost_usd, in_pool = excluded.in_pool, \
         created_observed_ms = excluded.created_observed_ms, \
         used_observed_ms = excluded.used_observed_ms, acquired = excluded.acquired"
    };
}
pub(super) use change_record;

/// What is written of a record.
#[derive(Debug)]
pub(super) struct Recorded<'a> {
    key: &'a SessionKey,
    record: &'a Record,
    cli_session_id: String,
    options: String,
    spent: String,
    acquired: String,
}

impl<'a> Recorded<'a> {
    pub(super) fn of(key: &'a SessionKey, record: &'a Record) -> Result<Self, StoreError> {
        Ok(Self {
            key,
            record,
            cli_session_id: record.cli_session_id.to_string(),
            options: json(serde_json::to_string(&record.options))?,
            spent: json(serde_json::to_string(&record.spent))?,
            acquired: json(serde_json::to_string(&record.acquired))?,
        })
    }

    /// The values of `insert_record!`, in order.
    pub(super) fn values(&self) -> Vec<Value<'_>> {
        let Self { key, record, cli_session_id, options, spent, acquired } = self;
        vec![
            key.tenant.as_str().into(),
            key.session.as_str().into(),
            cli_session_id.into(),
            options.into(),
            millis(record.create_time).into(),
            millis(record.last_used_time).into(),
            signed(record.message_count).into(),
            signed(record.error_count).into(),
            spent.into(),
            record.reported_cost_usd.into(),
            i64::from(record.in_pool).into(),
            elapsed(record.age).into(),
            elapsed(record.unused_for).into(),
            acquired.into(),
        ]
    }
}

/// The record of a row, as it is at this time by the database's own clock.
pub(super) fn record(row: &impl Cells, now_ms: i64) -> Result<Record, StoreError> {
    let count = |name: &str| -> Result<u64, StoreError> {
        u64::try_from(row.number(name)?).map_err(|_| bad(name))
    };
    let since = |name: &str| -> Result<_, StoreError> {
        let passed = now_ms.saturating_sub(row.number(name)?);
        Ok(std::time::Duration::from_millis(passed.try_into().unwrap_or_default()))
    };
    Ok(Record {
        cli_session_id: conversation(row.text("cli_session_id")?)?,
        options: serde_json::from_str(row.text("options")?).map_err(|_| bad("options"))?,
        acquired: serde_json::from_str(row.text("acquired")?).map_err(|_| bad("acquired"))?,
        create_time: time(row.number("created_ms")?),
        last_used_time: time(row.number("last_used_ms")?),
        age: since("created_observed_ms")?,
        unused_for: since("used_observed_ms")?,
        message_count: count("message_count")?,
        error_count: count("error_count")?,
        spent: serde_json::from_str(row.text("spent")?).map_err(|_| bad("spent"))?,
        reported_cost_usd: row.amount("reported_cost_usd")?,
        in_pool: row.number("in_pool")? != 0,
        epoch: Epoch(row.number("epoch")?),
    })
}
