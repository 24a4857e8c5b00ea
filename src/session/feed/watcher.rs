//! One reader of a feed. It goes from entry to entry, and reads each turn's log to its end
//! before it looks at the next. What it cannot have any more it tells as a gap.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Cursor, Entry, Feed, MAX_WATCHERS, Place, State, What};
use crate::{
    domain::{
        failure::{Cause, Failure},
        ids::TurnId,
    },
    turn::{
        event::{Class, Partials},
        listener::{Batch, Listener},
        log::TurnLog,
    },
};

/// From where on a session is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// From now on.
    Now,
    /// From the first that is kept.
    Start,
    /// From where somebody stood before. The text is what it was read from.
    Cursor(Cursor, String),
}

/// What a watcher is told next.
#[derive(Debug)]
pub enum Step {
    /// Events of a turn.
    Events { turn: TurnId, position: u64, batch: Batch },
    /// A turn has ended otherwise than with a result.
    Failed { turn: TurnId, failure: Failure, cursor: String },
    /// Something that belongs to no turn.
    Aside { class: Class, bytes: Bytes, cursor: String },
    /// What was between these places, by their cursors, is not to be had any more, or nobody
    /// knows whether there was anything.
    Gap { after: String, before: String },
    /// All has been told that had happened when the watcher came.
    CaughtUp { cursor: String },
    /// There is nothing more to come.
    Over(Result<(), Failure>),
}

/// What a watcher finds where it stands.
enum Found {
    Turn {
        log: TurnLog,
        from: u64,
    },
    Aside {
        class: Class,
        bytes: Bytes,
    },
    /// Something is missing before the place where it goes on.
    Missing,
    /// Nothing yet.
    ToCome,
    Over(Result<(), Failure>),
}

/// One reader of a feed. Dropping it is how it leaves.
#[derive(Debug)]
pub struct Watcher {
    feed: Arc<Feed>,
    key: u64,
    partials: Partials,
    /// What it has been told.
    place: Place,
    /// Where it has caught up; `None` once it was told so.
    caught_up_at: Option<Place>,
    /// Its place in the log of the turn that it reads.
    reading: Option<(TurnId, TurnLog, Listener)>,
    /// A gap that it has to be told.
    gap: Option<(String, String)>,
    changes: watch::Receiver<()>,
}

impl Watcher {
    /// Begins to read a feed, if there is room for one more reader.
    pub fn new(feed: Arc<Feed>, from: &From, partials: Partials) -> Result<Self, Failure> {
        let changes = feed.changes();
        let mut state = feed.lock();
        if state.watchers.len() >= MAX_WATCHERS {
            let full = Failure::from(Cause::TooManyListeners { limit: MAX_WATCHERS });
            return Err(full.concerning(Some(&feed.session), None));
        }
        let now = state.now(partials);
        let mut gap = None;
        let place = match from {
            From::Now => now,
            From::Start => state.start(),
            From::Cursor(cursor, text) if cursor.feed != feed.id => {
                gap = Some((text.clone(), feed.cursor(state.start(), partials)));
                state.start()
            }
            From::Cursor(cursor, _) => {
                feed.check(&state, cursor.place, partials)?;
                cursor.place
            }
        };
        let key = state.next_watcher;
        state.next_watcher += 1;
        let reads = place.position + u64::from(place.seen == Place::ALL);
        state.watchers.push((key, reads));
        state.hold();
        drop(state);
        let caught_up_at = Some(now);
        Ok(Self { feed, key, partials, place, caught_up_at, reading: None, gap, changes })
    }

    /// What it reads.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// The cursor behind an event of a turn.
    pub fn cursor(&self, position: u64, sequence: u64) -> String {
        self.feed.cursor(Place { position, seen: sequence }, self.partials)
    }

    /// What it is told next. Cancel safe.
    pub async fn next(&mut self) -> Step {
        loop {
            if let Some((after, before)) = self.gap.take() {
                return Step::Gap { after, before };
            }
            if self.caught_up_at.take_if(|at| self.place >= *at).is_some() {
                return Step::CaughtUp { cursor: self.here() };
            }
            if self.reading.is_some() {
                match self.read().await {
                    Some(step) => return step,
                    None => continue,
                }
            }
            // Before it is looked: what comes afterwards is seen as a change.
            self.changes.mark_unchanged();
            match self.find() {
                Found::Turn { log, from } => self.open(log, from),
                Found::Aside { class, bytes } => {
                    return Step::Aside { class, bytes, cursor: self.here() };
                }
                Found::Missing => {}
                Found::ToCome | Found::Over(_) if self.caught_up_at.take().is_some() => {
                    return Step::CaughtUp { cursor: self.here() };
                }
                Found::Over(end) => return Step::Over(end),
                // The feed is there as long as its watcher is.
                Found::ToCome => drop(self.changes.changed().await),
            }
        }
    }

