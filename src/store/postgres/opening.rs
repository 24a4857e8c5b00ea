//! How a PostgreSQL database is opened.

use std::{path::PathBuf, str::FromStr as _, time::Duration};

use sqlx::{
    ConnectOptions as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tracing::warn;

use super::transaction::Database;
use crate::{
    domain::redacted::Redacted,
    store::{
        StoreError,
        statements::{Cells as _, Statements as _},
    },
};

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct PostgresOpening {
    /// The connection string, which may hold a password.
    pub url: Redacted<String>,
    /// Connections, that of the heartbeat included; at least two.
    pub max_connections: u32,
    /// How long a connection is waited for.
    pub acquire_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// For how long orders are tried.
    pub commit_timeout: Duration,
    /// This node's name.
    pub node: String,
    /// Where it notes which incarnation it is, if anywhere: a file of a folder that nobody else uses,
    /// in which everything that earlier lives left has been ended.
    pub last_life: Option<PathBuf>,
    /// Where other nodes reach it; empty where they do not.
    pub address: String,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Age of the heartbeat at which the node is dead.
    pub lease: Duration,
}

/// Connections for each purpose: none of them can take those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub writers: usize,
    pub readers: usize,
}

impl PostgresOpening {
    /// A quarter reads, the rest writes, and one is the heartbeat's.
    pub fn shares(&self) -> Shares {
        let all = (self.max_connections.max(2) - 1) as usize;
        let readers = (all / 4).max(1);
        Shares { writers: all.saturating_sub(readers).max(1), readers }
    }

    /// For all but heartbeats.
    pub fn database(&self) -> Result<Database, StoreError> {
        let Shares { writers, readers } = self.shares();
        let connections = u32::try_from(writers + readers).unwrap_or(u32::MAX);
        self.pool(connections.min(self.max_connections.max(2) - 1), self.acquire_timeout)
    }

    /// For heartbeats alone: one that waits for a connection longer than its lease is late.
    pub fn heartbeats(&self) -> Result<Database, StoreError> {
        self.pool(1, self.acquire_timeout.min(self.lease.max(Duration::from_secs(1))))
    }

    fn pool(&self, connections: u32, wait: Duration) -> Result<Database, StoreError> {
        let pool: PgPool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(wait)
            .connect_lazy_with(self.options()?);
        Ok(Database::new(pool, self.statement_timeout))
    }

    /// The error of a connection would not say which file is meant.
    fn check_authorities(&self) -> Result<(), StoreError> {
        let keys = ["sslrootcert=", "ssl-root-cert=", "ssl-ca="];
        let settings = self.url.0.split_once('?').map_or("", |(_, settings)| settings);
        let file =
            settings.split('&').find_map(|it| keys.iter().find_map(|key| it.strip_prefix(key)));
        // What is written with escapes is left to whoever reads it.
        let Some(file) = file.filter(|file| !file.contains('%')) else { return Ok(()) };
        std::fs::read(file).map(drop).map_err(|error| {
            StoreError::Corrupt(format!("sslrootcert: {file} cannot be read: {error}"))
        })
    }

    fn options(&self) -> Result<PgConnectOptions, StoreError> {
        self.check_authorities()?;
        // What is wrong with it is told without it.
        let options = PgConnectOptions::from_str(&self.url.0).map_err(|_| {
            StoreError::Corrupt("store.url is no connection string of PostgreSQL".to_owned())
        })?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("session-pool"),
        };
        // PgBouncer refuses this one, which only matters to numbers told as text.
        let options = options.extra_float_digits(None);
        // Nothing is ever prepared under a name (`transaction`), so there is nothing to keep.
        Ok(options.statement_cache_capacity(0).disable_statement_logging())
    }
}

/// What was committed may be lost with the server's power where its operator has said so.
pub async fn warn_of_loss(database: &Database) -> Result<(), StoreError> {
    let mut transaction = database.read().await?;
    let settings = "SELECT current_setting('synchronous_commit') AS waits, \
                    current_setting('fsync') AS syncs";
    let row = transaction.row(settings, &[]).await?;
    transaction.commit().await?;
    let Some(row) = row else { return Ok(()) };
    let (synchronous_commit, fsync) = (row.text("waits")?, row.text("syncs")?);
    if synchronous_commit == "off" || fsync == "off" {
        warn!(synchronous_commit, fsync, "store_commits_may_be_lost");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(url: &str, max_connections: u32) -> PostgresOpening {
        let second = Duration::from_secs(1);
        PostgresOpening {
            url: Redacted(url.to_owned()),
            max_connections,
            acquire_timeout: second,
            statement_timeout: second,
            commit_timeout: second,
            node: "a".to_owned(),
            last_life: None,
            address: String::new(),
            heartbeat: second,
            lease: 4 * second,
        }
    }

    #[test]
    fn no_purpose_is_left_without_a_connection() {
        for (connections, writers, readers) in [(2, 1, 1), (3, 1, 1), (4, 2, 1), (10, 7, 2)] {
            let shares = opening("postgres://h/d", connections).shares();
            assert_eq!(shares, Shares { writers, readers }, "of {connections}");
        }
    }

    #[test]
    fn a_password_is_in_no_error_and_no_log() {
        let opening = opening("postgres://me:sesame@h:notaport/d", 4);
        let error = opening.options().expect_err("no port").to_string();
        assert!(error.contains("store.url") && !error.contains("sesame"), "{error}");
        assert!(!format!("{opening:?}").contains("sesame"));
    }
}
