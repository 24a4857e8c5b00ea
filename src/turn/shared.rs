//! What all handles to one turn's log share: which turn it is, its events in memory and in files,
//! and how they move from the one to the other.
//!
//! Older events leave memory in two steps: a job for the writer's thread copies them to a
//! file, and then they go. If the disk does not keep up, or nothing may be written, the oldest
//! events go, and listeners that have not read them are told which bound it was.
//!
//! One lock guards the events and the listeners' wakers. It is held for moving bytes about,
//! never across a wait for anybody. A second one guards the files; only threads that may wait
//! take it, and they take it first. Who has that of one log never waits for that of another,
//! or for the same once more.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::Span;

use super::{
    event::Event,
    spill::Spill,
    state::{Files, Portion, State, Writing},
    storage::{Accounts, DISK_RESERVE, Reclaimable, Storage, StorageSettings},
};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::TurnId,
    },
    tasks::spawn_owned,
    traces::TurnTrace,
};

/// What a log may hold in memory when the budget is used up: enough for listeners that
/// keep up.
const FLOOR: usize = 256 * 1024;

/// How long the files of a turn stay that has ended and was read. Who sends the last events does not
/// learn whether they arrive, and a caller whose connection breaks with them asks for them again.
pub(super) const READ_GRACE: Duration = Duration::from_secs(10);

/// Events that were read from a file.
#[derive(Debug)]
pub(super) struct Read {
    /// The sequence of the first.
    pub first: u64,
    /// Events before it that are not partial messages, where it is not the one that was
    /// asked for.
    pub whole_before: Option<u64>,
    /// The events.
    pub events: Vec<Event>,
}

/// One turn's log.
#[derive(Debug)]
pub(super) struct Shared {
    /// The turn.
    pub id: TurnId,
    /// What is logged about the turn is logged in it.
    pub span: Span,
    /// Where its spans are in a trace.
    pub trace: TurnTrace,
    /// When the turn was asked for.
    pub asked: Instant,
    pub storage: Storage,
    pub accounts: Accounts,
    state: Mutex<State>,
    /// Older events, where there are any.
    pub(super) spill: Mutex<Option<Spill>>,
    /// Told when there may be room for more.
    pub room: Notify,
    /// Told when the last caller who listens goes.
    pub listeners_gone: Arc<Notify>,
    emptied: AtomicBool,
}

impl Shared {
    /// An empty log, which its storage knows of.
    pub(super) fn new(
        id: TurnId,
        storage: Storage,
        accounts: Accounts,
        listeners_gone: Arc<Notify>,
        span: Span,
        trace: TurnTrace,
    ) -> Arc<Self> {
        let state = State::new(accounts.memory.open());
        let shared = Arc::new(Self {
            id,
            span,
            trace,
            asked: Instant::now(),
            storage,
            accounts,
            state: Mutex::new(state),
            spill: Mutex::default(),
            room: Notify::new(),
            listeners_gone,
            emptied: AtomicBool::new(false),
        });
        shared.storage.note_new(Arc::<Self>::downgrade(&shared));
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure that says which turn it is of.
    pub(super) fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(None, Some(&self.id))
    }

    pub(super) fn settings(&self) -> &StorageSettings {
        &self.storage.0.settings
    }

    /// Keeps to the bounds of memory, by way of a file where there may be one, after `added`
    /// bytes have come. With `tight` the budget is used up.
    pub(super) fn bound(this: &Arc<Self>, tight: bool, added: usize) {
        let StorageSettings { buffer_bytes, spill_bytes, .. } = *this.settings();
        let full_at = if tight { FLOOR.min(buffer_bytes) } else { buffer_bytes };
        let mut state = this.lock();
        if spill_bytes == 0 || state.closed {
            if state.memory_bytes > full_at {
                state.lost_to = if tight { "pool.memory_budget" } else { "pool.turn_spill_bytes" };
                state.drop_oldest(full_at / 2);
            }
            return;
        }
        if state.writing.is_some() {
            // Whoever cannot wait goes on appending, and not for ever. What has just come
            // does not count: one read of a CLI may be larger than a small buffer, and says
            // nothing of the disk.
            if state.memory_bytes.saturating_sub(added) > 2 * buffer_bytes {
                state.overflow();
            }
            return;
        }
        if state.memory_bytes <= full_at / 2 || state.frames.len() < 2 {
            return;
        }
        state.writing = Some(Writing::new(full_at / 4, full_at));
        drop(state);
        Self::ask_writer(this);
    }

