//! One reader's place in the log of a turn. What is in memory it takes as it is; what is
//! in a file is read by a thread that may wait for the disk, a piece at a time.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::Instant,
};

use super::{
    event::{Event, Partials},
    shared::{Read, Shared},
    state::{Role, State},
};
use crate::{
    budget::Reservation,
    domain::{
        failure::{Cause, Failure},
        ids::TurnId,
    },
};

/// Bytes that a reader takes at a time.
const BATCH_BYTES: usize = 256 * 1024;
/// Events that a reader takes at a time.
const BATCH_EVENTS: usize = 1024;
/// Bytes that are read from a file at a time: each reader has a copy of its own.
const READ_BYTES: usize = 64 * 1024;

/// Turns behind the first that may wait for one reader. Their logs have bounds of their own.
const MOST_TURNS: usize = 256;

/// The same as the bound that a reader is told who is too slow for it.
pub const MOST_TURNS_NAMED: &str = "256 turns";

/// Some events, with the sequence of the first.
#[derive(Debug)]
pub struct Batch {
    /// Sequence of the first event.
    pub first: u64,
    /// The events, at least one.
    pub events: Vec<Event>,
    /// What they take in memory, where they are there for this reader alone.
    pub held: Option<Reservation>,
}

/// Where the next events for a listener are.
#[derive(Debug)]
enum Next {
    /// Here.
    Here(Vec<Event>),
    /// In a file.
    InFile,
    /// Nowhere any more.
    Lost(Cause),
    /// They are still to come.
    ToCome,
    /// There are none.
    Ended(Result<(), Failure>),
}

/// One reader's place in a log. Dropping it is how a reader leaves.
#[derive(Debug)]
pub struct Listener {
    log: Arc<Shared>,
    key: u64,
    role: Role,
    partials: Partials,
    /// The first number that it wants to see.
    from: u64,
    /// The next event in the log.
    next: u64,
    /// The number, in its own count, of the next event that it may see.
    number: u64,
    /// A read from a file that is under way.
    reading: Option<JoinHandle<Option<Read>>>,
    /// What comes behind the turn, for who waits for that.
    follow: Option<Follow>,
}

/// What comes behind a turn for a reader who waits for it: the turns that the CLI begins by
/// itself, one after the other, and how that ends. Dropping it is how the reader leaves.
#[derive(Debug)]
pub struct Follow {
    turns: mpsc::Receiver<Result<Listener, Failure>>,
    gone: Arc<Notify>,
    brings_own_turn: bool,
}

/// The session's end of a [`Follow`].
#[derive(Debug, Clone)]
pub struct Following {
    turns: mpsc::Sender<Result<Listener, Failure>>,
}

impl Listener {
    pub(super) fn new(
        log: Arc<Shared>,
        (key, role): (u64, Role),
        partials: Partials,
        from: u64,
        (next, number): (u64, u64),
    ) -> Self {
        Self { log, key, role, partials, from, next, number, reading: None, follow: None }
    }

    /// The same for a reader who waits for what comes behind the turn.
    #[must_use]
    pub fn followed_by(mut self, follow: Option<Follow>) -> Self {
        self.follow = follow;
        self
    }

    /// What comes behind the turn, once.
    pub fn take_follow(&mut self) -> Option<Follow> {
        self.follow.take()
    }

    /// The turn.
    pub fn turn_id(&self) -> &TurnId {
        &self.log.id
    }

