//! Older events of a turn, in files. Knows their numbers, classes and bytes.
//!
//! Segments are written one after the other; when their sum would pass the bound the
//! oldest goes. They are unlinked as soon as they are open: whatever becomes of the
//! service, nothing is left on the disk.
//!
//! Reading and writing are plain system calls on the page cache, bounded in size by
//! the caller, and therefore done where they are needed, on a runtime's thread.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::event::Class;

/// Every so many events, a segment remembers where one begins.
const INDEX_STEP: usize = 128;
/// Class and length before each line.
const HEADER: usize = 5;
/// Segments that make up the bound.
const SEGMENTS: u64 = 8;

/// Older events of a turn.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    limit: u64,
    segments: VecDeque<Segment>,
    bytes: u64,
    scratch: BytesMut,
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
    offset: u64,
    /// Events before it that are not partial messages, event 1 included.
    whole: u64,
}

impl Spill {
    /// At most `limit` bytes in files in `folder`.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            limit,
            segments: VecDeque::new(),
            bytes: 0,
            scratch: BytesMut::new(),
        }
    }

    /// The first sequence that is kept; `None` when nothing is.
    pub fn first(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.first)
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
        Some((segment.first + (step * INDEX_STEP) as u64, segment.index.get(step)?.whole))
    }

    /// Adds events whose sequences follow those written before, `first` and on; `whole`
    /// of the events before them are not partial messages, event 1 included.
    pub fn write(
        &mut self,
        first: u64,
        whole: u64,
        events: impl Iterator<Item = (Class, Bytes)>,
    ) -> io::Result<()> {
        if self.segments.back().is_none_or(|last| last.bytes >= self.limit / SEGMENTS) {
            self.segments.push_back(Segment::create(&self.folder, first, whole)?);
        }
        self.scratch.clear();
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        for (class, line) in events {
            if segment.count.is_multiple_of(INDEX_STEP as u64) {
                let offset = segment.bytes + self.scratch.len() as u64;
                segment.index.push(Mark { offset, whole: segment.whole });
            }
            segment.whole += u64::from(!class.is_partial());
            let length = u32::try_from(line.len()).map_err(io::Error::other)?;
            self.scratch.put_u8(class.into());
            self.scratch.put_u32(length);
            self.scratch.put_slice(&line);
            segment.count += 1;
        }
        segment.file.write_all_at(&self.scratch, segment.bytes)?;
        segment.bytes += self.scratch.len() as u64;
        self.bytes += self.scratch.len() as u64;
        while self.bytes > self.limit && self.segments.len() > 1 {
            self.bytes -= self.segments.pop_front().map_or(0, |oldest| oldest.bytes);
        }
        Ok(())
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

    fn read(&self, from: u64, limit: usize) -> io::Result<Vec<(Class, Bytes)>> {
        let skip = from - self.first;
        let step = usize::try_from(skip).map_err(io::Error::other)? / INDEX_STEP;
        let mut offset = self.index.get(step).ok_or(io::ErrorKind::NotFound)?.offset;
        let mut sequence = self.first + (step * INDEX_STEP) as u64;
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

const CLASSES: [Class; 8] = [
    Class::System,
    Class::Assistant,
    Class::User,
    Class::StreamEvent,
    Class::Prompt,
    Class::Result,
    Class::InterruptedResult,
    Class::Other,
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

    fn line(sequence: u64) -> Bytes {
        format!("{{\"n\":{sequence},\"pad\":\"{}\"}}", "x".repeat((sequence % 90) as usize)).into()
    }

    #[test]
    fn what_was_written_is_read_from_any_sequence() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = Spill::new(folder.path(), 1 << 20);
        let mut next = 2;
        for count in [1, 127, 300, 5] {
            spill
                .write(next, next - 1, (next..next + count).map(|n| (Class::Assistant, line(n))))
                .expect("written");
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
        let mut spill = Spill::new(folder.path(), 8000);
        for first in (1..2000).step_by(10) {
            spill
                .write(first, first, (first..first + 10).map(|n| (Class::System, line(n))))
                .expect("written");
        }
        let first = spill.first().expect("some are kept");
        assert!(first > 1 && first < 2000, "{first}");
        assert!(spill.read(first - 1, 100).is_err());
        assert_eq!(spill.read(first, 1).expect("read"), [(Class::System, line(first))]);
        assert!(spill.bytes <= 9000, "{}", spill.bytes);
    }

    #[test]
    fn an_event_larger_than_the_read_is_read_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = Spill::new(folder.path(), 1 << 20);
        let large = Bytes::from(vec![b'y'; 100_000]);
        let events =
            [(Class::Other, line(1)), (Class::Result, large.clone()), (Class::Other, line(3))];
        spill.write(1, 0, events.clone().into_iter()).expect("written");
        assert_eq!(spill.read(2, 10).expect("read"), [events[1].clone()]);
        assert_eq!(spill.read(1, 1 << 20).expect("read"), events);
    }
}