    /// Has the oldest events moved to files, some at a time: those of other logs come
    /// between.
    fn ask_writer(this: &Arc<Self>) {
        let log = Arc::clone(this);
        let job = Box::new(move |scratch: &mut BytesMut| {
            if log.write_some(scratch) {
                Self::ask_writer(&log);
            }
        });
        if this.storage.0.writer.ask(job).is_err() {
            let mut state = this.lock();
            state.overflow();
            state.writing = None;
            drop(state);
            this.room.notify_waiters();
        }
    }

    /// Moves some of the oldest events to files. Waits for the disk. Returns whether there
    /// are more to move.
    fn write_some(&self, scratch: &mut BytesMut) -> bool {
        let Some(portion) = self.lock().next_to_write() else {
            self.room.notify_waiters();
            self.close_if_unwanted();
            return false;
        };
        let mut spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.write(&mut spill, &portion, scratch);
        let next = portion.first + portion.events.len() as u64;
        let files = spill.as_ref().and_then(|spill| {
            let (first, whole_before) = (spill.first()?, spill.whole_before()?);
            Some(Files { first, whole_before })
        });
        let mut state = self.lock();
        match written {
            Ok(bound) if state.is_next(next) => {
                state.lost_to = bound.unwrap_or(state.lost_to);
                let count = next - state.first_in_memory;
                state.forget(usize::try_from(count).unwrap_or(usize::MAX));
                state.files = files;
            }
            // Events behind these are gone meanwhile.
            Ok(_) => {
                *spill = None;
                state.files = None;
            }
            // Nobody waits for what cannot be kept: those who have read so far go on, those
            // who have not are told that they lost their place.
            Err(bound) => {
                *spill = None;
                state.lost_to = bound;
                let down_to = state.writing.map_or(0, |writing| writing.down_to);
                state.drop_oldest(down_to);
                state.files = None;
            }
        }
        drop((state, spill));
        self.room.notify_waiters();
        true
    }

    fn close_if_unwanted(&self) {
        let mut state = self.lock();
        let is_over = |read_at: Instant| read_at.elapsed() >= READ_GRACE;
        if state.closed || state.is_read() && state.read_at.is_some_and(is_over) {
            state.files = None;
            drop(state);
            self.close_files();
        }
    }

    /// Writes events to files; tells for which bound older ones had to go from there, or
    /// which one does not allow it at all.
    fn write(
        &self,
        spill: &mut Option<Spill>,
        portion: &Portion,
        scratch: &mut BytesMut,
    ) -> Result<Option<&'static str>, &'static str> {
        let (account, settings) = (&self.accounts.disk, self.settings());
        let Portion { first, whole, events } = portion;
        let bytes = Spill::size_of(events);
        if !self.storage.has_free_disk(account, bytes) {
            return Err(DISK_RESERVE);
        }
        if spill.as_ref().is_some_and(|spill| spill.end() != *first) {
            // Events between went when the disk did not keep up.
            *spill = None;
        }
        let spill = spill.get_or_insert_with(|| {
            Spill::new(&settings.spill_folder, settings.spill_bytes, account.open())
        });
        if let Err(exceeded) = spill.claim_all(bytes) {
            self.storage.relieve_disk(account, bytes, exceeded);
        }
        let bound = spill.claim(bytes).map_err(|exceeded| exceeded.key)?;
        spill.write(*first, *whole, events, scratch).map_err(|error| {
            tracing::warn!(parent: &self.span, %error, "turn_spill_failed");
            "state_dir"
        })?;
        Ok(bound)
    }

