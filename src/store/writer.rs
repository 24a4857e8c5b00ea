//! The one task that writes to the database, on a thread of its own. What is asked of it while
//! it writes is written together next: a transaction costs a wait for the disk, however much is
//! in it.
//!
//! Who asks is answered within a bound, whatever holds the database: orders that wait for
//! the same lock wait for it together. An order is told done only when it is committed.

use std::{io, mem, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error_span, warn};
use uuid::Uuid;

use super::{
    Clock, StoreError,
    carrying::{By, carry_out},
    connection::{Database, Transaction},
    counts::Counted,
    import::Imports,
    keeping,
    order::{Answer, Asked, Whose, WriteOp, Written, ask_until},
    readers::Readers,
    status::Publisher,
};
use crate::tasks::Tasks;

/// Orders that may wait. More make those who ask wait.
const WAITING: usize = 256;
/// Bytes of lines that are written in one transaction, if more than one order has them.
const BATCH_BYTES: usize = 8 << 20;
/// How long somebody else may have the database before that is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to write while the store fails.
const PROBE: Duration = Duration::from_secs(1);
/// Between writes where nobody asks for any: time goes on.
const TICK: Duration = Duration::from_secs(60);
/// Between attempts to cut a log that somebody reads.
const LOG_AGAIN: Duration = Duration::from_secs(5);
/// How long orders may take once the service stops.
const LAST_ORDERS: Duration = Duration::from_secs(3);
/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Asked>,
    limit: Duration,
}

impl Writer {
    /// Starts the writer. It ends with the service's tasks, after all that was asked
    /// before. Orders are tried for `limit`. Fails if there is no thread for it.
    pub(super) fn start(
        database: Database,
        readers: Arc<Readers>,
        clock: Arc<Clock>,
        publisher: Publisher,
        limit: Duration,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let (orders, waiting) = mpsc::channel(WAITING);
        let stopping = tasks.stopping().clone();
        let clerk = Clerk {
            writer: Uuid::new_v4().to_string().into(),
            database,
            readers,
            clock,
            publisher,
            stopping,
            imports: Imports::default(),
            counted: Counted::default(),
            log_holds_forgotten: false,
            log_tried: Instant::now(),
            tried: Instant::now(),
        };
        let (ended, has_ended) = oneshot::channel::<()>();
        let (runtime, span) = (Handle::current(), error_span!("store"));
        let work = move || {
            let _in_span = span.entered();
            runtime.block_on(clerk.work(waiting));
            drop(ended);
        };
        thread::Builder::new().name("store".into()).spawn(work)?;
        // The end of the thread is waited for as that of every task: it is told by the dropped end.
        tasks.spawn(error_span!("store"), async move { drop(has_ended.await) });
        Ok(Self { orders, limit })
    }

    pub(super) async fn ask<T>(
        &self,
        order: impl FnOnce(Answer<T>) -> WriteOp,
    ) -> Result<T, StoreError> {
        self.ask_until(Instant::now() + self.limit, order).await
    }

    /// The same of an order that is tried until then.
    pub(super) async fn ask_until<T>(
        &self,
        until: Instant,
        order: impl FnOnce(Answer<T>) -> WriteOp,
    ) -> Result<T, StoreError> {
        let gone = |_| StoreError::unavailable("the store is closed");
        ask_until(until, order, async |asked| self.orders.send(asked).await.map_err(gone)).await
    }
}

/// At which point a transaction failed.
enum Failed {
    /// It did not begin: nobody's order is to blame.
    Begin(StoreError),
    /// One of its orders, or the commit.
    Work(StoreError),
}

/// What the writer's task owns.
struct Clerk {
    database: Database,
    /// Those who read beside it, whose connections are renewed while it cannot write.
    readers: Arc<Readers>,
    clock: Arc<Clock>,
    publisher: Publisher,
    stopping: CancellationToken,
    /// This life of the service.
    writer: Arc<str>,
    /// Transcripts that are being taken up.
    imports: Imports,
    /// What it has counted.
    counted: Counted,
    /// Whether texts that were forgotten are still in the write-ahead log.
    log_holds_forgotten: bool,
    log_tried: Instant,
    /// When the last transaction was tried.
    tried: Instant,
}

