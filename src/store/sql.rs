//! The store in a SQL database: SQLite, embedded. Written by one task (`writer`), read
//! over a few connections beside it.
//!
//! `synchronous = FULL`: what was committed outlives the machine's power, not only the
//! service. WAL: readers do not wait for the writer.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, migrate::MigrateError};
use tokio::{sync::watch, time::Instant};
use tracing::{error_span, warn};

use super::{
    Clock, Commit, Epoch, Idle, Import, KeptTurn, Pending, Piece, Place, Record, Store, StoreError,
    StoreStatus,
    columns::{conversation, elapsed, millis},
    connection::Database,
    counts, idle, import, opening,
    order::{Whose, WriteOp},
    pieces, queries,
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
        let options = opening::options(file);
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
        let writer = Writer::start(database, read, time, publisher, limit, tasks);
        let writer = Arc::new(writer.map_err(failed)?);
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
}

/// Removes what was taken up of transcripts when an earlier life of the service ended.
async fn discard_unfinished(readers: &Readers, writer: &Writer) {
    let mut after = (String::new(), String::new());
    loop {
        match discard_next(readers, writer, &after).await {
            Ok(Some(next)) => after = next,
            Ok(None) => return,
            Err(error) => {
                // Nobody sees what is left, and the next start tries again.
                warn!(%error, "store_not_cleaned_up");
                return;
            }
        }
    }
}

/// Returns where to go on; `None` behind the last conversation.
async fn discard_next(
    readers: &Readers,
    writer: &Writer,
    after: &(String, String),
) -> Result<Option<(String, String)>, StoreError> {
    let mut reader = readers.take().await?;
    let next = pieces::next(reader.connection(), after).await?;
    reader.give_back();
    let Some((tenant, id, is_unfinished)) = next else { return Ok(None) };
    if is_unfinished {
        discard(writer, &tenant, id, Whose::Anybody).await?;
    }
    Ok(Some((tenant.to_string(), id.to_string())))
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
            StoreError::newer(version)
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
            let record = queries::load(reader.connection(), key, self.clock.now_ms()).await?;
            reader.give_back();
            Ok(record)
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
            let owner = import::other_owner(reader.connection(), key, id).await?;
            reader.give_back();
            Ok(owner)
        })
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let now_ms = millis(SystemTime::now());
            let found = turns::find(reader.connection(), key, turn, now_ms).await?;
            reader.give_back();
            Ok(found)
        })
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
            let mut reader = self.readers.take().await?;
            let piece = pieces::read(reader.connection(), tenant, id, from).await?;
            reader.give_back();
            if let Some(piece) = piece {
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
            let now_ms = self.clock.now_ms();
            let page = queries::list(reader.connection(), tenant, after, limit, now_ms).await?;
            reader.give_back();
            Ok(page)
        })
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let before_ms = self.clock.now_ms().saturating_sub(elapsed(time));
            let unused = queries::unused(reader.connection(), before_ms, limit).await?;
            reader.give_back();
            Ok(unused)
        })
    }

    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let sizes = queries::in_pool(reader.connection()).await?;
            reader.give_back();
            Ok(sizes)
        })
    }

    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>> {
        let before_ms = self.clock.now_ms().saturating_sub(elapsed(time));
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let page = idle::list(reader.connection(), before_ms, after, limit).await?;
            reader.give_back();
            Ok(page)
        })
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        let order = move |reply| WriteOp::LeavePool(key.clone(), unused_for, reply);
        Box::pin(async move { self.writer.ask(order).await })
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        Box::pin(async move {
            let mut reader = self.readers.take().await?;
            let connection = reader.connection();
            sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
            let totals = counts::read(connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
            reader.give_back();
            Ok(totals)
        })
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        self.status.subscribe()
    }
}
