//! What a log holds, behind its lock. Knows numbers and bytes; nothing of files but which
//! sequences are in them. How events come in is `log`'s, how they are read `listener`'s.

use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::event::{Class, Partials, Started};
use crate::{
    budget::Reservation,
    domain::failure::{Cause, Failure},
};

/// What a frame costs in memory beside its bytes.
pub const EVENT_OVERHEAD: usize = 64;
/// What a log costs in memory beside its frames.
const LOG_OVERHEAD: u64 = 1024;
/// Bytes that are written to a file at a time.
const WRITE_BYTES: usize = 1 << 20;
/// How long the disk may take for one write before events are given up: as long as a commit
/// may take by default (`store.commit_timeout`). A disk under load was seen to take 20 s.
const LONGEST_WRITE: Duration = Duration::from_secs(45);

#[derive(Debug)]
pub struct State {
    pub started: Option<Arc<Started>>,
    /// The newest frames; the first has sequence `first_in_memory`.
    pub frames: VecDeque<(Class, Bytes)>,
    pub first_in_memory: u64,
    /// Events before that one that are not partial messages, event 1 included.
    pub whole_before_memory: u64,
    pub memory_bytes: usize,
    /// Claims `memory_bytes`.
    pub held: Reservation,
    /// The first event that is in a file; those from there to memory are.
    pub files: Option<Files>,
    /// Whether somebody has asked for partial messages.
    pub partials: Asked,
    /// What is under way to a file.
    pub writing: Option<Writing>,
    /// Nothing is written any more.
    pub closed: bool,
    /// The bound for which events went.
    pub lost_to: &'static str,
    pub end: Option<Result<(), Failure>>,
    pub listeners: Vec<Place>,
    pub next_listener: u64,
    /// When a caller has last read to the end, if one has.
    pub read_at: Option<Instant>,
}

/// The first event that is in a file.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// Its sequence.
    pub first: u64,
    /// Events before it that are not partial messages, event 1 included.
    pub whole_before: u64,
}

/// Whether somebody has asked for partial messages.
#[derive(Debug)]
pub enum Asked {
    /// Nobody yet. Those of the block that is being written are at hand, unless they were
    /// too many.
    Not { at_hand: Vec<Bytes>, bytes: usize },
    /// They are in the log.
    Yes,
}

/// What a listener is to its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The turn is for it: one that all callers have left may be given up.
    Caller,
    /// It follows the session, whatever becomes of the turn. What has ended gives way without
    /// regard to it.
    Watcher,
}

/// A listener, as its log sees it.
#[derive(Debug)]
pub struct Place {
    pub key: u64,
    pub role: Role,
    pub partials: Partials,
    pub waker: Option<Waker>,
    /// Whether it has read to the end.
    pub done: bool,
}

/// Events are being written to a file.
#[derive(Debug, Clone, Copy)]
pub struct Writing {
    /// So much may stay in memory.
    pub down_to: usize,
    /// At more than this, whoever appends is to wait.
    full_at: usize,
    /// Until when whoever appends waits for them; `None` once that has come.
    until: Option<Instant>,
}

/// Events that go to a file together.
#[derive(Debug)]
pub struct Portion {
    /// Sequence of the first.
    pub first: u64,
    /// Events before it that are not partial messages, event 1 included.
    pub whole: u64,
    /// The events.
    pub events: Vec<(Class, Bytes)>,
}

impl Writing {
    /// A write that begins now.
    pub fn new(down_to: usize, full_at: usize) -> Self {
        Self { down_to, full_at, until: Some(Instant::now() + LONGEST_WRITE) }
    }
}

impl State {
    /// Nothing yet.
    pub fn new(mut held: Reservation) -> Self {
        held.set(LOG_OVERHEAD);
        Self {
            started: None,
            frames: VecDeque::new(),
            first_in_memory: 2,
            whole_before_memory: 1,
            memory_bytes: 0,
            held,
            files: None,
            partials: Asked::Not { at_hand: Vec::new(), bytes: 0 },
            writing: None,
            closed: false,
            lost_to: "pool.turn_spill_bytes",
            end: None,
            listeners: Vec::new(),
            next_listener: 0,
            read_at: None,
        }
    }

    /// The sequence that the next event gets.
    pub fn next_sequence(&self) -> u64 {
        match self.started {
            Some(_) => self.first_in_memory + self.frames.len() as u64,
            None => 1,
        }
    }

    /// The first sequence kept, event 1 aside, which always is, by the count of such a
    /// listener.
    pub fn first_kept(&self, partials: Partials) -> u64 {
        match partials {
            Partials::Shown => self.files.map_or(self.first_in_memory, |files| files.first),
            Partials::Hidden => {
                1 + self.files.map_or(self.whole_before_memory, |files| files.whole_before)
            }
        }
    }