impl Clerk {
    async fn work(mut self, mut waiting: mpsc::Receiver<Asked>) {
        let mut batch = Vec::with_capacity(WAITING);
        loop {
            let stopping = self.stopping.clone();
            let count = tokio::select! {
                // The clock last: where the runtime has ended there is none.
                biased;
                () = stopping.cancelled(), if !waiting.is_closed() => {
                    waiting.close();
                    continue;
                }
                count = waiting.recv_many(&mut batch, WAITING) => count,
                () = sleep_until(self.next_touch()) => {
                    self.touch().await;
                    continue;
                }
            };
            if count == 0 {
                break;
            }
            for some in in_parts(mem::take(&mut batch)) {
                self.write(some).await;
            }
            self.look_after_log().await;
        }
        self.database.close();
    }

    fn next_touch(&self) -> Instant {
        self.tried + if self.publisher.is_failing() { PROBE } else { TICK }
    }

    /// Lets time go on, and finds out whether commits succeed, where nobody asks for one.
    async fn touch(&mut self) {
        let probes = self.publisher.is_failing();
        let touched = match self.begin(Instant::now()).await {
            Ok(mut transaction) => {
                let tried = match probes {
                    true => keeping::probe(transaction.connection()).await,
                    false => Ok(()),
                };
                match tried {
                    Ok(()) => transaction.commit(Instant::now()).await,
                    Err(error) => {
                        transaction.abandon().await;
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        };
        self.tried = Instant::now();
        match touched {
            Ok(()) => self.publisher.committed(),
            // Somebody has the database just now, which is no failure before it lasts.
            Err(error) if error.is_busy() && !probes => {}
            Err(error) => {
                self.publisher.failing(&error);
                self.renew_readers(&error).await;
            }
        }
        self.look_after_log().await;
    }

    async fn begin(&mut self, until: Instant) -> Result<Transaction<'_>, StoreError> {
        let began = Instant::now();
        let mut until = until;
        let Self { database, clock, publisher, stopping, .. } = self;
        let goes_on = |error: &StoreError| {
            let now = Instant::now();
            if now - began > PATIENCE {
                publisher.failing(error);
            }
            if stopping.is_cancelled() {
                until = until.min(now + LAST_ORDERS);
            }
            now < until
        };
        database.begin(clock.now_ms(), goes_on).await
    }

    /// Writes orders in one transaction. If one of them fails each is tried by itself, so
    /// that none fails for another's sake.
    async fn write(&mut self, mut asked: Vec<Asked>) {
        while !asked.is_empty() {
            let until = asked.iter().map(|asked| asked.until).min();
            let until = until.unwrap_or_else(Instant::now);
            let tried = self.in_one(&asked, until).await;
            self.tried = Instant::now();
            match tried {
                Ok(written) => {
                    self.publisher.committed();
                    for (Asked { order, .. }, outcome) in asked.into_iter().zip(written) {
                        self.log_holds_forgotten |=
                            matches!(outcome, Ok(Written::Forgotten(Some(_))));
                        if outcome.is_ok() {
                            self.note(&order);
                        }
                        order.answer(outcome);
                    }
                    return;
                }
                Err(Failed::Work(error)) if asked.len() > 1 => {
                    warn!(%error, orders = asked.len(), "store_orders_tried_one_by_one");
                    for one in asked {
                        Box::pin(self.write(vec![one])).await;
                    }
                    return;
                }
                Err(Failed::Begin(error)) if error.is_busy() && !self.stopping.is_cancelled() => {
                    // Those who came later may still wait.
                    self.publisher.failed(&error);
                    let now = Instant::now();
                    let (late, rest) = asked.into_iter().partition(|asked| asked.until <= now);
                    asked = rest;
                    refuse(late, &error);
                }
                Err(Failed::Begin(error) | Failed::Work(error)) => {
                    self.publisher.failed(&error);
                    refuse(asked, &error);
                    return self.renew_readers(&error).await;
                }
            }
        }
    }

    /// Readers that were opened while the disk was read-only would keep it so for the writer.
    /// Where the disk is full they stay: there may be no room to open others.
    async fn renew_readers(&self, error: &StoreError) {
        if error.is_read_only() {
            self.readers.renew().await;
        }
    }

    async fn in_one(
        &mut self,
        asked: &[Asked],
        until: Instant,
    ) -> Result<Vec<Result<Written, StoreError>>, Failed> {
        let observed_ms = self.clock.now_ms();
        // Given back below: while the transaction lives it has the rest.
        let imports = mem::take(&mut self.imports);
        let mut counted = mem::take(&mut self.counted);
        let writer = Arc::clone(&self.writer);
        let by = By { writer: &writer, observed_ms, imports: &imports };
        let written = self.carry_out_all(asked, until, by, &mut counted).await;
        if written.is_ok() {
            counted.committed();
        }
        self.imports = imports;
        self.counted = counted;
        written
    }

    async fn carry_out_all(
        &mut self,
        asked: &[Asked],
        until: Instant,
        by: By<'_>,
        counted: &mut Counted,
    ) -> Result<Vec<Result<Written, StoreError>>, Failed> {
        let mut transaction = self.begin(until).await.map_err(Failed::Begin)?;
        match carry_out_each(&mut transaction, asked, by, counted).await {
            Ok(written) => {
                transaction.commit(until).await.map_err(Failed::Work)?;
                Ok(written)
            }
            Err(error) => {
                transaction.abandon().await;
                Err(Failed::Work(error))
            }
        }
    }

    /// Takes note of what an order that is committed means for transcripts being taken up.
    fn note(&mut self, order: &WriteOp) {
        match order {
            WriteOp::Commit(commit, _) => {
                let (key, id) = (&commit.key, commit.record.cli_session_id);
                if self.imports.settles(key, id) {
                    self.imports.remove(&key.tenant, id);
                }
            }
            WriteOp::Import(import, _) => self.imports.note(import),
            WriteOp::Discard(tenant, id, Whose::Own, _) => self.imports.remove(tenant, *id),
            WriteOp::Forget(key, _) => self.imports.remove_of(key),
            WriteOp::Discard(..)
            | WriteOp::Claim(..)
            | WriteOp::Release(..)
            | WriteOp::Count(..)
            | WriteOp::LeavePool(..) => {}
        }
    }

    /// Cuts the write-ahead log where it has grown, or holds what was forgotten. Whoever
    /// reads just now keeps what they see: it is tried again.
    async fn look_after_log(&mut self) {
        let is_long = self.publisher.measured(self.database.sizes());
        let due = self.log_tried.elapsed() >= LOG_AGAIN;
        if !(self.log_holds_forgotten || is_long && due) || self.publisher.is_failing() {
            return;
        }
        self.log_tried = Instant::now();
        match self.database.empty_log().await {
            Ok(emptied) => self.log_holds_forgotten &= !emptied,
            Err(error) => warn!(%error, "store_log_not_emptied"),
        }
        self.publisher.measured(self.database.sizes());
    }
}

/// Carries out orders in the order in which they came, and writes what they counted once.
async fn carry_out_each(
    transaction: &mut Transaction<'_>,
    asked: &[Asked],
    by: By<'_>,
    counted: &mut Counted,
) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
    let mut written = Vec::with_capacity(asked.len());
    for Asked { order, .. } in asked {
        written.push(carry_out(transaction, order, by, counted).await?);
    }
    counted.keep(transaction.connection(), by.writer, by.observed_ms).await?;
    Ok(written)
}

fn refuse(asked: Vec<Asked>, error: &StoreError) {
    for Asked { order, .. } in asked {
        order.answer(Err(error.clone()));
    }
}

/// Orders that are written together: much is not, so that others come in between.
fn in_parts(asked: Vec<Asked>) -> Vec<Vec<Asked>> {
    let mut parts: Vec<Vec<Asked>> = Vec::new();
    let mut bytes = usize::MAX;
    for one in asked {
        let more = one.order.bytes();
        bytes = bytes.saturating_add(more);
        match parts.last_mut() {
            Some(part) if bytes <= BATCH_BYTES => part.push(one),
            _ => {
                bytes = more;
                parts.push(vec![one]);
            }
        }
    }
    parts
}
