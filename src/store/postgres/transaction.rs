//! Transactions on the pooled connections: the only place where they begin and end.
//!
//! - Whatever is asked of the database is asked inside a transaction of its own, and no statement
//!   is prepared under a name. PgBouncer in transaction mode gives a client the same server from
//!   BEGIN to COMMIT and at no other time: an unnamed statement is parsed and bound in two steps,
//!   which only a transaction keeps together, and one with a name would be left on the server
//!   for the next client, who numbers its own from one on too. For the same reason limits are
//!   set by SET LOCAL, which PgBouncer lets pass and which ends with the transaction.
//! - A connection goes back to the pool only after an answer to COMMIT or ROLLBACK. Whatever goes
//!   wrong before, a future that is dropped included, closes it.
//! - The server waits for a client within a transaction no longer than for a statement, so that
//!   one that was lost holds its locks for a moment only. The client waits somewhat longer than
//!   the server would: then nobody is there.
//!
//! An error of [`Transaction::commit`] does not say whether it took effect (`slots`).

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, SqlStr, pool::PoolConnection, postgres::PgRow,
};
use tokio::time::timeout;

use crate::store::{
    StoreError,
    statements::{Running, Statements, Value, bound},
};

/// What an answer may take on its way, beyond what the server may take for it.
const ON_THE_WAY: Duration = Duration::from_secs(2);

/// A database that transactions are begun in.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    statement_timeout: Duration,
}

impl Database {
    pub fn new(pool: PgPool, statement_timeout: Duration) -> Self {
        Self { pool, statement_timeout }
    }

    /// How long a statement may take, by the server's clock.
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// Begins a transaction that reads, and sees one state of everything. It might write: a
    /// server that has become a standby, and may be behind, refuses it.
    pub async fn read(&self) -> Result<Transaction, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE", "").await
    }

    /// Begins a transaction that writes.
    pub async fn write(&self) -> Result<Transaction, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", "").await
    }

    /// The same, whose first statement is `first`: it goes with the others to the server and
    /// costs no way of its own.
    pub async fn write_with(&self, first: &str) -> Result<Transaction, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", first).await
    }

    async fn begin(&self, begin: &str, first: &str) -> Result<Transaction, StoreError> {
        let limit_ms = self.statement_timeout.as_millis();
        let begin = format!(
            "{begin}; SET LOCAL statement_timeout = {limit_ms}; \
             SET LOCAL idle_in_transaction_session_timeout = {limit_ms}; {first}"
        );
        let connection = self.pool.acquire().await.map_err(|error| match error {
            sqlx::Error::PoolTimedOut => StoreError::unavailable(
                "no connection to the database within store.acquire_timeout",
            ),
            error => error.into(),
        })?;
        let patience = self.statement_timeout + ON_THE_WAY;
        let mut transaction = Transaction { connection, patience, is_settled: false };
        transaction.simple(begin).await?;
        Ok(transaction)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction under way.
#[derive(Debug)]
pub struct Transaction {
    connection: PoolConnection<Postgres>,
    patience: Duration,
    is_settled: bool,
}

impl Transaction {
    /// By the simple protocol, which takes several statements at once and no values.
    async fn simple(&mut self, sql: impl Into<String>) -> Result<(), StoreError> {
        let sql = AssertSqlSafe(sql.into());
        let done = sqlx::raw_sql(sql).execute(&mut *self.connection);
        timeout(self.patience, done).await.map_err(no_answer)??;
        Ok(())
    }

    /// Waits longer from here on, for what takes long.
    pub async fn be_patient(&mut self, patience: Duration) -> Result<(), StoreError> {
        self.patience = patience + ON_THE_WAY;
        self.simple(format!("SET LOCAL statement_timeout = {}", patience.as_millis())).await
    }

    /// Runs the statements of a file.
    pub async fn run_file(&mut self, sql: SqlStr) -> Result<(), StoreError> {
        let done = sqlx::raw_sql(sql).execute(&mut *self.connection);
        timeout(self.patience, done).await.map_err(no_answer)??;
        Ok(())
    }

    /// Makes durable what was written. An error says nothing about whether that took effect.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.simple("COMMIT").await?;
        self.is_settled = true;
        Ok(())
    }

    /// Takes back what was written, and keeps the connection. Where it fails the connection
    /// goes, and the server takes it back.
    pub async fn roll_back(mut self) {
        self.is_settled = self.simple("ROLLBACK").await.is_ok();
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_settled {
            self.connection.close_on_drop();
        }
    }
}

fn no_answer(_: tokio::time::error::Elapsed) -> StoreError {
    StoreError::unavailable("the database does not answer")
}

impl Statements for Transaction {
    type Row = PgRow;

    fn run_built<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, u64> {
        #[cfg(feature = "test-tools")]
        let sql = super::guards::apply(sql);
        let query = bound!(sqlx::query::<Postgres>(sql).persistent(false), values);
        Box::pin(async move {
            let connection: &mut PgConnection = &mut self.connection;
            let done = timeout(self.patience, query.execute(connection)).await;
            Ok(done.map_err(no_answer)??.rows_affected())
        })
    }

    fn rows_of<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, Vec<PgRow>> {
        #[cfg(feature = "test-tools")]
        let sql = super::guards::apply(sql);
        let query = bound!(sqlx::query::<Postgres>(sql).persistent(false), values);
        Box::pin(async move {
            let connection: &mut PgConnection = &mut self.connection;
            let done = timeout(self.patience, query.fetch_all(connection)).await;
            Ok(done.map_err(no_answer)??)
        })
    }
}
