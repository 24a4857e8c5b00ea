//! What happened in a session, in the order in which it began: its turns, those that the CLI
//! begins by itself included, and what belongs to no turn. The session's task writes it, and any
//! number of [`Watcher`]s read it, each at its own pace; nobody who writes waits for one who
//! reads. It outlives the task: a session that was unloaded has the same feed again when a turn
//! loads it, as long as the pool keeps it.
//!
//! An entry has a position for ever. A turn's entry is the turn's log, which knows its own
//! bounds; it is let go when the session's queue lets go of the turn. Whoever had not read it by
//! then is told that there is a gap.
//!
//! While anybody has still to read a turn, its entry holds a place in the log: what was written
//! to files is kept although the turn's own callers have read it. What the budgets want back
//! goes all the same.
//!
//! The lock is held for looking, never across a wait. The lock of a log is taken while it is
//! held, and never the other way round.

mod cursor;
#[cfg(test)]
mod tests;
mod watcher;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

pub use cursor::Cursor;
use cursor::Place;
pub use watcher::{From, Step, Watcher};

use super::status::Status;
use crate::{
    budget::{Account, Reservation},
    domain::{
        failure::{Cause, Failure},
        ids::{SessionId, TurnId},
    },
    turn::{
        event::{Class, Partials},
        listener::Listener,
        log::TurnLog,
    },
};

/// Watchers of a session at the same time.
pub const MAX_WATCHERS: usize = 256;

/// What belongs to no turn is kept up to this number and to so many bytes.
const MOST_ASIDES: usize = 256;
const ASIDE_BYTES: usize = 1 << 20;

/// What happened in a session.
#[derive(Debug)]
pub struct Feed {
    /// Tells it from every other, of this life of the service or of an earlier one.
    id: u64,
    session: SessionId,
    /// The memory of its tenant.
    memory: Account,
    state: Mutex<State>,
    /// Told of every change.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// The position of the newest entry that there ever was.
    last: u64,
    /// The entry with the highest position of those that have been let go.
    gone: Option<Gone>,
    /// How it ended, and with it whoever reads it.
    end: Option<Result<(), Failure>>,
    /// Which entry each watcher reads, or waits for.
    watchers: Vec<(u64, u64)>,
    next_watcher: u64,
    /// What the session shows of itself, if it has a task.
    status: Option<watch::Receiver<Status>>,
}

#[derive(Debug)]
struct Entry {
    position: u64,
    noted: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Turn { log: TurnLog, hold: Option<Listener> },
    Aside { class: Class, bytes: Bytes, _held: Reservation },
}

/// An entry that was let go, and how many events it had.
#[derive(Debug, Clone, Copy)]
struct Gone {
    position: u64,
    whole: u64,
    all: u64,
}

impl Entry {
    /// How many events it has for who counts so; that a turn failed is one more.
    fn events(&self, partials: Partials) -> u64 {
        match &self.what {
            What::Turn { log, .. } => log.count(partials) + u64::from(log.has_failed()),
            What::Aside { .. } => 1,
        }
    }

    fn is_aside(&self) -> bool {
        matches!(self.what, What::Aside { .. })
    }

    fn bytes(&self) -> usize {
        match &self.what {
            What::Turn { .. } => 0,
            What::Aside { bytes, .. } => bytes.len(),
        }
    }
}

impl State {
    fn entry(&self, position: u64) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&position, |entry| entry.position).ok()?;
        self.entries.get(at)
    }

    /// The first entry behind a position.
    fn after(&self, position: u64) -> Option<&Entry> {
        self.entries.get(self.entries.partition_point(|entry| entry.position <= position))
    }

    /// The last position before the first entry behind that one; nothing may be kept of what
    /// came last.
    fn gone_up_to(&self, position: u64) -> u64 {
        self.after(position).map_or(self.last, |entry| entry.position - 1)
    }

    /// Where all is that has happened.
    fn now(&self, partials: Partials) -> Place {
        let seen = self.entry(self.last).map_or(Place::ALL, |entry| entry.events(partials));
        Place { position: self.last, seen }
    }

    /// Before everything that is kept.
    fn start(&self) -> Place {
        Place::behind(self.entries.front().map_or(self.last, |entry| entry.position - 1))
    }

    /// Whether nothing has gone that was in an entry, which is not kept, behind a place.
    fn has_seen_all(&self, place: Place, partials: Partials) -> bool {
        let gone = self.gone.filter(|gone| gone.position == place.position);
        let events = gone.map(|gone| match partials {
            Partials::Shown => gone.all,
            Partials::Hidden => gone.whole,
        });
        place.seen == Place::ALL || events.is_some_and(|events| place.seen >= events)
    }

    fn push(&mut self, what: What) {
        self.last += 1;
        self.entries.push_back(Entry { position: self.last, noted: Instant::now(), what });
    }

    fn let_go(&mut self, at: usize) {
        let Some(entry) = self.entries.remove(at) else { return };
        let position = entry.position;
        if self.gone.is_none_or(|gone| gone.position < position) {
            let (whole, all) = (entry.events(Partials::Hidden), entry.events(Partials::Shown));
            self.gone = Some(Gone { position, whole, all });
        }
    }

    /// A watcher reads the entry at this position, or waits for it.
    fn read_by(&mut self, watcher: u64, position: u64) {
        if let Some(mine) = self.watchers.iter_mut().find(|(key, _)| *key == watcher) {
            mine.1 = position;
        }
        self.hold();
    }

    /// Holds the logs that somebody has still to read, and no others.
    fn hold(&mut self) {
        let first = self.watchers.iter().map(|(_, position)| *position).min();
        for entry in &mut self.entries {
            let wanted = first.is_some_and(|first| entry.position >= first);
            if let What::Turn { log, hold } = &mut entry.what
                && wanted != hold.is_some()
            {
                // From behind its end: nothing is read by it.
                *hold = wanted.then(|| log.watch(u64::MAX, Partials::Hidden).ok()).flatten();
            }
        }
    }
}

