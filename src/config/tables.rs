//! Keys whose values are lists of tables (`[[spare]]`, `[[policy.rule]]`, …): each table is read by
//! itself, and everything that is wrong is told with the number of its table.

use serde::{Serialize, de::DeserializeOwned};
use toml::Value;

/// Problems that are told of at most.
const MOST_TOLD: usize = 10;

/// Reads at most `most` tables. `check` says what a table's own form cannot.
pub(super) fn read<T: DeserializeOwned>(
    value: &Value,
    (name, most): (&str, usize),
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, String> {
    let tables = value.as_array().ok_or_else(|| format!("must be a list of tables: [[{name}]]"))?;
    if tables.len() > most {
        return Err(format!("must be at most {most} tables, not {}", tables.len()));
    }
    let one = |table: &Value| {
        let read: Result<T, toml::de::Error> = table.clone().try_into();
        let read = read.map_err(|error| error.message().trim().to_owned())?;
        check(&read).map(|()| read)
    };
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for (index, table) in tables.iter().enumerate() {
        match one(table) {
            Ok(read) => all.push(read),
            Err(problem) => problems.push(format!("table {}: {problem}", index + 1)),
        }
    }
    if let Some(more) = problems.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        problems.truncate(MOST_TOLD);
        problems.push(format!("and {more} more"));
    }
    if problems.is_empty() { Ok(all) } else { Err(problems.join("; ")) }
}

/// All tables for a reader.
pub(super) fn show<T: Serialize>(tables: &[T]) -> Value {
    // Everything in them has a form in TOML.
    let shown = |table: &T| Value::try_from(table).unwrap_or(Value::Boolean(false));
    Value::Array(tables.iter().map(shown).collect())
}
