//! Guards that a test takes away, to show that whoever watches several nodes sees it. A guard is
//! a piece of a statement, or of the heartbeat; here is which piece, and nowhere else. Built with
//! the feature `test-tools` alone: no service that is shipped can be told to do without.
//!
//! The variable is read once. Without it every statement is as it stands.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

/// Names the guard that is missing.
const VARIABLE: &str = "SESSION_POOL_TEST_WITHOUT";

/// What can be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The lock of a session's row under a commit: it is only looked at.
    RowLock,
    /// The comparison of incarnations: the node's name and the epoch are enough.
    Incarnation,
    /// The database's clock, by which nodes die: it is the node's own.
    DatabaseClock,
    /// The end of what a node has, by itself, when it could not renew its lease.
    SelfFencing,
    /// The process that ends what a node has when the node itself is stopped.
    LeaseWatch,
    /// The look for a turn that was told before.
    StoredTurn,
}

const GUARDS: [(&str, Guard); 6] = [
    ("row_lock", Guard::RowLock),
    ("incarnation", Guard::Incarnation),
    ("database_clock", Guard::DatabaseClock),
    ("self_fencing", Guard::SelfFencing),
    ("lease_watch", Guard::LeaseWatch),
    ("stored_turn", Guard::StoredTurn),
];

fn missing() -> Option<Guard> {
    static MISSING: OnceLock<Option<Guard>> = OnceLock::new();
    *MISSING.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok()?;
        let known = GUARDS.iter().find(|(known, _)| *known == name);
        // A name that is misspelt would show that all is well.
        Some(known.unwrap_or_else(|| panic!("{VARIABLE}: there is no guard {name:?}")).1)
    })
}

/// Whether a guard is missing.
pub fn is_missing(guard: Guard) -> bool {
    missing() == Some(guard)
}

/// A statement without the guard that is missing.
pub fn apply(sql: SqlStr) -> SqlStr {
    match missing().and_then(|guard| without(guard, sql.as_str())) {
        Some(weaker) => AssertSqlSafe(weaker).into_sql_str(),
        None => sql,
    }
}

/// The statement without this guard; `None` if it does not have it.
fn without(guard: Guard, sql: &str) -> Option<String> {
    const HOLD: &str = "UPDATE sessions SET epoch = epoch WHERE";
    let replaced = |from: &str, to: &str| sql.contains(from).then(|| sql.replace(from, to));
    match guard {
        Guard::RowLock => {
            let held = sql.strip_prefix(HOLD)?.strip_suffix("RETURNING epoch")?;
            Some(format!("SELECT epoch FROM sessions WHERE{held}"))
        }
        Guard::Incarnation => {
            let held = sql.strip_prefix(HOLD)?;
            let (held, _) = held.split_once("AND owner = $4")?;
            Some(format!("{HOLD}{held}AND $4::TEXT <> '' AND epoch = $5 RETURNING epoch"))
        }
        Guard::DatabaseClock => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = format!("> to_timestamp({}.{:06})", now.as_secs(), now.subsec_micros());
            replaced("> clock_timestamp()", &now)
        }
        Guard::SelfFencing | Guard::LeaseWatch => None,
        Guard::StoredTurn => {
            let asks = sql.starts_with("SELECT client_id") && sql.contains(" FROM turns ");
            asks.then(|| format!("{sql} AND FALSE"))
        }
    }
}
