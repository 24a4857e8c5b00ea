//! What the SQL of this module is run by, whichever database it is: statements with their
//! values, and rows that are read by the names of their columns. The text of a statement, and
//! what its columns mean, is there once for both databases; what differs between them is how a
//! transaction begins and ends, and whose a session's row is.

use std::{future::Future, pin::Pin};

use sqlx::{
    Row as _, SqlSafeStr as _, SqlStr, SqliteConnection, postgres::PgRow, sqlite::SqliteRow,
};

use super::StoreError;

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A text, or none.
    MaybeText(Option<&'a str>),
    /// A number, also one that stands for yes or no.
    Number(i64),
    /// A number with a fraction.
    Amount(f64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<f64> for Value<'_> {
    fn from(amount: f64) -> Self {
        Self::Amount(amount)
    }
}

/// Binds the values of a statement, in order.
macro_rules! bound {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match *value {
                $crate::store::statements::Value::Text(text) => query.bind(text),
                $crate::store::statements::Value::MaybeText(text) => query.bind(text),
                $crate::store::statements::Value::Number(number) => query.bind(number),
                $crate::store::statements::Value::Amount(amount) => query.bind(amount),
            };
        }
        query
    }};
}
pub(super) use bound;

/// A row, read by the names of its columns.
pub(super) trait Cells {
    /// A text.
    fn text(&self, column: &str) -> Result<&str, StoreError>;
    /// A text, or none.
    fn maybe_text(&self, column: &str) -> Result<Option<&str>, StoreError>;
    /// A number.
    fn number(&self, column: &str) -> Result<i64, StoreError>;
    /// A number, or none.
    fn maybe_number(&self, column: &str) -> Result<Option<i64>, StoreError>;
    /// A number with a fraction.
    fn amount(&self, column: &str) -> Result<f64, StoreError>;
    /// Yes or no, where a database has that.
    fn is_true(&self, column: &str) -> Result<bool, StoreError>;
}

macro_rules! cells {
    ($row:ty) => {
        impl Cells for $row {
            fn text(&self, column: &str) -> Result<&str, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn maybe_text(&self, column: &str) -> Result<Option<&str>, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn number(&self, column: &str) -> Result<i64, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn maybe_number(&self, column: &str) -> Result<Option<i64>, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn amount(&self, column: &str) -> Result<f64, StoreError> {
                Ok(self.try_get(column)?)
            }

            fn is_true(&self, column: &str) -> Result<bool, StoreError> {
                Ok(self.try_get(column)?)
            }
        }
    };
}
cells!(SqliteRow);
cells!(PgRow);

/// What comes of a statement. Its values are bound when it is made: it borrows none of them.
pub(super) type Running<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// What statements are run by.
pub(super) trait Statements: Send {
    /// What is read.
    type Row: Cells + Send;

    /// Runs a statement that returns nothing. Returns how many rows it changed.
    fn run_built<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, u64>;

    /// Runs a statement that returns rows.
    fn rows_of<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, Vec<Self::Row>>;

    /// The same of a statement that is as it stands here.
    fn run<'c>(&'c mut self, sql: &'static str, values: &[Value<'_>]) -> Running<'c, u64> {
        self.run_built(sql.into_sql_str(), values)
    }

    /// The same of a statement that is as it stands here.
    fn rows<'c>(
        &'c mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Running<'c, Vec<Self::Row>> {
        self.rows_of(sql.into_sql_str(), values)
    }

    /// The first row, if there is one.
    fn row<'c>(
        &'c mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Running<'c, Option<Self::Row>> {
        let rows = self.rows(sql, values);
        Box::pin(async move { Ok(rows.await?.into_iter().next()) })
    }
}

impl Statements for SqliteConnection {
    type Row = SqliteRow;

    fn run_built<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, u64> {
        let query = bound!(sqlx::query::<sqlx::Sqlite>(sql), values);
        Box::pin(async move { Ok(query.execute(self).await?.rows_affected()) })
    }

    fn rows_of<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, Vec<SqliteRow>> {
        let query = bound!(sqlx::query::<sqlx::Sqlite>(sql), values);
        Box::pin(async move { Ok(query.fetch_all(self).await?) })
    }
}
