//! The store in a SQL database: SQLite, embedded. Written by one task (`writer`), read
//! over a few connections beside it.
//!
//! `synchronous = FULL`: what was committed outlives the machine's power, not only the
//! service. WAL: readers do not wait for the writer.

use std::{fs, path::Path, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, Row as _, SqliteConnection, migrate::MigrateError,
    sqlite::SqliteRow,
};
use tokio::{sync::watch, time::Instant};
use tracing::{error_span, warn};

use super::{
    Clock, Commit, Epoch, Idle, Import, KeptTurn, Pending, Piece, Place, Record, Store, StoreError,
    StoreStatus,
    columns::{bad, conversation, key, signed, tenant, time},
    connection::{self, Database},
    counts, idle,
    order::{Whose, WriteOp},
    orders::elapsed,
    pieces,
    readers::Readers,
    status::Publisher,
    turns,
    writer::Writer,
};
use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
    tasks::Tasks,
};

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Whether a file is made where there is none, or only an empty one.
    pub create: bool,
    /// For how long orders are tried while somebody else has the database.
    pub commit_timeout: Duration,
}

impl Default for Opening {
    fn default() -> Self {
        Self { create: true, commit_timeout: Duration::from_secs(45) }
    }
}

/// A database in a file.
#[derive(Debug)]
pub struct SqlStore {
    readers: Arc<Readers>,
    writer: Arc<Writer>,
    clock: Arc<Clock>,
    status: watch::Sender<StoreStatus>,
}

