//! The database's clock, which ages and leases are by.

use super::transaction::Transaction;
use crate::store::{
    StoreError,
    statements::{Cells as _, Statements as _},
};

/// The time in milliseconds, in SQL. Not the time at which the transaction began.
macro_rules! now_ms {
    () => {
        "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    };
}
pub(super) use now_ms;

/// The time in milliseconds.
pub async fn now(transaction: &mut Transaction) -> Result<i64, StoreError> {
    let now = transaction.row(concat!("SELECT ", now_ms!(), " AS now_ms"), &[]).await?;
    now.map_or(Ok(0), |row| row.number("now_ms"))
}
