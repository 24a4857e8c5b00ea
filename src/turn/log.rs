//! The numbered events of one turn, and readers of them. Knows nothing of who
//! writes or reads.
//!
//! One lock guards the events and the readers' wakers, so that nothing falls between
//! a look at what is there and the wait for what comes. It is held for moving bytes
//! about, never across a wait for anybody.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    event::{Class, Event, Started},
    spill::Spill,
};
use crate::{
    failure::{Cause, Failure},
    ids::TurnId,
};

/// What a frame costs in memory beside its bytes.
const EVENT_OVERHEAD: usize = 64;
/// Bytes that a reader takes at a time.
const BATCH_BYTES: usize = 256 * 1024;
/// Events that a reader takes at a time.
const BATCH_EVENTS: usize = 1024;

/// Listeners of a turn at the same time.
const MAX_LISTENERS: usize = 256;

/// Bounds of a log.
#[derive(Debug, Clone)]
pub struct LogLimits {
    /// Bytes in memory.
    pub buffer_bytes: usize,
    /// Bytes in files; 0 for none.
    pub spill_bytes: u64,
    /// Where the files are.
    pub spill_folder: PathBuf,
}

/// The events of one turn. Cloning gives another handle to the same log.
#[derive(Debug, Clone)]
pub struct TurnLog {
    id: TurnId,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when the last listener goes.
    listeners_gone: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    limits: LogLimits,
    started: Option<Arc<Started>>,
    /// The newest frames; the first has sequence `first_in_memory`.
    frames: VecDeque<(Class, Bytes)>,
    first_in_memory: u64,
    memory_bytes: usize,
    spill: Option<Spill>,
    end: Option<Result<(), Failure>>,
    wakers: Vec<(u64, Option<Waker>)>,
    next_listener: u64,
}

/// Some events, with the sequence of the first.
#[derive(Debug)]
pub struct Batch {
    /// Sequence of the first event.
    pub first: u64,
    /// The events, at least one.
    pub events: Vec<Event>,
}

impl TurnLog {
    /// An empty log. `listeners_gone` is told whenever the last listener goes away.
    pub fn new(id: TurnId, limits: LogLimits, listeners_gone: Arc<Notify>) -> Self {
        let state = State {
            limits,
            started: None,
            frames: VecDeque::new(),
            first_in_memory: 2,
            memory_bytes: 0,
            spill: None,
            end: None,
            wakers: Vec::new(),
            next_listener: 0,
        };
        Self { id, shared: Arc::new(Shared { state: Mutex::new(state), listeners_gone }) }
    }

    /// The turn.
    pub fn id(&self) -> &TurnId {
        &self.id
    }

    /// Writes event 1.
    pub fn start(&self, started: Started) {
        let mut state = self.lock();
        state.started.get_or_insert(Arc::new(started));
        state.wake();
    }

