//! Older events of a turn, in files. Knows their numbers, classes and bytes.
//!
//! Segments are written one after the other; when their sum would pass the turn's own
//! bound the oldest goes. They are unlinked as soon as they are open: whatever becomes of
//! the service, nothing is left on the disk. What they hold is claimed from a budget
//! before it is written.
//!
//! Reading and writing are plain system calls, which may wait for the disk. They are made
//! on threads that may wait: those of `super::writer` and the runtime's for blocking.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::event::Class;
use crate::budget::{Exceeded, Reservation};

/// Every so many events, a segment remembers where one begins.
const INDEX_STEP: u64 = 128;
/// And whenever so many bytes have come: whoever reads begins there, and reads what is between.
const INDEX_BYTES: u64 = 64 * 1024;
/// Class and length before each line.
const HEADER: usize = 5;
/// Lines from this length on are written by themselves: to copy them costs more than a system call.
const LONG: usize = 32 * 1024;
/// Segments that make up the bound, unless they would be larger than they may be.
const SEGMENTS: u64 = 8;
/// Bytes of a segment at most: the oldest goes as a whole.
const LARGEST_SEGMENT: u64 = 32 << 20;

/// Older events of a turn.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    limit: u64,
    segments: VecDeque<Segment>,
    bytes: u64,
    /// Claims what the files hold.
    held: Reservation,
}

#[derive(Debug)]
struct Segment {
    file: File,
    first: u64,
    count: u64,
    bytes: u64,
    /// Events before its next one that are not partial messages, event 1 included.
    whole: u64,
    index: Vec<Mark>,
}

/// Where an event begins.
#[derive(Debug, Clone, Copy)]
struct Mark {
    sequence: u64,
    offset: u64,
    /// Events before it that are not partial messages, event 1 included.
    whole: u64,
}

impl Spill {
    /// At most `limit` bytes in files in `folder`, claimed by `held`.
    pub fn new(folder: &Path, limit: u64, held: Reservation) -> Self {
        Self { folder: folder.to_owned(), limit, segments: VecDeque::new(), bytes: 0, held }
    }

    /// What events take in a file.
    pub fn size_of(events: &[(Class, Bytes)]) -> u64 {
        events.iter().map(|(_, line)| (line.len() + HEADER) as u64).sum()
    }

    /// What the files hold.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first sequence that is kept; `None` when nothing is.
    pub fn first(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.first)
    }

    /// The sequence of the next event.
    pub fn end(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.first + last.count)
    }

    /// Claims room for so many bytes more, beside all that is there.
    pub fn claim_all(&mut self, more: u64) -> Result<(), Exceeded> {
        self.held.resize(self.bytes + more)
    }

    /// Claims room for so many bytes more. Where the budget has none, the oldest segments
    /// of the turn itself go for them; returns the key of the bound for which they went.
    pub fn claim(&mut self, more: u64) -> Result<Option<&'static str>, Exceeded> {
        let mut bound = None;
        loop {
            match self.held.resize(self.bytes + more) {
                Ok(()) => return Ok(bound),
                Err(exceeded) if self.segments.len() > 1 => {
                    bound = Some(exceeded.key);
                    self.drop_oldest();
                }
                Err(exceeded) => return Err(exceeded),
            }
        }
    }

    /// Events before the first that is kept that are not partial messages, event 1
    /// included.
    pub fn whole_before(&self) -> Option<u64> {
        self.segments.front()?.index.first().map(|mark| mark.whole)
    }

    /// A place at or before the event that follows `whole` events that are not partial
    /// messages: its sequence, and how many of those are before it.
    pub fn place_of(&self, whole: u64) -> Option<(u64, u64)> {
        let before = |mark: &Mark| mark.whole <= whole;
        let starts_before = |segment: &&Segment| segment.index.first().is_some_and(before);
        let segment = self.segments.iter().rev().find(starts_before)?;
        let step = segment.index.partition_point(before).checked_sub(1)?;
        segment.index.get(step).map(|mark| (mark.sequence, mark.whole))
    }

    /// Adds events whose sequences follow those written before, `first` and on, for which
    /// room has been claimed; `whole` of the events before them are not partial messages,
    /// event 1 included. `scratch` is put to use and left empty.
    pub fn write(
        &mut self,
        first: u64,
        whole: u64,
        events: &[(Class, Bytes)],
        scratch: &mut BytesMut,
    ) -> io::Result<()> {
        let full = (self.limit / SEGMENTS).min(LARGEST_SEGMENT);
        if self.segments.back().is_none_or(|last| last.bytes >= full) {
            self.segments.push_back(Segment::create(&self.folder, first, whole)?);
        }
        scratch.clear();
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        let before = segment.bytes;
        for (class, line) in events {
            segment.mark(segment.bytes + scratch.len() as u64);
            segment.whole += u64::from(!class.is_partial());
            let length = u32::try_from(line.len()).map_err(io::Error::other)?;
            scratch.put_u8((*class).into());
            scratch.put_u32(length);
            if line.len() >= LONG {
                segment.append(scratch)?;
                scratch.clear();
                segment.append(line)?;
            } else {
                scratch.put_slice(line);
            }
            segment.count += 1;
        }
        segment.append(scratch)?;
        scratch.clear();
        self.bytes += segment.bytes - before;
        while self.bytes > self.limit && self.segments.len() > 1 {
            self.drop_oldest();
        }
        self.held.set(self.bytes);
        Ok(())
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.segments.pop_front().map_or(0, |oldest| oldest.bytes);
    }

    /// Reads events from sequence `from` on, of about `limit` bytes but at least one.
    pub fn read(&self, from: u64, limit: usize) -> io::Result<Vec<(Class, Bytes)>> {
        let Some(segment) = self.segments.iter().rev().find(|segment| segment.first <= from) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        segment.read(from, limit)
    }
}