    /// How many events such a listener has been able to see so far.
    pub fn count(&self, partials: Partials) -> u64 {
        match partials {
            Partials::Shown => self.next_sequence() - 1,
            Partials::Hidden if self.started.is_none() => 0,
            Partials::Hidden => {
                let whole = self.frames.iter().filter(|(class, _)| !class.is_partial());
                self.whole_before_memory + whole.count() as u64
            }
        }
    }

    /// How many callers listen.
    pub fn callers(&self) -> usize {
        self.listeners.iter().filter(|place| place.role == Role::Caller).count()
    }

    /// A place at or before the event that such a listener numbers `from`: its sequence in
    /// the log and in the listener's count. In files it is the first one: whoever reads
    /// them looks closer.
    pub fn place_of(&self, from: u64, partials: Partials) -> (u64, u64) {
        if partials == Partials::Shown || from == 1 {
            return (from, from);
        }
        let in_memory = (self.first_in_memory, 1 + self.whole_before_memory);
        match self.files {
            Some(files) if from < in_memory.1 => (files.first, 1 + files.whole_before),
            _ => in_memory,
        }
    }

    /// An event is in memory.
    pub fn push(&mut self, class: Class, line: Bytes) {
        self.memory_bytes += line.len() + EVENT_OVERHEAD;
        self.frames.push_back((class, line));
    }

    /// From here on partial messages enter the log, those that are at hand first: no event
    /// came after them.
    pub fn ask_for_partials(&mut self) {
        if let Asked::Not { at_hand, .. } = std::mem::replace(&mut self.partials, Asked::Yes) {
            for line in at_hand {
                self.push(Class::StreamEvent, line);
            }
            self.claim();
        }
    }

    /// Claims what is in memory, which is there already.
    pub fn claim(&mut self) {
        let at_hand = match &self.partials {
            Asked::Not { at_hand, bytes } if !at_hand.is_empty() => *bytes,
            _ => 0,
        };
        self.held.set((self.memory_bytes + at_hand) as u64 + LOG_OVERHEAD);
    }

    /// Until when whoever appends is to wait, if they are.
    pub fn full_until(&self) -> Option<Instant> {
        self.writing.filter(|writing| self.memory_bytes > writing.full_at)?.until
    }

    /// Copies of the oldest events that are to go to a file; none when enough have gone.
    pub fn next_to_write(&mut self) -> Option<Portion> {
        let Some(writing) = &mut self.writing else { return None };
        let (mut events, mut bytes) = (Vec::new(), 0);
        for (class, line) in self.frames.iter().take(self.frames.len().saturating_sub(1)) {
            if bytes >= WRITE_BYTES || self.memory_bytes - bytes <= writing.down_to || self.closed {
                break;
            }
            bytes += line.len() + EVENT_OVERHEAD;
            events.push((*class, line.clone()));
        }
        if events.is_empty() {
            let down_to = writing.down_to;
            self.writing = None;
            if self.closed {
                self.drop_oldest(down_to);
            }
            return None;
        }
        writing.until = Some(Instant::now() + LONGEST_WRITE);
        Some(Portion { first: self.first_in_memory, whole: self.whole_before_memory, events })
    }

    /// Whether the events up to `next` can leave memory for a file that has them.
    pub fn is_next(&self, next: u64) -> bool {
        !self.closed && self.first_in_memory <= next
    }

    /// Lets the first so many events in memory go.
    pub fn forget(&mut self, count: usize) {
        for (class, line) in self.frames.drain(..count.min(self.frames.len())) {
            self.first_in_memory += 1;
            self.whole_before_memory += u64::from(!class.is_partial());
            self.memory_bytes -= line.len() + EVENT_OVERHEAD;
        }
        self.claim();
    }

    /// Lets the oldest events in memory go, with those in files, but never the newest one.
    pub fn drop_oldest(&mut self, down_to: usize) {
        let mut left = self.memory_bytes;
        let last = self.frames.len().saturating_sub(1);
        let some = self.frames.iter().take(last).take_while(|(_, line)| {
            let more = left > down_to;
            left -= if more { line.len() + EVENT_OVERHEAD } else { 0 };
            more
        });
        let count = some.count();
        if count > 0 {
            self.files = None;
            self.forget(count);
        }
    }

    /// Makes room at once: the disk does not keep up.
    pub fn overflow(&mut self) {
        self.lost_to = "pool.turn_buffer_bytes";
        let down_to = self.writing.map_or(0, |writing| writing.down_to);
        self.drop_oldest(down_to);
    }

    /// The disk has not answered in time: nobody waits for it before it does.
    pub fn give_up_waiting(&mut self) {
        self.overflow();
        if let Some(writing) = &mut self.writing {
            writing.until = None;
        }
    }

    /// Whether it has ended and everybody who listened has read all of it.
    pub fn is_read(&self) -> bool {
        self.end.is_some()
            && self.read_at.is_some()
            && self.listeners.iter().all(|place| place.done)
    }

    /// The failure of a listener whose events have gone.
    pub fn lost(&self, partials: Partials) -> Cause {
        let first_kept = self.first_kept(partials);
        Cause::ListenerTooSlow { first_kept, bound: self.lost_to }
    }
}