    /// The next events. `None` after the last one of a turn that ended well, its
    /// failure after the last one of a turn that did not.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Batch>, Failure>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(read) = std::pin::Pin::new(reading).poll(cx) else {
                    return Poll::Pending;
                };
                self.reading = None;
                return match self.take_read(read.ok().flatten()) {
                    Ok(events) => self.show(events, true, cx),
                    Err(failure) => Poll::Ready(Err(failure)),
                };
            }
            let mut state = self.log.lock();
            let next = state.next(self.next, self.partials);
            let place = state.listeners.iter_mut().find(|place| place.key == self.key);
            match next {
                Next::Here(events) => {
                    drop(state);
                    return self.show(events, false, cx);
                }
                Next::Lost(cause) => return Poll::Ready(Err(self.log.failure(cause))),
                Next::ToCome => {
                    place.into_iter().for_each(|place| place.waker = Some(cx.waker().clone()));
                    return Poll::Pending;
                }
                Next::Ended(end) => {
                    place.into_iter().for_each(|place| place.done = true);
                    // Whoever watches leaves it for those whose turn it is.
                    if self.role == Role::Caller {
                        state.read_at = Some(Instant::now());
                    }
                    drop(state);
                    self.log.close_when_read();
                    return Poll::Ready(end.map(|()| None));
                }
                Next::InFile => {
                    drop(state);
                    self.read_file();
                }
            }
        }
    }

    /// As [`Self::poll_batch`], to be awaited.
    pub async fn batch(&mut self) -> Result<Option<Batch>, Failure> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// Claims memory that is there for this reader alone.
    pub fn claim(&self, bytes: usize) -> Reservation {
        let mut held = self.log.accounts.memory.open();
        held.set(bytes as u64);
        held
    }

    fn read_file(&mut self) {
        let (log, next) = (Arc::clone(&self.log), self.next);
        // Before the first event that it wants there may be much that it does not.
        let whole =
            (self.partials == Partials::Hidden && self.number < self.from).then(|| self.from - 1);
        let read = move || log.read_files(next, whole, READ_BYTES);
        self.reading = Some(tokio::task::spawn_blocking(read));
    }

    fn take_read(&mut self, read: Option<Read>) -> Result<Vec<Event>, Failure> {
        let Some(read) = read.filter(|read| !read.events.is_empty()) else {
            // The file has gone meanwhile, or cannot be read.
            let cause = self.log.lock().lost(self.partials);
            return Err(self.log.failure(cause));
        };
        self.next = read.first;
        if let Some(whole_before) = read.whole_before {
            self.number = 1 + whole_before;
        }
        Ok(read.events)
    }

    /// What it sees of the next events of the log, which are `copied` where they are there
    /// for it alone.
    fn show(
        &mut self,
        mut events: Vec<Event>,
        copied: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Batch>, Failure>> {
        self.next += events.len() as u64;
        events.retain(|event| match event {
            Event::Started(_) => true,
            Event::Frame(class, _) => self.partials.shows(*class),
        });
        let first = self.number.max(self.from);
        let early = usize::try_from(first - self.number).unwrap_or(usize::MAX);
        self.number += events.len() as u64;
        events.drain(..early.min(events.len()));
        if events.is_empty() {
            // There may be much that it does not see: others get their turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let held = copied.then(|| self.claim(events.iter().map(Event::bytes).sum()));
        Poll::Ready(Ok(Some(Batch { first, events, held })))
    }
}

impl State {
    /// What there is for such a listener that has read up to `next`.
    fn next(&self, next: u64, partials: Partials) -> Next {
        if next >= self.next_sequence() {
            return self.end.clone().map_or(Next::ToCome, Next::Ended);
        }
        if next == 1 {
            return Next::Here(self.started.iter().cloned().map(Event::Started).collect());
        }
        if next < self.first_in_memory {
            return match self.files {
                Some(files) if next >= files.first => Next::InFile,
                _ => Next::Lost(self.lost(partials)),
            };
        }
        let skip = usize::try_from(next - self.first_in_memory).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let frames = self.frames.iter().skip(skip).take(BATCH_EVENTS).take_while(|(_, line)| {
            let room = bytes < BATCH_BYTES;
            bytes += line.len();
            room
        });
        Next::Here(frames.map(|(class, line)| Event::Frame(*class, line.clone())).collect())
    }
}

impl Follow {
    /// Both ends. `gone` is told when the reader leaves.
    pub fn channel(gone: Arc<Notify>) -> (Following, Self) {
        let (sender, turns) = mpsc::channel(MOST_TURNS + 1);
        (Following { turns: sender }, Self { turns, gone, brings_own_turn: false })
    }

    /// The same where the reader's own turn comes in it: how another's ended before is nothing to
    /// the reader.
    #[must_use]
    pub fn bringing_own_turn(mut self) -> Self {
        self.brings_own_turn = true;
        self
    }

    /// Whether the reader's own turn comes in it.
    pub fn brings_own_turn(&self) -> bool {
        self.brings_own_turn
    }

    /// The next turn, or why there is none; `None` once there is nothing to come.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Listener, Failure>>> {
        self.turns.poll_recv(cx)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        // The session looks at the other end when it is told.
        self.turns.close();
        self.gone.notify_one();
    }
}

impl Following {
    /// Passes a turn on, or why there is none. Returns whether there was room for it: a reader
    /// who has left needs neither.
    pub fn send(&self, turn: Result<Listener, Failure>) -> bool {
        // The last place is for the failure: who is slow is to hear of it, too.
        let has_room = turn.is_err() || self.turns.capacity() > 1;
        has_room && self.turns.try_send(turn).is_ok()
    }

    /// Whether the reader has left.
    pub fn is_abandoned(&self) -> bool {
        self.turns.is_closed()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        state.listeners.retain(|place| place.key != self.key);
        let last = self.role == Role::Caller && state.callers() == 0;
        drop(state);
        if last {
            self.log.listeners_gone.notify_one();
        }
        // The others may have read all of it before, or its events gone to files since.
        self.log.close_when_read();
    }
}
