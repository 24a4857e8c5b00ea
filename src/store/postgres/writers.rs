//! Who writes to PostgreSQL. An order has a transaction of its own: that many commits share one
//! wait for the disk is the server's business. Orders about the same subject are carried out in
//! the order in which they were asked, those about others beside them, in so many slots as there
//! are connections to write by. None holds up others while it waits to be tried again.
//!
//! An order is told done only when its COMMIT is known to have taken effect. Each transaction
//! leaves its id in the row of its slot. After a COMMIT without an answer that row is read over
//! another connection, with a lock, which is had only when the transaction has ended for good;
//! until then the slot is not used again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{error_span, warn};
use uuid::Uuid;

use super::{
    carrying::{Desk, Subject, carry_out},
    transaction::Database,
};
use crate::{
    store::{
        StoreError,
        order::{Answer, Asked, WriteOp, Written, ask_until},
        statements::{Cells as _, Statements as _},
        status::SharedPublisher,
    },
    tasks::Tasks,
};

/// Orders that may wait. More make those who ask wait.
const WAITING: u32 = 1024;
/// Between attempts at an order.
const AGAIN: Duration = Duration::from_millis(100);
/// What an order has at least for its first attempt.
const FIRST: Duration = Duration::from_secs(1);
/// How long orders may take once the service stops.
const LAST_ORDERS: Duration = Duration::from_secs(3);

/// The way to those who write.
#[derive(Debug)]
pub struct Writers {
    office: Arc<Office>,
    limit: Duration,
    tasks: Tasks,
}

/// What they share.
#[derive(Debug)]
struct Office {
    database: Database,
    desk: Desk,
    publisher: SharedPublisher,
    slots: Semaphore,
    free: Mutex<Vec<i64>>,
    /// Orders that wait for another one about the same subject.
    queues: Mutex<HashMap<Subject, VecDeque<Taken>>>,
    room: Arc<Semaphore>,
    tasks: Tasks,
}

/// An order, and its place among those that wait.
type Taken = (Asked, OwnedSemaphorePermit);

impl Writers {
    /// Orders are tried for `limit`.
    pub fn new(
        database: Database,
        desk: Desk,
        publisher: SharedPublisher,
        slots: usize,
        limit: Duration,
        tasks: &Tasks,
    ) -> Self {
        let office = Office {
            database,
            desk,
            publisher,
            slots: Semaphore::new(slots),
            free: Mutex::new((0..i64::try_from(slots).unwrap_or(i64::MAX)).collect()),
            queues: Mutex::default(),
            room: Arc::new(Semaphore::new(WAITING as usize)),
            tasks: tasks.clone(),
        };
        Self { office: Arc::new(office), limit, tasks: tasks.clone() }
    }

    pub async fn ask<T>(&self, order: impl FnOnce(Answer<T>) -> WriteOp) -> Result<T, StoreError> {
        self.ask_until(Instant::now() + self.limit, order).await
    }

    /// The same of an order that is tried until then.
    pub async fn ask_until<T>(
        &self,
        until: Instant,
        order: impl FnOnce(Answer<T>) -> WriteOp,
    ) -> Result<T, StoreError> {
        ask_until(until, order, async |asked| self.take(asked).await).await
    }

    async fn take(&self, asked: Asked) -> Result<(), StoreError> {
        let closed = || StoreError::unavailable("the store is closed");
        if self.tasks.stopping().is_cancelled() {
            return Err(closed());
        }
        let room = Arc::clone(&self.office.room).acquire_owned().await.map_err(|_| closed())?;
        let subject = Subject::of(&asked.order);
        let mut queues = self.office.queues();
        if let Some(queue) = queues.get_mut(&subject) {
            queue.push_back((asked, room));
            return Ok(());
        }
        queues.insert(subject.clone(), VecDeque::new());
        drop(queues);
        let office = Arc::clone(&self.office);
        self.tasks.spawn(error_span!("store"), office.work(subject, (asked, room)));
        Ok(())
    }

    /// Waits until nobody has anything to write. Nothing is taken any more then.
    pub async fn finish(&self) {
        let all = timeout(LAST_ORDERS + FIRST, self.office.room.acquire_many(WAITING)).await;
        if let Ok(Ok(permits)) = all {
            permits.forget();
        }
        self.office.room.close();
    }
}

/// A slot, for as long as somebody writes by it.
struct Slot<'a> {
    office: &'a Office,
    number: i64,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.office.free().push(self.number);
    }
}