    /// Writes the events that follow. After the end nothing is written.
    pub fn append(&self, frames: impl IntoIterator<Item = (Class, Bytes)>) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        for (class, line) in frames {
            state.memory_bytes += line.len() + EVENT_OVERHEAD;
            state.frames.push_back((class, line));
        }
        if state.memory_bytes > state.limits.buffer_bytes {
            state.evict();
        }
        state.wake();
    }

    /// Ends the log; only the first end counts. Returns whether this was it.
    pub fn end(&self, end: Result<(), Failure>) -> bool {
        let mut state = self.lock();
        let first = state.end.is_none();
        if first {
            state.end = Some(end);
            state.wake();
        }
        first
    }

    /// Whether the log has ended.
    pub fn is_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// How many listeners there are.
    pub fn listeners(&self) -> usize {
        self.lock().wakers.len()
    }

    /// Listens from sequence `from` on (0 counts as 1).
    pub fn listen(&self, from: u64) -> Result<Listener, Failure> {
        let mut state = self.lock();
        let next = from.max(1);
        let first_kept = state.first_kept();
        if next < first_kept && !(next == 1 && first_kept == 2) {
            return Err(self.failure(Cause::EventsExpired { first_kept }));
        }
        if state.wakers.len() >= MAX_LISTENERS {
            return Err(self.failure(Cause::TooManyListeners { limit: MAX_LISTENERS }));
        }
        let key = state.next_listener;
        state.next_listener += 1;
        state.wakers.push((key, None));
        drop(state);
        Ok(Listener { log: self.clone(), key, next })
    }

    fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(None, Some(&self.id))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The sequence that the next event gets.
    fn next_sequence(&self) -> u64 {
        match self.started {
            Some(_) => self.first_in_memory + self.frames.len() as u64,
            None => 1,
        }
    }

    /// The first sequence kept, event 1 aside, which always is.
    fn first_kept(&self) -> u64 {
        self.spill.as_ref().and_then(Spill::first).unwrap_or(self.first_in_memory)
    }

    fn wake(&mut self) {
        self.wakers.iter_mut().filter_map(|(_, waker)| waker.take()).for_each(Waker::wake);
    }

    /// Moves the older half out of memory, so that it is not done for every frame.
    fn evict(&mut self) {
        let mut oldest = Vec::new();
        while self.memory_bytes > self.limits.buffer_bytes / 2 && self.frames.len() > 1 {
            let Some((class, line)) = self.frames.pop_front() else { break };
            self.memory_bytes -= line.len() + EVENT_OVERHEAD;
            oldest.push((class, line));
        }
        let first = self.first_in_memory;
        self.first_in_memory += oldest.len() as u64;
        if self.limits.spill_bytes == 0 {
            return;
        }
        let limits = &self.limits;
        let spill =
            self.spill.get_or_insert_with(|| Spill::new(&limits.spill_folder, limits.spill_bytes));
        if let Err(error) = spill.write(first, oldest.into_iter()) {
            // A full disk must not end the turn: those who have read so far go on, those
            // who have not are told that they lost their place.
            tracing::warn!(%error, "turn_spill_failed");
            self.spill = None;
        }
    }

    fn read(&self, next: u64) -> Result<Vec<Event>, Cause> {
        if next == 1 {
            return Ok(self.started.iter().cloned().map(Event::Started).collect());
        }
        if next >= self.first_in_memory {
            let skip = usize::try_from(next - self.first_in_memory).unwrap_or(usize::MAX);
            let mut bytes = 0;
            return Ok(self
                .frames
                .iter()
                .skip(skip)
                .take(BATCH_EVENTS)
                .take_while(|(_, line)| {
                    let room = bytes < BATCH_BYTES;
                    bytes += line.len();
                    room
                })
                .map(|(class, line)| Event::Frame(*class, line.clone()))
                .collect());
        }
        let first_kept = self.first_kept();
        let lost = Cause::ListenerTooSlow { first_kept };
        match &self.spill {
            Some(spill) if next >= first_kept => spill
                .read(next, BATCH_BYTES)
                .map(|events| events.into_iter().map(|(c, line)| Event::Frame(c, line)).collect())
                .map_err(|_| lost),
            _ => Err(lost),
        }
    }
}

/// One reader's place in a log. Dropping it is how a reader leaves.
#[derive(Debug)]
pub struct Listener {
    log: TurnLog,
    key: u64,
    next: u64,
}

impl Listener {
    /// The turn.
    pub fn turn_id(&self) -> &TurnId {
        self.log.id()
    }

    /// The next events. `None` after the last one of a turn that ended well, its
    /// failure after the last one of a turn that did not.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Batch>, Failure>> {
        let mut state = self.log.lock();
        if self.next < state.next_sequence() {
            let events = match state.read(self.next) {
                Ok(events) => events,
                Err(cause) => return Poll::Ready(Err(self.log.failure(cause))),
            };
            let first = self.next;
            self.next += events.len() as u64;
            return Poll::Ready(Ok(Some(Batch { first, events })));
        }
        if let Some(end) = &state.end {
            let end = end.clone().map(|()| None);
            return Poll::Ready(end);
        }
        if let Some((_, waker)) = state.wakers.iter_mut().find(|(key, _)| *key == self.key) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// As [`Self::poll_batch`], to be awaited.
    pub async fn batch(&mut self) -> Result<Option<Batch>, Failure> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        state.wakers.retain(|(key, _)| *key != self.key);
        if state.wakers.is_empty() {
            self.log.shared.listeners_gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
