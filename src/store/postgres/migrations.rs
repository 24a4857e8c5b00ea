//! Brings a database up to date. All of it is one transaction, under a lock that ends with it:
//! of nodes that start at once one does it and the others find it done, also through PgBouncer
//! in transaction mode, where a lock of the session would stay with a server that another client
//! has next. (That, and the named statements of sqlx's own runner, are why it is not used.)

use std::time::Duration;

use sqlx::migrate::Migrator;

use super::transaction::{Database, Transaction};
use crate::store::{
    StoreError,
    statements::{Cells as _, Statements as _},
};

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// The oldest server that is tried, as it numbers itself.
const OLDEST: i64 = 140_000;

/// How long another node may take for the same, and each file of it here.
const LONGEST: Duration = Duration::from_secs(600);

/// The number of the lock: any that others do not use.
const LOCK: i64 = 0x5e55_1011_9001;

/// Brings the database up to date; refuses one that is newer than this version.
pub async fn run(database: &Database) -> Result<(), StoreError> {
    let mut transaction = database.write().await?;
    check_server(&mut transaction).await?;
    // Whoever waits for it waits for work that takes longer than a statement may.
    transaction.be_patient(LONGEST).await?;
    transaction.rows("SELECT pg_advisory_xact_lock($1)::TEXT", &[LOCK.into()]).await?;
    transaction
        .run(
            "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, \
             description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), \
             success BOOLEAN NOT NULL, checksum TEXT NOT NULL, execution_time BIGINT NOT NULL)",
            &[],
        )
        .await?;
    let rows = "SELECT version, checksum FROM _sqlx_migrations ORDER BY version";
    let mut applied = Vec::new();
    for row in transaction.rows(rows, &[]).await? {
        applied.push((row.number("version")?, row.text("checksum")?.to_owned()));
    }
    if let Some((version, _)) = applied.iter().find(|(it, _)| !MIGRATIONS.version_exists(*it)) {
        return Err(StoreError::newer(*version));
    }
    for migration in MIGRATIONS.iter() {
        let checksum: String =
            migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        match applied.iter().find(|(version, _)| *version == migration.version) {
            Some((_, found)) if *found == checksum => continue,
            Some((version, _)) => {
                return Err(StoreError::Corrupt(format!(
                    "migration {version} of the database is not the one that is known here"
                )));
            }
            None => transaction.run_file(migration.sql.clone()).await?,
        }
        transaction
            .run(
                "INSERT INTO _sqlx_migrations \
                 (version, description, success, checksum, execution_time) \
                 VALUES ($1, $2, TRUE, $3, 0)",
                &[migration.version.into(), (&*migration.description).into(), (&checksum).into()],
            )
            .await?;
    }
    transaction.commit().await
}

/// Refuses a server that is too old, or a database that does not take every text.
async fn check_server(transaction: &mut Transaction) -> Result<(), StoreError> {
    let server = transaction.row(
        "SELECT CAST(current_setting('server_version_num') AS BIGINT) AS number, \
         current_setting('server_version') AS version, \
         current_setting('server_encoding') AS encoding",
        &[],
    );
    let Some(server) = server.await? else { return Ok(()) };
    check(server.number("number")?, server.text("version")?, server.text("encoding")?)
}

fn check(number: i64, version: &str, encoding: &str) -> Result<(), StoreError> {
    if number < OLDEST {
        return Err(StoreError::Corrupt(format!(
            "the server is PostgreSQL {version}: 14 or newer is needed"
        )));
    }
    if encoding != "UTF8" {
        return Err(StoreError::Corrupt(format!(
            "the encoding of the database is {encoding}: it has to be UTF8"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_refused_by_name() {
        let error = check(130_011, "13.11 (Debian 13.11-0)", "UTF8").expect_err("too old");
        assert!(error.to_string().contains("13.11") && error.to_string().contains("14 or newer"));
        check(140_000, "14.0", "UTF8").expect("the oldest");
        let error = check(150_003, "15.3", "SQL_ASCII").expect_err("no texts");
        assert!(error.to_string().contains("SQL_ASCII"), "{error}");
    }
}