impl Office {
    fn queues(&self) -> MutexGuard<'_, HashMap<Subject, VecDeque<Taken>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) -> MutexGuard<'_, Vec<i64>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out an order, and those that have come after it about the same subject.
    async fn work(self: Arc<Self>, subject: Subject, first: Taken) {
        let mut next = Some(first);
        while let Some((Asked { order, until }, room)) = next {
            let outcome = self.write(&order, until).await;
            if outcome.is_ok() {
                self.desk.note(&order);
            }
            order.answer(outcome);
            drop(room);
            let mut queues = self.queues();
            next = queues.get_mut(&subject).and_then(VecDeque::pop_front);
            if next.is_none() {
                queues.remove(&subject);
            }
        }
    }

    /// Tries an order until it is carried out, refused for its own sake, or too late.
    async fn write(&self, order: &WriteOp, until: Instant) -> Result<Written, StoreError> {
        let mut until = until.max(Instant::now() + FIRST);
        let mut last = None;
        loop {
            if self.tasks.stopping().is_cancelled() {
                until = until.min(Instant::now() + LAST_ORDERS);
            }
            let Ok(slot) = timeout_at(until, self.slot()).await else {
                let busy = || StoreError::unavailable("all connections to the database are busy");
                return Err(last.unwrap_or_else(busy));
            };
            let error = match self.attempt(&slot, order, until).await {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            drop(slot);
            if !matches!(error, StoreError::Unavailable { .. }) || Instant::now() >= until {
                self.publisher.failed(&error);
                return Err(error);
            }
            // That others hold what this order needs is no failure of the store.
            if !error.is_busy() {
                self.publisher.failing(&error);
            }
            last = Some(error);
            sleep(AGAIN).await;
        }
    }

    async fn slot(&self) -> Slot<'_> {
        loop {
            // Never closed.
            let Ok(permit) = self.slots.acquire().await else { continue };
            if let Some(number) = self.free().pop() {
                return Slot { office: self, number, _permit: permit };
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tries an order once. The outer error says that nothing of it took effect, as far as that
    /// can be known before `until`.
    async fn attempt(
        &self,
        slot: &Slot<'_>,
        order: &WriteOp,
        until: Instant,
    ) -> Result<Result<Written, StoreError>, StoreError> {
        // The slot's row is that of the incarnation that began with it.
        let (id, me) = (Uuid::new_v4(), self.desk.me.identity());
        let incarnation = &me.incarnation;
        let mark = format!(
            "UPDATE transactions SET commit_id = '{id}' \
             WHERE incarnation = '{incarnation}' AND slot = {}",
            slot.number
        );
        let mut transaction = self.database.write_with(&mark).await?;
        let written = match carry_out(&mut transaction, order, &self.desk).await? {
            Ok(written) => written,
            Err(refused) => {
                transaction.roll_back().await;
                return Ok(Err(refused));
            }
        };
        let Err(error) = transaction.commit().await else {
            // A node that may not serve is not well, whatever it can write.
            if !self.desk.me.is_over() {
                self.publisher.committed();
            }
            return Ok(Ok(written));
        };
        if self.took_effect((incarnation, slot), &id.to_string(), until).await? {
            warn!(%error, "store_commit_took_effect_after_an_error");
            return Ok(Ok(written));
        }
        Err(error)
    }

    /// Whether the last transaction of a slot took effect, which nobody has told.
    async fn took_effect(
        &self,
        of: (&str, &Slot<'_>),
        id: &str,
        until: Instant,
    ) -> Result<bool, StoreError> {
        let until = until.max(Instant::now() + 2 * self.database.statement_timeout());
        loop {
            match self.last_of(of).await {
                Ok(last) => return Ok(last.as_deref() == Some(id)),
                Err(error) if Instant::now() < until => self.publisher.failing(&error),
                Err(error) => {
                    return Err(StoreError::unavailable(format!(
                        "whether it took effect is not known: {error}"
                    )));
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// The id of the last transaction of a slot that took effect, once there is none under way.
    async fn last_of(
        &self,
        (incarnation, slot): (&str, &Slot<'_>),
    ) -> Result<Option<String>, StoreError> {
        let mut transaction = self.database.write().await?;
        let last = transaction.row(
            "SELECT commit_id FROM transactions \
             WHERE incarnation = $1 AND slot = $2 FOR UPDATE",
            &[incarnation.into(), slot.number.into()],
        );
        let last = last.await?.map(|row| row.text("commit_id").map(str::to_owned)).transpose()?;
        transaction.roll_back().await;
        Ok(last)
    }
}
