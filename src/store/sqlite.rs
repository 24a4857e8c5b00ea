//! The connection by which SQLite is written. Its statements run at once, on the thread of
//! whoever asks: that is the writer's own, which may wait for the disk. Readers, who share the
//! runtime's threads, go by sqlx, whose every statement is a message to another thread and back;
//! a commit has some eight of them.

use std::{future::ready, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, Row, Statement, types};
use sqlx::SqlStr;

use super::{
    StoreError,
    columns::bad,
    opening::{BUSY, pragmas},
    statements::{Cells, Running, Statements, Value},
};

/// Statements that are kept ready to run again.
const PREPARED: usize = 64;
/// Bytes of a statement that may be among them: those for many lines differ each time.
const PREPARED_BYTES: usize = 4 << 10;

/// A connection that writes.
#[derive(Debug)]
pub(super) struct SqliteWriter(Connection);

impl SqliteWriter {
    /// Opens a database that is there.
    pub(super) fn open(file: &Path) -> rusqlite::Result<Self> {
        // One thread uses it at a time, which its type sees to.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(BUSY)?;
        for (name, value) in pragmas() {
            connection.execute_batch(&format!("PRAGMA {name} = {value}"))?;
        }
        connection.set_prepared_statement_cache_capacity(PREPARED);
        Ok(Self(connection))
    }

    /// Runs statements that take no values and return nothing that is needed.
    pub(super) fn batch(&mut self, sql: &str) -> rusqlite::Result<()> {
        self.0.execute_batch(sql)
    }

    /// The rows of a statement.
    pub(super) fn read(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> rusqlite::Result<Vec<SqliteCells>> {
        self.with(sql, values, |statement| {
            let columns: Arc<[String]> =
                statement.column_names().into_iter().map(str::to_owned).collect();
            let mut rows = statement.raw_query();
            let mut read = Vec::new();
            while let Some(row) = rows.next()? {
                read.push(SqliteCells::of(row, &columns)?);
            }
            Ok(read)
        })
    }

    /// Runs a statement; returns how many rows it changed.
    pub(super) fn write(&mut self, sql: &str, values: &[Value<'_>]) -> rusqlite::Result<u64> {
        let changed = self.with(sql, values, |statement| statement.raw_execute())?;
        Ok(changed.try_into().unwrap_or(u64::MAX))
    }

    fn with<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        run: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if sql.len() > PREPARED_BYTES {
            let mut statement = self.0.prepare(sql)?;
            bind(&mut statement, values)?;
            return run(&mut statement);
        }
        let mut statement = self.0.prepare_cached(sql)?;
        bind(&mut statement, values)?;
        run(&mut statement)
    }
}

/// Binds values to the places that have their numbers: `$2` is the second, wherever it stands.
fn bind(statement: &mut Statement<'_>, values: &[Value<'_>]) -> rusqlite::Result<()> {
    for place in 1..=statement.parameter_count() {
        let name = statement.parameter_name(place).unwrap_or_default();
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let value = number.and_then(|number| values.get(number.checked_sub(1)?));
        let Some(value) = value else {
            return Err(rusqlite::Error::InvalidParameterName(name.to_owned()));
        };
        match *value {
            Value::Text(text) => statement.raw_bind_parameter(place, text)?,
            Value::MaybeText(text) => statement.raw_bind_parameter(place, text)?,
            Value::Number(number) => statement.raw_bind_parameter(place, number)?,
            Value::Amount(amount) => statement.raw_bind_parameter(place, amount)?,
        }
    }
    Ok(())
}

impl Statements for SqliteWriter {
    type Row = SqliteCells;

    fn run_built<'c>(&'c mut self, sql: SqlStr, values: &[Value<'_>]) -> Running<'c, u64> {
        let written = self.write(sql.as_str(), values);
        Box::pin(ready(written.map_err(StoreError::from)))
    }

    fn rows_of<'c>(
        &'c mut self,
        sql: SqlStr,
        values: &[Value<'_>],
    ) -> Running<'c, Vec<SqliteCells>> {
        let read = self.read(sql.as_str(), values);
        Box::pin(ready(read.map_err(StoreError::from)))
    }
}

/// A row that was read.
#[derive(Debug)]
pub(super) struct SqliteCells {
    columns: Arc<[String]>,
    cells: Vec<types::Value>,
}

impl SqliteCells {
    fn of(row: &Row<'_>, columns: &Arc<[String]>) -> rusqlite::Result<Self> {
        let cells = (0..columns.len()).map(|index| row.get(index)).collect::<Result<_, _>>()?;
        Ok(Self { columns: Arc::clone(columns), cells })
    }

    fn cell(&self, column: &str) -> Result<&types::Value, StoreError> {
        let index = self.columns.iter().position(|name| name == column);
        index.and_then(|index| self.cells.get(index)).ok_or_else(|| bad(column))
    }
}

impl Cells for SqliteCells {
    fn text(&self, column: &str) -> Result<&str, StoreError> {
        self.maybe_text(column)?.ok_or_else(|| bad(column))
    }

    fn maybe_text(&self, column: &str) -> Result<Option<&str>, StoreError> {
        match self.cell(column)? {
            types::Value::Text(text) => Ok(Some(text)),
            types::Value::Null => Ok(None),
            types::Value::Integer(_) | types::Value::Real(_) | types::Value::Blob(_) => {
                Err(bad(column))
            }
        }
    }

    fn number(&self, column: &str) -> Result<i64, StoreError> {
        self.maybe_number(column)?.ok_or_else(|| bad(column))
    }

    fn maybe_number(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.cell(column)? {
            types::Value::Integer(number) => Ok(Some(*number)),
            types::Value::Null => Ok(None),
            types::Value::Real(_) | types::Value::Text(_) | types::Value::Blob(_) => {
                Err(bad(column))
            }
        }
    }

    fn amount(&self, column: &str) -> Result<f64, StoreError> {
        match self.cell(column)? {
            types::Value::Real(amount) => Ok(*amount),
            types::Value::Integer(_)
            | types::Value::Null
            | types::Value::Text(_)
            | types::Value::Blob(_) => Err(bad(column)),
        }
    }

    fn is_true(&self, column: &str) -> Result<bool, StoreError> {
        self.number(column).map(|number| number != 0)
    }
}
