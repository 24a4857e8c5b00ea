//! The numbered events of one turn. Knows nothing of who writes or reads.
//!
//! A reader sees partial messages only if it asks for them, and its sequence numbers
//! count the events that it sees. Internally all events of the log are numbered; how many
//! of them are whole (not partial messages) is known for the first one in memory and at
//! marks of what is on disk, which is enough to find a number of the other count again.
//!
//! Every CLI prints partial messages, and nobody may ever ask for them: they enter the
//! log from the moment that the first reader of the turn does. Until then only those of
//! the block that is being written are at hand, so that who asks in the middle of it sees
//! it from its start; they go when the whole message comes.
//!
//! One lock guards the events and the listeners' wakers, so that nothing falls between
//! a look at what is there and the wait for what comes. It is held for moving bytes
//! about, never across a wait for anybody. A second one guards the files; only threads
//! that may wait take it, and they take it first. Who has that of one log never waits for
//! that of another, or for the same once more.
//!
//! Older events leave memory in two steps: a job for the writer's thread copies them to a
//! file, and then they go. Meanwhile whoever appends is asked to wait ([`TurnLog::room`]),
//! for a bounded time: if the disk does not keep up, or nothing may be written, the oldest
//! events go, and listeners that have not read them are told which bound it was.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::Span;

use super::{
    event::{Class, Event, Started},
    listener::{Listener, Partials, Read},
    spill::Spill,
    state::{Files, Place, Portion, State, Writing},
    storage::{Accounts, DISK_RESERVE, Storage, StorageSettings},
};
use crate::{
    failure::{Cause, Failure},
    ids::TurnId,
};

/// Partial messages that are at hand although nobody asked for them, with a bound of a
/// part of the log's memory too.
const MOST_UNASKED: usize = 256 * 1024;
const UNASKED_SHARE: usize = 8;
/// What a log may hold in memory when the budget is used up: enough for listeners that
/// keep up.
const FLOOR: usize = 256 * 1024;

/// Listeners of a turn at the same time.
const MAX_LISTENERS: usize = 256;

/// The events of one turn. Cloning gives another handle to the same log.
#[derive(Debug, Clone)]
pub struct TurnLog {
    id: TurnId,
    /// What is logged about the turn is logged in it.
    span: Span,
    asked: Instant,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    storage: Storage,
    pub accounts: Accounts,
    state: Mutex<State>,
    /// Older events, where there are any.
    spill: Mutex<Option<Spill>>,
    /// Told when there may be room for more.
    room: Notify,
    /// Told when the last listener goes.
    pub listeners_gone: Arc<Notify>,
    emptied: AtomicBool,
    span: Span,
}

impl TurnLog {
    pub(super) fn new(
        id: TurnId,
        storage: Storage,
        accounts: Accounts,
        listeners_gone: Arc<Notify>,
        span: Span,
    ) -> Self {
        let state = State::new(accounts.memory.open());
        let shared = Shared {
            storage,
            accounts,
            state: Mutex::new(state),
            spill: Mutex::default(),
            room: Notify::new(),
            listeners_gone,
            emptied: AtomicBool::new(false),
            span: span.clone(),
        };
        let shared = Arc::new(shared);
        shared.storage.note_new(&shared);
        Self { id, span, asked: Instant::now(), shared }
    }

    /// The turn.
    pub fn id(&self) -> &TurnId {
        &self.id
    }

