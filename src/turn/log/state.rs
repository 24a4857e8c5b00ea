//! What a turn's log holds, and where. Everything here happens under the log's lock.

use std::{collections::VecDeque, sync::Arc, task::Waker};

use bytes::Bytes;

use super::{LogLimits, Partials};
use crate::{
    failure::{Cause, Failure},
    turn::{
        event::{Class, Event, Started},
        spill::Spill,
    },
};

/// What a frame costs in memory beside its bytes.
const EVENT_OVERHEAD: usize = 64;
/// Bytes that a reader takes at a time.
const BATCH_BYTES: usize = 256 * 1024;
/// Events that a reader takes at a time.
const BATCH_EVENTS: usize = 1024;

/// Partial messages that are at hand although nobody asked for them, with a bound of a
/// part of the log's memory too.
const MOST_UNASKED: usize = 256 * 1024;
const UNASKED_SHARE: usize = 8;

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: LogLimits,
    pub(super) started: Option<Arc<Started>>,
    /// The newest frames; the first has sequence `first_in_memory`.
    pub(super) frames: VecDeque<(Class, Bytes)>,
    pub(super) first_in_memory: u64,
    /// Events before that one that are not partial messages, event 1 included.
    pub(super) whole_before_memory: u64,
    pub(super) memory_bytes: usize,
    pub(super) spill: Option<Spill>,
    pub(super) partials: Asked,
    pub(super) end: Option<Result<(), Failure>>,
    pub(super) wakers: Vec<Waiter>,
    pub(super) next_listener: u64,
}

/// Whether somebody has asked for partial messages.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nobody yet. Those of the block that is being written are at hand, unless they were
    /// too many.
    Not { at_hand: Vec<Bytes>, bytes: usize },
    /// They are in the log.
    Yes,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) key: u64,
    pub(super) partials: Partials,
    pub(super) waker: Option<Waker>,
}

impl State {
    /// Nothing yet.
    pub(super) fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            started: None,
            frames: VecDeque::new(),
            first_in_memory: 2,
            whole_before_memory: 1,
            memory_bytes: 0,
            spill: None,
            partials: Asked::Not { at_hand: Vec::new(), bytes: 0 },
            end: None,
            wakers: Vec::new(),
            next_listener: 0,
        }
    }

    /// The sequence that the next event gets.
    pub(super) fn next_sequence(&self) -> u64 {
        match self.started {
            Some(_) => self.first_in_memory + self.frames.len() as u64,
            None => 1,
        }
    }

    /// The first sequence kept, event 1 aside, which always is, by the count of such a
    /// listener.
    pub(super) fn first_kept(&self, partials: Partials) -> u64 {
        let spill = self.spill.as_ref();
        match partials {
            Partials::Shown => spill.and_then(Spill::first).unwrap_or(self.first_in_memory),
            Partials::Hidden => {
                1 + spill.and_then(Spill::whole_before).unwrap_or(self.whole_before_memory)
            }
        }
    }

    /// A place at or before the event that such a listener numbers `from`: its sequence in
    /// the log and in the listener's count.
    pub(super) fn place_of(&self, from: u64, partials: Partials) -> (u64, u64) {
        if partials == Partials::Shown || from == 1 {
            return (from, from);
        }
        let in_memory = (self.first_in_memory, 1 + self.whole_before_memory);
        if from >= in_memory.1 {
            return in_memory;
        }
        let spilled = self.spill.as_ref().and_then(|spill| spill.place_of(from - 1));
        spilled.map_or(in_memory, |(sequence, whole)| (sequence, 1 + whole))
    }

    pub(super) fn add(&mut self, class: Class, line: Bytes) {
        if let Asked::Not { at_hand, bytes } = &mut self.partials {
            if class.is_partial() {
                *bytes = bytes.saturating_add(line.len() + EVENT_OVERHEAD);
                if *bytes <= MOST_UNASKED.min(self.limits.buffer_bytes / UNASKED_SHARE) {
                    at_hand.push(line);
                } else {
                    // A block without its start is of no use to anybody.
                    *at_hand = Vec::new();
                }
                return;
            }
            (*at_hand, *bytes) = (Vec::new(), 0);
        }
        self.memory_bytes += line.len() + EVENT_OVERHEAD;
        self.frames.push_back((class, line));
    }

    /// From here on partial messages enter the log, those that are at hand first: no event
    /// came after them.
    pub(super) fn ask_for_partials(&mut self) {
        if let Asked::Not { at_hand, .. } = std::mem::replace(&mut self.partials, Asked::Yes) {
            for line in at_hand {
                self.add(Class::StreamEvent, line);
            }
        }
    }

    /// Wakes who waits for events; those that see no partial messages only for others.
    pub(super) fn wake(&mut self, any_whole: bool) {
        let waits = |waiter: &&mut Waiter| any_whole || waiter.partials == Partials::Shown;
        self.wakers
            .iter_mut()
            .filter(waits)
            .filter_map(|waiter| waiter.waker.take())
            .for_each(Waker::wake);
    }

    /// Moves the older half out of memory, so that it is not done for every frame.
    pub(super) fn evict(&mut self) {
        let mut oldest = Vec::new();
        while self.memory_bytes > self.limits.buffer_bytes / 2 && self.frames.len() > 1 {
            let Some((class, line)) = self.frames.pop_front() else { break };
            self.memory_bytes -= line.len() + EVENT_OVERHEAD;
            oldest.push((class, line));
        }
        let (first, whole) = (self.first_in_memory, self.whole_before_memory);
        self.first_in_memory += oldest.len() as u64;
        let whole_among = oldest.iter().filter(|(class, _)| !class.is_partial()).count();
        self.whole_before_memory += whole_among as u64;
        if self.limits.spill_bytes == 0 {
            return;
        }
        let limits = &self.limits;
        let spill =
            self.spill.get_or_insert_with(|| Spill::new(&limits.spill_folder, limits.spill_bytes));
        if let Err(error) = spill.write(first, whole, oldest.into_iter()) {
            // A full disk must not end the turn: those who have read so far go on, those
            // who have not are told that they lost their place.
            tracing::warn!(%error, "turn_spill_failed");
            self.spill = None;
        }
    }

    /// Events of the log from `next` on, at least one.
    pub(super) fn read(&self, next: u64, partials: Partials) -> Result<Vec<Event>, Cause> {
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
        let lost = Cause::ListenerTooSlow { first_kept: self.first_kept(partials) };
        match &self.spill {
            Some(spill) if spill.first().is_some_and(|first| next >= first) => spill
                .read(next, BATCH_BYTES)
                .map(|events| events.into_iter().map(|(c, line)| Event::Frame(c, line)).collect())
                .map_err(|_| lost),
            _ => Err(lost),
        }
    }
}
