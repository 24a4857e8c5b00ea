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
//! While older events move to files (`shared`) whoever appends is asked to wait
//! ([`TurnLog::room`]), for a bounded time.

use std::{sync::Arc, task::Waker, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Notify, time::timeout_at};
use tracing::Span;

use super::{
    event::{Class, Partials, Started},
    listener::Listener,
    shared::Shared,
    state::{Asked, EVENT_OVERHEAD, Place, Role, State},
    storage::{Accounts, Storage},
};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::TurnId,
    },
    traces::TurnTrace,
};

/// Partial messages that are at hand although nobody asked for them, with a bound of a
/// part of the log's memory too.
const MOST_UNASKED: usize = 256 * 1024;
const UNASKED_SHARE: usize = 8;

/// Lines up to this length are copied; longer ones keep no more than as much again.
const LONGEST_COPY: usize = 64 * 1024;

/// Lines up to this length are copied into blocks of several, of this size: an allocation for each
/// costs as much as all else that is done with it here.
const LONGEST_SHARING: usize = 1024;
const BLOCK: usize = 4 * 1024;

/// Listeners of a turn at the same time.
const MAX_LISTENERS: usize = 256;

/// The events of one turn. Cloning gives another handle to the same log.
#[derive(Debug, Clone)]
pub struct TurnLog {
    shared: Arc<Shared>,
}

// Here, since its storage knows of a log only what it can give back.
impl Storage {
    /// An empty log of a tenant's turn that is asked for now. `listeners_gone` is told whenever
    /// the last caller who listens goes away.
    pub fn log(
        &self,
        id: TurnId,
        accounts: &Accounts,
        listeners_gone: Arc<Notify>,
        span: Span,
        trace: TurnTrace,
    ) -> TurnLog {
        let (storage, accounts) = (self.clone(), accounts.clone());
        TurnLog { shared: Shared::new(id, storage, accounts, listeners_gone, span, trace) }
    }
}

impl TurnLog {
    /// The turn.
    pub fn id(&self) -> &TurnId {
        &self.shared.id
    }

    /// Its place in a trace, if it has one.
    pub fn trace(&self) -> &TurnTrace {
        &self.shared.trace
    }

    /// Its span in the log.
    pub fn span(&self) -> &Span {
        &self.shared.span
    }

    /// Time since the turn was asked for.
    pub fn age(&self) -> Duration {
        self.shared.asked.elapsed()
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
        let mut frames: Vec<_> = frames.into_iter().collect();
        own(&mut frames);
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
                state.add(class, line, unasked);
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
        self.shared.storage.note_end(Arc::<Shared>::downgrade(&self.shared));
        true
    }

    /// Whether the log has ended.
    pub fn is_ended(&self) -> bool {
        self.shared.lock().end.is_some()
    }

    /// Whether it has ended otherwise than well.
    pub fn has_failed(&self) -> bool {
        matches!(self.shared.lock().end, Some(Err(_)))
    }

    /// How many callers listen.
    pub fn listeners(&self) -> usize {
        self.shared.lock().callers()
    }

    /// How many events a listener with these `partials` has been able to see so far.
    pub fn count(&self, partials: Partials) -> u64 {
        self.shared.lock().count(partials)
    }

    /// Listens from sequence `from` on (0 counts as 1), by the count of what a listener
    /// with these `partials` sees.
    pub fn listen(&self, from: u64, partials: Partials) -> Result<Listener, Failure> {
        self.join(from, partials, Role::Caller)
    }

    /// The same for one who follows the session and for whom no turn goes on.
    pub fn watch(&self, from: u64, partials: Partials) -> Result<Listener, Failure> {
        self.join(from, partials, Role::Watcher)
    }

    fn join(&self, from: u64, partials: Partials, role: Role) -> Result<Listener, Failure> {
        let mut state = self.shared.lock();
        let from = from.max(1);
        let first_kept = state.first_kept(partials);
        if from < first_kept && !(from == 1 && first_kept == 2) {
            return Err(self.shared.failure(Cause::EventsExpired { first_kept }));
        }
        // Those who watch have a bound of their own.
        if role == Role::Caller && state.callers() >= MAX_LISTENERS {
            return Err(self.shared.failure(Cause::TooManyListeners { limit: MAX_LISTENERS }));
        }
        if partials == Partials::Shown {
            state.ask_for_partials();
        }
        let key = state.next_listener;
        state.next_listener += 1;
        state.listeners.push(Place { key, role, partials, waker: None, done: false });
        let place = state.place_of(from, partials);
        drop(state);
        Ok(Listener::new(Arc::clone(&self.shared), (key, role), partials, from, place))
    }
}

impl State {
    /// Adds an event, or puts a partial message that nobody asks for aside.
    pub fn add(&mut self, class: Class, line: Bytes, unasked: usize) {
        if let Asked::Not { at_hand, bytes } = &mut self.partials {
            if class.is_partial() {
                *bytes = bytes.saturating_add(line.len() + EVENT_OVERHEAD);
                if *bytes <= unasked {
                    at_hand.push(line);
                } else {
                    // A block without its start is of no use to anybody.
                    *at_hand = Vec::new();
                }
                return;
            }
            (*at_hand, *bytes) = (Vec::new(), 0);
        }
        self.push(class, line);
    }

    /// Wakes who waits for events; those that see no partial messages only for others.
    pub fn wake(&mut self, any_whole: bool) {
        let waits = |place: &&mut Place| any_whole || place.partials == Partials::Shown;
        let waiting = self.listeners.iter_mut().filter(waits);
        waiting.filter_map(|place| place.waker.take()).for_each(Waker::wake);
    }
}

/// Makes lines independent of the read that they came in, all of which they would keep. Short ones
/// share blocks. They go in the order in which they came, so that no more than a block is kept of
/// which the log knows nothing; partial messages may go by themselves, and have their own.
fn own(frames: &mut [(Class, Bytes)]) {
    let is_short = |line: &Bytes| line.len() <= LONGEST_SHARING;
    let mut left = [0, 0];
    for (class, line) in frames.iter().filter(|(_, line)| is_short(line)) {
        left[usize::from(class.is_partial())] += line.len();
    }
    let mut blocks = [BytesMut::new(), BytesMut::new()];
    for (class, line) in frames {
        let kind = usize::from(class.is_partial());
        if is_short(line) {
            let (block, left) = (&mut blocks[kind], &mut left[kind]);
            if block.capacity() < line.len() {
                *block = BytesMut::with_capacity((*left).min(BLOCK));
            }
            *left -= line.len();
            block.extend_from_slice(line);
            *line = block.split().freeze();
        } else if line.len() <= LONGEST_COPY {
            *line = Bytes::copy_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests;