impl Segment {
    fn create(folder: &Path, first: u64, whole: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("turn-{}", uuid::Uuid::new_v4()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(path)?;
        Ok(Self { file, first, count: 0, bytes: 0, whole, index: Vec::new() })
    }

    /// Remembers where the next event begins, if it is far from the last one that is remembered.
    fn mark(&mut self, offset: u64) {
        let sequence = self.first + self.count;
        let is_far = |mark: &Mark| {
            sequence - mark.sequence >= INDEX_STEP || offset - mark.offset >= INDEX_BYTES
        };
        if self.index.last().is_none_or(is_far) {
            self.index.push(Mark { sequence, offset, whole: self.whole });
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn read(&self, from: u64, limit: usize) -> io::Result<Vec<(Class, Bytes)>> {
        let marks = self.index.partition_point(|mark| mark.sequence <= from);
        let mark = marks.checked_sub(1).and_then(|last| self.index.get(last));
        let Mark { mut sequence, mut offset, .. } = *mark.ok_or(io::ErrorKind::NotFound)?;
        let mut wanted = Vec::new();
        let mut taken = 0;
        while taken < limit && sequence < self.first + self.count {
            let chunk = self.read_chunk(offset, limit)?;
            let mut rest = chunk.clone();
            while let Some((class, line)) = split_event(&mut rest)? {
                if sequence >= from && (taken < limit || wanted.is_empty()) {
                    taken += line.len() + HEADER;
                    wanted.push((class, line));
                }
                sequence += 1;
            }
            offset += (chunk.len() - rest.len()) as u64;
        }
        Ok(wanted)
    }

    /// Bytes from `offset` on that hold at least one whole event.
    fn read_chunk(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, offset)?;
        let first = HEADER + event_length(&header);
        let mut chunk = vec![0; left.min(limit.max(first))];
        self.file.read_exact_at(&mut chunk, offset)?;
        Ok(chunk.into())
    }
}

fn event_length(header: &[u8]) -> usize {
    header[1..HEADER].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Takes the first event off `bytes`, if it is there as a whole.
fn split_event(bytes: &mut Bytes) -> io::Result<Option<(Class, Bytes)>> {
    if bytes.len() < HEADER || bytes.len() < HEADER + event_length(bytes) {
        return Ok(None);
    }
    let length = event_length(bytes);
    let class = Class::try_from(bytes[0])?;
    let mut event = bytes.split_to(HEADER + length);
    Ok(Some((class, event.split_off(HEADER))))
}

const CLASSES: [Class; 13] = [
    Class::System,
    Class::Assistant,
    Class::User,
    Class::StreamEvent,
    Class::Prompt,
    Class::Result,
    Class::InterruptedResult,
    Class::Other,
    Class::UnstructuredResult,
    Class::PromptResolved,
    Class::Steered,
    Class::RateLimited,
    Class::EgressRefused,
];

impl From<Class> for u8 {
    fn from(class: Class) -> Self {
        class as Self
    }
}

impl TryFrom<u8> for Class {
    type Error = io::Error;

    fn try_from(byte: u8) -> io::Result<Self> {
        CLASSES.get(usize::from(byte)).copied().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        budget::{Bounds, Budget},
        domain::ids::TenantId,
    };

    fn spill(folder: &Path, limit: u64, budget: u64) -> Spill {
        let bounds = Bounds { key: "all", total: budget, tenant_key: "each", of_tenant: None };
        let held = Budget::new(bounds).account(&TenantId::default()).open();
        Spill::new(folder, limit, held)
    }

    fn write(
        spill: &mut Spill,
        first: u64,
        events: impl Iterator<Item = (Class, Bytes)>,
    ) -> Result<(), Exceeded> {
        let events: Vec<_> = events.collect();
        spill.claim(Spill::size_of(&events))?;
        spill.write(first, first - 1, &events, &mut BytesMut::new()).expect("written");
        Ok(())
    }

    fn line(sequence: u64) -> Bytes {
        format!("{{\"n\":{sequence},\"pad\":\"{}\"}}", "x".repeat((sequence % 90) as usize)).into()
    }

    #[test]
    fn what_was_written_is_read_from_any_sequence() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = spill(folder.path(), 1 << 20, 1 << 20);
        let mut next = 2;
        for count in [1, 127, 300, 5] {
            let events = (next..next + count).map(|n| (Class::Assistant, line(n)));
            write(&mut spill, next, events).expect("room");
            next += count;
        }
        assert_eq!(spill.first(), Some(2));
        for from in [2, 3, 129, 130, 131, 400, next - 1] {
            let events = spill.read(from, 1000).expect("read");
            assert!(!events.is_empty());
            for (offset, (class, bytes)) in events.iter().enumerate() {
                assert_eq!((*class, bytes), (Class::Assistant, &line(from + offset as u64)));
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn the_oldest_go_when_the_bound_is_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = spill(folder.path(), 8000, 1 << 20);
        for first in (1..2000).step_by(10) {
            let events = (first..first + 10).map(|n| (Class::System, line(n)));
            write(&mut spill, first, events).expect("room");
        }
        let first = spill.first().expect("some are kept");
        assert!(first > 1 && first < 2000, "{first}");
        assert!(spill.read(first - 1, 100).is_err());
        assert_eq!(spill.read(first, 1).expect("read"), [(Class::System, line(first))]);
        assert!(spill.bytes <= 9000, "{}", spill.bytes);
    }

    #[test]
    fn c6_the_oldest_of_the_turn_go_where_the_budget_has_no_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = spill(folder.path(), 80_000, 30_000);
        for first in (1..2000).step_by(10) {
            let events = (first..first + 10).map(|n| (Class::System, line(n)));
            write(&mut spill, first, events).expect("room");
            assert!(spill.held.bytes() <= 30_000);
        }
        assert!(spill.first().expect("some are kept") > 1);
        // What does not fit at all is refused, and what is there stays.
        let large = (Class::System, Bytes::from(vec![b'x'; 40_000]));
        let refused = write(&mut spill, 2001, [large].into_iter()).expect_err("no room");
        assert_eq!(refused.key, "all");
    }

    #[test]
    fn a_long_event_is_found_without_those_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = spill(folder.path(), 1 << 26, 1 << 26);
        let sizes = [10, 300, LONG - 1, LONG, 100_000];
        let event = |n: u64| (Class::Assistant, Bytes::from(vec![n as u8; sizes[n as usize % 5]]));
        for first in (2..302).step_by(3) {
            write(&mut spill, first, (first..first + 3).map(event)).expect("room");
        }
        for sequence in 2..302 {
            assert_eq!(spill.read(sequence, 1).expect("read"), [event(sequence)], "{sequence}");
            let (at, whole) = spill.place_of(sequence - 1).expect("a place");
            assert_eq!(whole, at - 1, "all of them are whole");
            let between: usize = (at..sequence).map(|n| event(n).1.len() + HEADER).sum();
            assert!((between as u64) < INDEX_BYTES + 100_005, "{between} bytes are read for one");
        }
    }

    #[test]
    fn an_event_larger_than_the_read_is_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = spill(folder.path(), 1 << 20, 1 << 20);
        let large = Bytes::from(vec![b'y'; 100_000]);
        let events =
            [(Class::Other, line(1)), (Class::Result, large.clone()), (Class::Other, line(3))];
        write(&mut spill, 1, events.clone().into_iter()).expect("room");
        assert_eq!(spill.read(2, 10).expect("read"), [events[1].clone()]);
        assert_eq!(spill.read(1, 1 << 20).expect("read"), events);
    }
}