impl SqlStore {
    /// Opens the database in this file, and brings it up to date if it is older. Its writer
    /// is among `tasks`.
    pub async fn open(file: &Path, opening: Opening, tasks: &Tasks) -> Result<Self, StoreError> {
        let failed = |error| StoreError::unavailable(format!("{}: {error}", file.display()));
        if opening.create {
            make_private(file).map_err(failed)?;
        } else if fs::metadata(file).map_err(failed)?.len() == 0 {
            return Err(StoreError::Corrupt(format!("{}: is empty", file.display())));
        }
        let options = connection::options(file);
        let mut migrating = options.connect().await?;
        migrate(&mut migrating).await?;
        let observed_ms: i64 = sqlx::query_scalar("SELECT observed_ms FROM store_state")
            .fetch_one(&mut migrating)
            .await?;
        migrating.close().await?;
        let clock = Arc::new(Clock::from(observed_ms));
        let status = watch::Sender::default();
        let (database, publisher) =
            (Database::of(file).map_err(failed)?, Publisher::new(status.clone()));
        let limit = opening.commit_timeout;
        let readers = Arc::new(Readers::new(options));
        let (read, time) = (Arc::clone(&readers), Arc::clone(&clock));
        let writer = Arc::new(Writer::start(database, read, time, publisher, limit, tasks));
        let (read, write) = (Arc::clone(&readers), Arc::clone(&writer));
        let stopping = tasks.stopping().clone();
        tasks.spawn(error_span!("store"), async move {
            let work =
                async { tokio::join!(discard_unfinished(&read, &write), read.close_unused()) };
            tokio::select! {
                ((), ()) = work => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(Self { readers, writer, clock, status })
    }

    fn record(&self, row: &SqliteRow) -> Result<Record, StoreError> {
        let count = |name: &str| -> Result<u64, StoreError> {
            u64::try_from(row.try_get::<i64, _>(name)?).map_err(|_| bad(name))
        };
        let options: &str = row.try_get("options")?;
        let acquired: &str = row.try_get("acquired")?;
        let spent: &str = row.try_get("spent")?;
        Ok(Record {
            cli_session_id: conversation(row.try_get("cli_session_id")?)?,
            options: serde_json::from_str(options).map_err(|_| bad("options"))?,
            acquired: serde_json::from_str(acquired).map_err(|_| bad("acquired"))?,
            create_time: time(row.try_get("created_ms")?),
            last_used_time: time(row.try_get("last_used_ms")?),
            age: self.clock.since(row.try_get("created_observed_ms")?),
            unused_for: self.clock.since(row.try_get("used_observed_ms")?),
            message_count: count("message_count")?,
            error_count: count("error_count")?,
            spent: serde_json::from_str(spent).map_err(|_| bad("spent"))?,
            reported_cost_usd: row.try_get("reported_cost_usd")?,
            in_pool: row.try_get::<i64, _>("in_pool")? != 0,
        })
    }
}

/// Removes what was taken up of transcripts when an earlier life of the service ended.
async fn discard_unfinished(readers: &Readers, writer: &Writer) {
    let mut after = (String::new(), String::new());
    loop {
        let discarded = match pieces::next_unfinished(readers, after).await {
            Ok(None) => return,
            Ok(Some((tenant, id))) => {
                after = (tenant.to_string(), id.to_string());
                discard(writer, &tenant, id, Whose::Anybody).await
            }
            Err(error) => {
                after = Default::default();
                Err(error)
            }
        };
        if let Err(error) = discarded {
            // Nobody sees what is left, and the next start tries again.
            warn!(%error, "store_not_cleaned_up");
            return;
        }
    }
}

/// Removes what was taken up of a transcript, piece by piece.
async fn discard(
    writer: &Writer,
    tenant: &TenantId,
    id: CliSessionId,
    whose: Whose,
) -> Result<(), StoreError> {
    while writer.ask(|reply| WriteOp::Discard(tenant.clone(), id, whose, reply)).await? {}
    Ok(())
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::migrate!("src/store/migrations").run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            StoreError::Corrupt(format!(
                "the database is of a newer version of the service (its migration {version} is \
                 not known here): run that version, or restore an older backup"
            ))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        error => StoreError::Corrupt(error.to_string()),
    })
}

/// Prompts and answers are in it: nobody else may read it.
fn make_private(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    Ok(())
}

impl Store for SqlStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query("SELECT * FROM sessions WHERE tenant = $1 AND session_id = $2")
                .bind(key.tenant.as_str())
                .bind(key.session.as_str())
                .fetch_optional(reader.connection())
                .await?;
            reader.give_back();
            row.as_ref().map(|row| self.record(row)).transpose()
        })
    }

    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch> {
        Box::pin(async move { self.writer.ask(|reply| WriteOp::Claim(key.clone(), reply)).await })
    }

    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()> {
        let order = move |reply| WriteOp::Release(key.clone(), epoch, reply);
        Box::pin(async move { self.writer.ask(order).await })
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        Box::pin(
            async move { self.writer.ask(|reply| WriteOp::Commit(Box::new(commit), reply)).await },
        )
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        id: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let owner: Option<String> = sqlx::query_scalar(
                "SELECT session_id FROM conversations \
                 WHERE tenant = $1 AND cli_session_id = $2 AND session_id <> $3 LIMIT 1",
            )
            .bind(key.tenant.as_str())
            .bind(id.to_string())
            .bind(key.session.as_str())
            .fetch_optional(reader.connection())
            .await?;
            reader.give_back();
            owner.map(|id| SessionId::parse(&id).map_err(|_| bad("session_id"))).transpose()
        })
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        Box::pin(turns::find(&self.readers, key, turn))
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        let (tenant, totals) = (tenant.clone(), Box::new(totals));
        Box::pin(
            async move { self.writer.ask(|reply| WriteOp::Count(tenant, totals, reply)).await },
        )
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        id: CliSessionId,
        from: Option<Place>,
    ) -> Pending<'a, Piece> {
        Box::pin(async move {
            if let Some(piece) = pieces::read(&self.readers, tenant, id, from).await? {
                return Ok(piece);
            }
            // What nobody is at is of a start that failed: the file counts.
            discard(&self.writer, tenant, id, Whose::Anybody).await.map(|()| Piece::default())
        })
    }

    fn import(&self, import: Import) -> Pending<'_, ()> {
        Box::pin(
            async move { self.writer.ask(|reply| WriteOp::Import(Box::new(import), reply)).await },
        )
    }

    fn give_up_import<'a>(&'a self, tenant: &'a TenantId, id: CliSessionId) -> Pending<'a, ()> {
        Box::pin(discard(&self.writer, tenant, id, Whose::Own))
    }

    fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
        until: Instant,
    ) -> Pending<'a, Option<Vec<CliSessionId>>> {
        Box::pin(async move {
            let order = |reply| WriteOp::Forget(key.clone(), reply);
            let gone = self.writer.ask_until(until, order).await?;
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
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(
                "SELECT * FROM sessions WHERE tenant = $1 AND session_id > $2 AND in_pool = 1 \
                 ORDER BY session_id LIMIT $3",
            )
            .bind(tenant.as_str())
            .bind(after.map_or("", SessionId::as_str))
            .bind(signed(limit as u64))
            .fetch_all(reader.connection())
            .await?;
            reader.give_back();
            rows.iter()
                .map(|row| {
                    let id = SessionId::parse(row.try_get("session_id")?);
                    Ok((id.map_err(|_| bad("session_id"))?, self.record(row)?))
                })
                .collect()
        })
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(
                "SELECT tenant, session_id FROM sessions WHERE used_observed_ms < $1 \
                 ORDER BY used_observed_ms LIMIT $2",
            )
            .bind(self.clock.now_ms().saturating_sub(elapsed(time)))
            .bind(signed(limit as u64))
            .fetch_all(reader.connection())
            .await?;
            reader.give_back();
            rows.iter().map(key).collect()
        })
    }

    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query("SELECT tenant, sessions FROM pool_sizes WHERE sessions > 0")
                .fetch_all(reader.connection())
                .await?;
            reader.give_back();
            let count = |row: &SqliteRow| {
                usize::try_from(row.try_get::<i64, _>("sessions")?).map_err(|_| bad("sessions"))
            };
            rows.iter().map(|row| Ok((tenant(row)?, count(row)?))).collect()
        })
    }

    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>> {
        let before_ms = self.clock.now_ms().saturating_sub(elapsed(time));
        Box::pin(idle::list(&self.readers, before_ms, after, limit))
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        let until_ms = self.clock.now_ms().saturating_sub(elapsed(unused_for));
        let order = move |reply| WriteOp::LeavePool(key.clone(), until_ms, reply);
        Box::pin(async move { self.writer.ask(order).await })
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        Box::pin(counts::read(&self.readers))
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        self.status.subscribe()
    }
}