    /// Reads events from sequence `from` on, or from a place that is nearer to the one that
    /// follows `whole` events that are not partial messages. Waits for the disk.
    pub(super) fn read_files(&self, from: u64, whole: Option<u64>, limit: usize) -> Option<Read> {
        let spill = self.spill.lock().unwrap_or_else(PoisonError::into_inner);
        let spill = spill.as_ref()?;
        let nearer = whole.and_then(|whole| spill.place_of(whole));
        let nearer = nearer.filter(|(sequence, _)| *sequence > from);
        let first = nearer.map_or(from, |(sequence, _)| sequence);
        let events = spill.read(first, limit).ok()?;
        let events = events.into_iter().map(|(class, line)| Event::Frame(class, line)).collect();
        Some(Read { first, whole_before: nearer.map(|(_, whole)| whole), events })
    }

    /// Has the files of a turn closed that has ended and that all who listened have read, when
    /// nobody has joined it again for [`READ_GRACE`].
    pub(super) fn close_when_read(self: &Arc<Self>) {
        let state = self.lock();
        let has_files = state.files.is_some() || state.writing.is_some();
        let (true, true, Some(read_at)) = (state.is_read(), has_files, state.read_at) else {
            return;
        };
        drop(state);
        if Handle::try_current().is_err() {
            // The runtime has ended, and nobody can join any more.
            return self.close_if_read(read_at);
        }
        let log = Arc::downgrade(self);
        drop(spawn_owned(async move {
            sleep_until(read_at + READ_GRACE).await;
            if let Some(log) = log.upgrade() {
                log.close_if_read(read_at);
            }
        }));
    }

    /// Closes the files unless somebody reads, or has read to the end since `read_at`.
    fn close_if_read(self: &Arc<Self>, read_at: Instant) {
        let mut state = self.lock();
        if state.is_read()
            && state.read_at == Some(read_at)
            && state.files.take().is_some()
            // Otherwise whoever writes closes them.
            && state.writing.is_none()
        {
            drop(state);
            self.dispose();
        }
    }

    fn close_files(&self) {
        self.spill.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Has the files closed where that may take its time.
    fn dispose(self: &Arc<Self>) {
        let log = Arc::clone(self);
        // One that finds no room in the queue is closed with the last handle to the log.
        self.storage.0.writer.ask(Box::new(move |_| log.close_files())).ok();
    }
}

impl Reclaimable for Shared {
    fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    fn is_emptied(&self) -> bool {
        self.emptied.load(Ordering::Relaxed)
    }

    fn is_read(&self) -> bool {
        self.lock().is_read()
    }

    fn shrink(self: Arc<Self>) {
        Self::bound(&self, true, 0);
    }

    fn drop_events(self: Arc<Self>, bound: &'static str) -> Option<u64> {
        let mut state = self.lock();
        if state.end.is_none() || state.callers() > 0 {
            return None;
        }
        let before = state.held.bytes();
        state.lost_to = bound;
        let all = state.frames.len();
        state.forget(all);
        state.frames.shrink_to_fit();
        state.files = None;
        state.closed = true;
        let freed = before.saturating_sub(state.held.bytes());
        drop(state);
        self.emptied.store(true, Ordering::Relaxed);
        self.dispose();
        Some(freed)
    }

    fn drop_files(self: Arc<Self>, bound: &'static str) -> Option<u64> {
        let mut state = self.lock();
        if state.end.is_none() || state.callers() > 0 || state.files.is_none() {
            return None;
        }
        state.lost_to = bound;
        state.files = None;
        state.closed = true;
        drop(state);
        // The writer's thread asks while it has the files of a log, which may be this one.
        let mut spill = match self.spill.try_lock() {
            Ok(spill) => spill,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.dispose();
                return Some(0);
            }
        };
        Some(spill.take().map_or(0, |spill| spill.bytes()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let spill = self.spill.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Closing a large file takes its time.
        if let Some(spill) = spill {
            self.storage.0.writer.ask(Box::new(move |_| drop(spill))).ok();
        }
    }
}