impl Feed {
    /// A feed without entries, whose own entries claim their memory from that account.
    pub fn new(session: SessionId, memory: Account) -> Self {
        let (id, _) = Uuid::new_v4().as_u64_pair();
        let (changed, _) = watch::channel(());
        Self { id, session, memory, state: Mutex::default(), changed }
    }

    /// A turn has begun: its first event is in its log.
    pub fn begin(&self, log: &TurnLog) {
        let mut state = self.lock();
        state.push(What::Turn { log: log.clone(), hold: None });
        state.hold();
        self.tell(state);
    }

    /// Something happened that belongs to no turn. Only a bounded part of it is kept.
    pub fn aside(&self, class: Class, bytes: Bytes) {
        let held = self.claim(bytes.len());
        let mut state = self.lock();
        state.push(What::Aside { class, bytes, _held: held });
        loop {
            let asides = state.entries.iter().filter(|entry| entry.is_aside());
            let (count, bytes) =
                asides.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.bytes()));
            let oldest = state.entries.iter().position(Entry::is_aside);
            match oldest {
                Some(at) if count > MOST_ASIDES || (count > 1 && bytes > ASIDE_BYTES) => {
                    state.let_go(at);
                }
                Some(_) | None => break,
            }
        }
        self.tell(state);
    }

    /// A turn is not kept any more, if it was.
    pub fn forget(&self, turn: &TurnId) {
        let mut state = self.lock();
        let is_it =
            |entry: &Entry| matches!(&entry.what, What::Turn { log, .. } if log.id() == turn);
        if let Some(at) = state.entries.iter().position(is_it) {
            state.let_go(at);
            self.tell(state);
        }
    }

    /// What belongs to no turn is not kept any more when it is that old. Returns since when the
    /// oldest is there that is left.
    pub fn forget_asides(&self, age: Duration) -> Option<Instant> {
        let mut state = self.lock();
        let is_old = |entry: &Entry| entry.is_aside() && entry.noted.elapsed() >= age;
        while let Some(at) = state.entries.iter().position(is_old) {
            state.let_go(at);
        }
        state.entries.iter().find(|entry| entry.is_aside()).map(|entry| entry.noted)
    }

    /// The session has a task, which shows this of itself.
    pub fn load(&self, status: watch::Receiver<Status>) {
        let mut state = self.lock();
        state.status = Some(status);
        self.tell(state);
    }

    /// The session has no task any more; there may be another.
    pub fn unload(&self) {
        let mut state = self.lock();
        state.status = None;
        while !state.entries.is_empty() {
            state.let_go(0);
        }
        self.tell(state);
    }

    /// Nothing happens any more: whoever has read all of it is told so.
    pub fn end(&self, end: Result<(), Failure>) {
        let mut state = self.lock();
        state.status = None;
        state.end.get_or_insert(end);
        self.tell(state);
    }

    /// What the session shows of itself, if it has a task.
    pub fn status(&self) -> Option<watch::Receiver<Status>> {
        self.lock().status.clone()
    }

    /// Claims memory that is there.
    pub fn claim(&self, bytes: usize) -> Reservation {
        let mut held = self.memory.open();
        held.set(bytes as u64);
        held
    }

    /// Whoever is told of every change from here on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn cursor(&self, place: Place, partials: Partials) -> String {
        Cursor { feed: self.id, partials, place }.text(&self.session)
    }

    fn expired(&self, first_kept: Place, partials: Partials) -> Failure {
        let first_kept = self.cursor(first_kept, partials);
        Failure::from(Cause::CursorExpired { first_kept }).concerning(Some(&self.session), None)
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
