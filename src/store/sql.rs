//! The store in a SQL database: SQLite, embedded. Written by one task (`writer`), read
//! over a few connections beside it.
//!
//! `synchronous = FULL`: what was committed outlives the machine's power, not only the
//! service. WAL: readers do not wait for the writer.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Row as _, SqlitePool,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};

use super::{
    Commit, KeptTurn, Line, Pending, Record, Store, StoreError, turns,
    writer::{Order, Writer},
};
use crate::{
    counters::Totals,
    ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
    tasks::Tasks,
};

/// Connections that read. Each has a thread of its own while it is busy.
const READERS: u32 = 2;
/// How long the database may be busy with another writer, of which there should be none.
const BUSY: Duration = Duration::from_secs(5);

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

/// A database in a file.
#[derive(Debug)]
pub struct SqlStore {
    readers: SqlitePool,
    writer: Writer,
}

impl SqlStore {
    /// Opens the database in this file, which is made if it is not there and brought up
    /// to date if it is older. Its writer is among `tasks`.
    pub async fn open(file: &Path, tasks: &Tasks) -> Result<Self, StoreError> {
        make_private(file).map_err(|error| StoreError(format!("{}: {error}", file.display())))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            // What is forgotten is overwritten, not only taken out of the index.
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY);
        let writing =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("src/store/migrations")
            .run(&writing)
            .await
            .map_err(|error| StoreError(error.to_string()))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_lazy_with(options.read_only(true));
        Ok(Self { readers, writer: Writer::start(writing, tasks) })
    }
}

/// Prompts and answers are in it: nobody else may read it.
fn make_private(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    Ok(())
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.try_into().unwrap_or_default())
}

/// Numbers in the database are signed.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn bad(what: &str) -> StoreError {
    StoreError(format!("the database holds a bad {what}"))
}

fn conversation(text: &str) -> Result<CliSessionId, StoreError> {
    CliSessionId::parse(text).ok_or_else(|| bad("cli_session_id"))
}

fn key(row: &SqliteRow) -> Result<SessionKey, StoreError> {
    let tenant = TenantId::parse(row.try_get("tenant")?).map_err(|_| bad("tenant"))?;
    let session = SessionId::parse(row.try_get("session_id")?).map_err(|_| bad("session_id"))?;
    Ok(SessionKey::new(tenant, session))
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let count = |name: &str| -> Result<u64, StoreError> {
        u64::try_from(row.try_get::<i64, _>(name)?).map_err(|_| bad(name))
    };
    let options: &str = row.try_get("options")?;
    let spent: &str = row.try_get("spent")?;
    Ok(Record {
        cli_session_id: conversation(row.try_get("cli_session_id")?)?,
        options: serde_json::from_str(options).map_err(|_| bad("options"))?,
        create_time: time(row.try_get("created_ms")?),
        last_used_time: time(row.try_get("last_used_ms")?),
        message_count: count("message_count")?,
        error_count: count("error_count")?,
        spent: serde_json::from_str(spent).map_err(|_| bad("spent"))?,
        reported_cost_usd: row.try_get("reported_cost_usd")?,
        in_pool: row.try_get::<i64, _>("in_pool")? != 0,
    })
}

impl Store for SqlStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        Box::pin(async move {
            let row = sqlx::query("SELECT * FROM sessions WHERE tenant = $1 AND session_id = $2")
                .bind(key.tenant.as_str())
                .bind(key.session.as_str())
                .fetch_optional(&self.readers)
                .await?;
            row.as_ref().map(record).transpose()
        })
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        Box::pin(
            async move { self.writer.ask(|reply| Order::Commit(Box::new(commit), reply)).await },
        )
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        id: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        Box::pin(async move {
            let owner: Option<String> = sqlx::query_scalar(
                "SELECT session_id FROM conversations \
                 WHERE tenant = $1 AND cli_session_id = $2 AND session_id <> $3 LIMIT 1",
            )
            .bind(key.tenant.as_str())
            .bind(id.to_string())
            .bind(key.session.as_str())
            .fetch_optional(&self.readers)
            .await?;
            owner.map(|id| SessionId::parse(&id).map_err(|_| bad("session_id"))).transpose()
        })
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        Box::pin(turns::find(&self.readers, key, turn))
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        let (tenant, totals) = (tenant.clone(), Box::new(totals));
        Box::pin(async move { self.writer.ask(|reply| Order::Count(tenant, totals, reply)).await })
    }

    fn transcript<'a>(&'a self, tenant: &'a TenantId, id: CliSessionId) -> Pending<'a, Vec<Line>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT subpath, uuid, line FROM entries \
                 WHERE tenant = $1 AND cli_session_id = $2 ORDER BY seq",
            )
            .bind(tenant.as_str())
            .bind(id.to_string())
            .fetch_all(&self.readers)
            .await?;
            let line = |row: SqliteRow| {
                Ok(Line {
                    conversation: id,
                    subpath: row.try_get::<&str, _>("subpath")?.into(),
                    uuid: row.try_get("uuid")?,
                    json: row.try_get("line")?,
                })
            };
            rows.into_iter().map(line).collect()
        })
    }

    fn forget<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Vec<CliSessionId>>> {
        Box::pin(async move {
            let gone = self.writer.ask(|reply| Order::Forget(key.clone(), reply)).await?;
            gone.map(|gone| gone.iter().map(|id| conversation(id)).collect()).transpose()
        })
    }

    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT * FROM sessions WHERE tenant = $1 AND session_id > $2 AND in_pool = 1 \
                 ORDER BY session_id LIMIT $3",
            )
            .bind(tenant.as_str())
            .bind(after.map_or("", SessionId::as_str))
            .bind(signed(limit as u64))
            .fetch_all(&self.readers)
            .await?;
            rows.iter()
                .map(|row| {
                    let id = SessionId::parse(row.try_get("session_id")?);
                    Ok((id.map_err(|_| bad("session_id"))?, record(row)?))
                })
                .collect()
        })
    }

    fn unused_since(&self, time: SystemTime, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT tenant, session_id FROM sessions WHERE last_used_ms < $1 \
                 ORDER BY last_used_ms LIMIT $2",
            )
            .bind(millis(time))
            .bind(signed(limit as u64))
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(key).collect()
        })
    }

    fn in_pool(&self) -> Pending<'_, Vec<(SessionKey, SystemTime)>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT tenant, session_id, last_used_ms FROM sessions WHERE in_pool = 1",
            )
            .fetch_all(&self.readers)
            .await?;
            rows.iter().map(|row| Ok((key(row)?, time(row.try_get("last_used_ms")?)))).collect()
        })
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, ()> {
        Box::pin(async move { self.writer.ask(|reply| Order::LeavePool(key.clone(), reply)).await })
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        Box::pin(async move {
            let rows =
                sqlx::query("SELECT tenant, counters FROM totals").fetch_all(&self.readers).await?;
            rows.iter()
                .map(|row| {
                    let tenant = TenantId::parse(row.try_get("tenant")?).map_err(|_| bad("tenant"));
                    let totals = serde_json::from_str(row.try_get("counters")?);
                    Ok((tenant?, totals.map_err(|_| bad("counters"))?))
                })
                .collect()
        })
    }
}