    /// Reads on in a turn; `None` where that leads to something else.
    async fn read(&mut self) -> Option<Step> {
        let (turn, log, listener) = self.reading.as_mut()?;
        let read = listener.batch().await;
        let position = self.place.position;
        match read {
            Ok(Some(batch)) => {
                let turn = turn.clone();
                self.place.seen = batch.first + batch.events.len() as u64 - 1;
                Some(Step::Events { turn, position, batch })
            }
            Ok(None) => {
                self.leave_entry();
                None
            }
            Err(failure) => {
                if let Cause::ListenerTooSlow { first_kept, .. } = failure.cause {
                    let log = log.clone();
                    self.reading = None;
                    self.skip(&log, first_kept);
                    return None;
                }
                let (turn, seen) = (turn.clone(), log.count(self.partials) + 1);
                if self.place.seen >= seen {
                    // It was told before the cursor that this watcher came with.
                    self.leave_entry();
                    return None;
                }
                let cursor = self.cursor(position, seen);
                self.leave_entry();
                Some(Step::Failed { turn, failure, cursor })
            }
        }
    }

    fn open(&mut self, log: TurnLog, from: u64) {
        match log.watch(from, self.partials) {
            Ok(listener) => self.reading = Some((log.id().clone(), log, listener)),
            Err(Failure { cause: Cause::EventsExpired { first_kept }, .. }) => {
                self.skip(&log, first_kept);
            }
            // Nothing else is refused to one who watches.
            Err(_) => self.leave_entry(),
        }
    }

    /// It has been told all of the turn that it read.
    fn leave_entry(&mut self) {
        self.reading = None;
        self.place = Place::behind(self.place.position);
        self.feed.lock().read_by(self.key, self.place.position + 1);
    }

    /// Goes on with the first event of a turn that is kept. Where that is none that it has not
    /// seen, what is kept cannot be read: it goes on with what is still to come.
    fn skip(&mut self, log: &TurnLog, first_kept: u64) {
        let after = self.here();
        let seen = if first_kept > self.place.seen + 1 {
            first_kept - 1
        } else {
            log.count(self.partials)
        };
        self.place.seen = seen;
        self.gap = Some((after, self.here()));
    }

    /// Looks for what comes behind its place, and goes there.
    fn find(&mut self) -> Found {
        let feed = Arc::clone(&self.feed);
        let mut state = feed.lock();
        let (here, partials) = (self.place, self.partials);
        if here.seen != Place::ALL {
            if let Some(entry) = state.entry(here.position) {
                return self.enter(entry);
            }
            if state.has_seen_all(here, partials) {
                self.place.seen = Place::ALL;
            }
        }
        let next = state.after(here.position).map(|entry| entry.position);
        let reached = state.gone_up_to(here.position);
        if reached > here.position || self.place.seen != Place::ALL {
            let after = self.here();
            self.place = Place::behind(reached.max(here.position));
            self.gap = Some((after, self.here()));
            return Found::Missing;
        }
        let Some(position) = next else {
            return state.end.clone().map_or(Found::ToCome, Found::Over);
        };
        self.place = Place { position, seen: 0 };
        state.read_by(self.key, position);
        state.entry(position).map_or(Found::Missing, |entry| self.enter(entry))
    }

    fn enter(&mut self, entry: &Entry) -> Found {
        match &entry.what {
            What::Turn { log, .. } => Found::Turn { log: log.clone(), from: self.place.seen + 1 },
            What::Aside { class, bytes, .. } if self.place.seen == 0 => {
                let (class, bytes) = (*class, bytes.clone());
                self.place.seen = 1;
                Found::Aside { class, bytes }
            }
            What::Aside { .. } => {
                self.place.seen = Place::ALL;
                Found::Missing
            }
        }
    }

    fn here(&self) -> String {
        self.feed.cursor(self.place, self.partials)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.feed.lock();
        state.watchers.retain(|(key, _)| *key != self.key);
        state.hold();
    }
}

impl Feed {
    /// Whether nothing is missing behind a place that a caller names.
    fn check(&self, state: &State, place: Place, partials: Partials) -> Result<(), Failure> {
        let kept = match state.entry(place.position) {
            Some(entry) => {
                let in_time = place.seen == Place::ALL || place.seen <= entry.events(partials);
                let first_kept = self.first_kept(entry, place.seen, partials);
                if let Some(first_kept) = first_kept.filter(|_| in_time) {
                    let kept = Place { position: entry.position, seen: first_kept - 1 };
                    return Err(self.expired(kept, partials));
                }
                in_time
            }
            None => {
                let reached = state.gone_up_to(place.position);
                reached == place.position && state.has_seen_all(place, partials)
            }
        };
        let first_kept = Place::behind(state.gone_up_to(place.position));
        if kept { Ok(()) } else { Err(self.expired(first_kept, partials)) }
    }

    /// The first event of a turn that is kept, if those behind so many are not.
    fn first_kept(&self, entry: &Entry, seen: u64, partials: Partials) -> Option<u64> {
        let What::Turn { log, .. } = &entry.what else { return None };
        if seen >= log.count(partials) {
            return None;
        }
        match log.watch(seen + 1, partials) {
            Err(Failure { cause: Cause::EventsExpired { first_kept }, .. }) => Some(first_kept),
            Ok(_) | Err(_) => None,
        }
    }
}
