//! The numbered events of one turn, and readers of them. Knows nothing of who
//! writes or reads.
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
//! One lock guards the events and the readers' wakers, so that nothing falls between
//! a look at what is there and the wait for what comes. It is held for moving bytes
//! about, never across a wait for anybody.

mod state;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};
use tracing::Span;

use self::state::{State, Waiter};
use super::event::{Class, Event, Started};
use crate::{
    failure::{Cause, Failure},
    ids::TurnId,
};

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
    /// What is logged about the turn is logged in it.
    span: Span,
    asked: Instant,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when the last listener goes.
    listeners_gone: Arc<Notify>,
}

/// Whether a listener sees partial messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partials {
    /// It sees whole messages only.
    #[default]
    Hidden,
    /// It sees them too.
    Shown,
}

impl Partials {
    fn shows(self, class: Class) -> bool {
        self == Self::Shown || !class.is_partial()
    }
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
    /// An empty log of a turn that is asked for now. `listeners_gone` is told whenever the
    /// last listener goes away.
    pub fn new(id: TurnId, limits: LogLimits, listeners_gone: Arc<Notify>, span: Span) -> Self {
        Self {
            id,
            span,
            asked: Instant::now(),
            shared: Arc::new(Shared { state: Mutex::new(State::new(limits)), listeners_gone }),
        }
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
        self.lock().started.clone()
    }

    /// Writes event 1.
    pub fn start(&self, started: Started) {
        let mut state = self.lock();
        state.started.get_or_insert(Arc::new(started));
        state.wake(true);
    }

    /// Writes the events that follow. After the end nothing is written.
    pub fn append(&self, frames: impl IntoIterator<Item = (Class, Bytes)>) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        let before = state.frames.len();
        let mut any_whole = false;
        for (class, line) in frames {
            any_whole |= !class.is_partial();
            state.add(class, line);
        }
        let added = state.frames.len() > before;
        if state.memory_bytes > state.limits.buffer_bytes {
            state.evict();
        }
        if added {
            state.wake(any_whole);
        }
    }

    /// Ends the log; only the first end counts. Returns whether this was it.
    pub fn end(&self, end: Result<(), Failure>) -> bool {
        let mut state = self.lock();
        let first = state.end.is_none();
        if first {
            state.end = Some(end);
            state.wake(true);
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

    /// Listens from sequence `from` on (0 counts as 1), by the count of what a listener
    /// with these `partials` sees.
    pub fn listen(&self, from: u64, partials: Partials) -> Result<Listener, Failure> {
        let mut state = self.lock();
        let from = from.max(1);
        let first_kept = state.first_kept(partials);
        if from < first_kept && !(from == 1 && first_kept == 2) {
            return Err(self.failure(Cause::EventsExpired { first_kept }));
        }
        if state.wakers.len() >= MAX_LISTENERS {
            return Err(self.failure(Cause::TooManyListeners { limit: MAX_LISTENERS }));
        }
        if partials == Partials::Shown {
            state.ask_for_partials();
        }
        let key = state.next_listener;
        state.next_listener += 1;
        state.wakers.push(Waiter { key, partials, waker: None });
        let (next, number) = state.place_of(from, partials);
        drop(state);
        Ok(Listener { log: self.clone(), key, partials, from, next, number })
    }

    fn failure(&self, cause: Cause) -> Failure {
        Failure::from(cause).concerning(None, Some(&self.id))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place in a log. Dropping it is how a reader leaves.
#[derive(Debug)]
pub struct Listener {
    log: TurnLog,
    key: u64,
    partials: Partials,
    /// The first number that it wants to see.
    from: u64,
    /// The next event in the log.
    next: u64,
    /// The number, in its own count, of the next event that it may see.
    number: u64,
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
            let events = match state.read(self.next, self.partials) {
                Ok(events) => events,
                Err(cause) => return Poll::Ready(Err(self.log.failure(cause))),
            };
            drop(state);
            let Some(batch) = self.seen_of(events) else {
                // There may be much that it does not see: others get their turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            return Poll::Ready(Ok(Some(batch)));
        }
        if let Some(end) = &state.end {
            let end = end.clone().map(|()| None);
            return Poll::Ready(end);
        }
        if let Some(waiter) = state.wakers.iter_mut().find(|waiter| waiter.key == self.key) {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What it sees of the next events of the log.
    fn seen_of(&mut self, mut events: Vec<Event>) -> Option<Batch> {
        self.next += events.len() as u64;
        events.retain(|event| match event {
            Event::Started(_) => true,
            Event::Frame(class, _) => self.partials.shows(*class),
        });
        let first = self.number.max(self.from);
        let early = usize::try_from(first - self.number).unwrap_or(usize::MAX);
        self.number += events.len() as u64;
        events.drain(..early.min(events.len()));
        (!events.is_empty()).then_some(Batch { first, events })
    }

    /// As [`Self::poll_batch`], to be awaited.
    pub async fn batch(&mut self) -> Result<Option<Batch>, Failure> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        state.wakers.retain(|waiter| waiter.key != self.key);
        if state.wakers.is_empty() {
            self.log.shared.listeners_gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