    /// Its span.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Time since the turn was asked for.
    pub fn age(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Event 1, if it was written.
    pub fn started(&self) -> Option<Arc<Started>> {
        self.shared.lock().started.clone()
    }

    /// Writes event 1.
    pub fn start(&self, started: Started) {
        let mut state = self.shared.lock();
        state.started.get_or_insert(Arc::new(started));
        state.wake(true);
    }

    /// Writes the events that follow. After the end nothing is written.
    pub fn append(&self, frames: impl IntoIterator<Item = (Class, Bytes)>) {
        let added = {
            let mut state = self.shared.lock();
            if state.end.is_some() {
                return;
            }
            let unasked = MOST_UNASKED.min(self.shared.settings().buffer_bytes / UNASKED_SHARE);
            let (before, bytes_before) = (state.frames.len(), state.memory_bytes);
            let mut any_whole = false;
            for (class, line) in frames {
                any_whole |= !class.is_partial();
                state.add(class, &line, unasked);
            }
            state.claim();
            if state.frames.len() > before {
                state.wake(any_whole);
            }
            state.memory_bytes - bytes_before
        };
        // Without the lock: other logs may have to give way.
        let tight = self.shared.storage.relieve_memory(&self.shared.accounts.memory);
        Shared::bound(&self.shared, tight, added);
    }

    /// Whether whoever appends is to wait for [`Self::room`].
    pub fn is_full(&self) -> bool {
        self.shared.lock().full_until().is_some()
    }

    /// Waits until there is room for more events; they are made room for if that takes too
    /// long. Cancel safe.
    pub async fn room(&self) {
        loop {
            let room = self.shared.room.notified();
            let Some(until) = self.shared.lock().full_until() else { return };
            if timeout_at(until, room).await.is_err() {
                self.shared.lock().give_up_waiting();
            }
        }
    }

    /// Ends the log; only the first end counts. Returns whether this was it.
    pub fn end(&self, end: Result<(), Failure>) -> bool {
        let mut state = self.shared.lock();
        if state.end.is_some() {
            return false;
        }
        state.end = Some(end);
        state.wake(true);
        drop(state);
        self.shared.storage.note_end(&self.shared);
        true
    }

    /// Whether the log has ended.
    pub fn is_ended(&self) -> bool {
        self.shared.lock().end.is_some()
    }

    /// How many listeners there are.
    pub fn listeners(&self) -> usize {
        self.shared.lock().listeners.len()
    }

    /// Listens from sequence `from` on (0 counts as 1), by the count of what a listener
    /// with these `partials` sees.
    pub fn listen(&self, from: u64, partials: Partials) -> Result<Listener, Failure> {
        let mut state = self.shared.lock();
        let from = from.max(1);
        let first_kept = state.first_kept(partials);
        if from < first_kept && !(from == 1 && first_kept == 2) {
            return Err(self.failure(Cause::EventsExpired { first_kept }));
        }
        if state.listeners.len() >= MAX_LISTENERS {
            return Err(self.failure(Cause::TooManyListeners { limit: MAX_LISTENERS }));
        }
        if partials == Partials::Shown {
            state.ask_for_partials();
        }
        let key = state.next_listener;
        state.next_listener += 1;
        state.listeners.push(Place { key, partials, waker: None, done: false });
        let place = state.place_of(from, partials);
        drop(state);
        Ok(Listener::new(self.clone(), key, partials, from, place))
    }

    pub(super) fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(None, Some(&self.id))
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing left that could be given back.
    pub(super) fn is_emptied(&self) -> bool {
        self.emptied.load(Ordering::Relaxed)
    }

    fn settings(&self) -> &StorageSettings {
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
        if state.closed || state.is_read() {
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

    /// Closes the files of a turn that has ended and that all who listened have read.
    pub(super) fn close_if_read(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_read() && state.files.take().is_some() && state.writing.is_none() {
            drop(state);
            self.dispose();
        }
    }

    /// Empties a log that has ended and that nobody listens to; `None` if it is not such a
    /// log. Returns how many bytes of memory are free.
    pub(super) fn drop_events(self: &Arc<Self>, bound: &'static str) -> Option<u64> {
        let mut state = self.lock();
        if state.end.is_none() || !state.listeners.is_empty() {
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

    /// Gives up the files of a log that has ended and that nobody listens to; `None` if it is
    /// not such a log, or has none. Returns how many bytes of disk that frees at once.
    pub(super) fn drop_files(self: &Arc<Self>, bound: &'static str) -> Option<u64> {
        let mut state = self.lock();
        if state.end.is_none() || !state.listeners.is_empty() || state.files.is_none() {
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

impl Drop for Shared {
    fn drop(&mut self) {
        let spill = self.spill.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Closing a large file takes its time.
        if let Some(spill) = spill {
            self.storage.0.writer.ask(Box::new(move |_| drop(spill))).ok();
        }
    }
}

#[cfg(test)]
mod tests;
