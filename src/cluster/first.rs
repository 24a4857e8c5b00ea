//! The session that a request names: read from the beginning of its first message, of which
//! nothing else is decoded. What was read stands before the rest of the body again, so that
//! whoever serves the call sees what the caller has sent.
//!
//! Whatever cannot be read, because it is compressed, malformed, too large or cut off, names
//! no session as far as this is concerned: the service here refuses it in its own words.
//! Encoders write fields by their numbers, so that the id is among the first bytes; no more than
//! [`LOOKED_AT`] are kept to find it, and a request that has it behind those goes on here, where
//! the store knows whose the session is.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::rpcs::SESSION_FIELD;
use crate::domain::ids::SessionId;

/// A message begins with a flag and its length.
const PREFIX: usize = 5;
/// Bytes of a request that are looked at.
const LOOKED_AT: usize = 64 * 1024;
/// Bytes of the longest number.
const LONGEST_VARINT: usize = 10;

/// What is known of the session's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing yet: more has to come.
    NotYet,
    /// It stands there.
    At(usize, usize),
    /// There is none that can be read.
    Nothing,
}

/// Goes through the fields of a message that comes in pieces. Each field is looked at once,
/// however many pieces there are.
#[derive(Debug)]
struct Scan {
    /// Where the next field begins, from the beginning of the body.
    next: usize,
    /// Bytes of the largest message that is decoded.
    largest: u64,
}

impl Scan {
    fn new(largest: u64) -> Self {
        Self { next: PREFIX, largest }
    }

    /// Goes on with all that has come so far.
    fn go_on(&mut self, seen: &[u8]) -> Found {
        let Some([compressed, a, b, c, d]) = seen.first_chunk::<PREFIX>() else {
            return Found::NotYet;
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]);
        if *compressed != 0 || u64::from(length) > self.largest {
            return Found::Nothing;
        }
        let Ok(end) = usize::try_from(u64::from(length) + PREFIX as u64) else {
            return Found::Nothing;
        };
        let seen = &seen[..seen.len().min(end)];
        while self.next < end {
            if self.next >= LOOKED_AT {
                return Found::Nothing;
            }
            let Some(rest) = seen.get(self.next..).filter(|rest| !rest.is_empty()) else {
                return Found::NotYet;
            };
            match Field::read(rest) {
                Read::Field(Field { number: SESSION_FIELD, text: Some(text), length }) => {
                    let (from, to) = (self.next + length - text, self.next + length);
                    if to > end || to > LOOKED_AT {
                        return Found::Nothing;
                    }
                    return if to > seen.len() { Found::NotYet } else { Found::At(from, to) };
                }
                Read::Field(Field { number: SESSION_FIELD, .. }) => return Found::Nothing,
                Read::Field(Field { length, .. }) => self.next += length,
                Read::NotYet => {
                    return if seen.len() == end { Found::Nothing } else { Found::NotYet };
                }
                Read::Malformed => return Found::Nothing,
            }
        }
        Found::Nothing
    }
}

/// A field of a message.
struct Field {
    number: u64,
    /// Bytes of its content, if that is text, bytes or a message.
    text: Option<usize>,
    /// Bytes of all of it.
    length: usize,
}

enum Read {
    Field(Field),
    NotYet,
    Malformed,
}

impl Field {
    /// Reads what stands before a field's content.
    fn read(rest: &[u8]) -> Read {
        let (tag, after_tag) = match varint(rest) {
            Ok(Some(read)) => read,
            Ok(None) => return Read::NotYet,
            Err(()) => return Read::Malformed,
        };
        let number = tag >> 3;
        // Numbers have 29 bits, and none is 0.
        if number == 0 || number >> 29 != 0 {
            return Read::Malformed;
        }
        let fixed = |length| Read::Field(Self { number, text: None, length });
        match tag & 7 {
            1 => fixed(after_tag + 8),
            5 => fixed(after_tag + 4),
            kind @ (0 | 2) => match varint(&rest[after_tag..]) {
                Ok(None) => Read::NotYet,
                Err(()) => Read::Malformed,
                Ok(Some((_, read))) if kind == 0 => fixed(after_tag + read),
                Ok(Some((length, read))) => match usize::try_from(length) {
                    // No message is as long as that.
                    Ok(text) if text <= u32::MAX as usize => Read::Field(Self {
                        number,
                        text: Some(text),
                        length: after_tag + read + text,
                    }),
                    _ => Read::Malformed,
                },
            },
            // Groups, which the contract does not have, and what is none of the kinds.
            _ => Read::Malformed,
        }
    }
}

/// A number and how many bytes it has; `None` if it goes on behind them.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, ()> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(LONGEST_VARINT).enumerate() {
        // The last of ten bytes has room for one bit.
        if at == LONGEST_VARINT - 1 && *byte > 1 {
            return Err(());
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= LONGEST_VARINT { Err(()) } else { Ok(None) }
}

/// Reads a body until it is known which session it names, if any. The body that is returned
/// begins with what was read.
pub async fn look(mut body: Body, largest: u64) -> (Option<SessionId>, Body) {
    let (mut seen, mut scan) = (BytesMut::new(), Scan::new(largest));
    let mut failed = None;
    let found = loop {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => seen.extend_from_slice(&piece),
                // Requests have no trailers; the edge lets none through.
                Err(_) => break Found::Nothing,
            },
            Some(Err(status)) => {
                failed = Some(status);
                break Found::Nothing;
            }
            None => break Found::Nothing,
        }
        match scan.go_on(&seen) {
            Found::NotYet => {}
            found => break found,
        }
    };
    let id = match found {
        Found::At(from, to) => {
            std::str::from_utf8(&seen[from..to]).ok().and_then(|text| SessionId::parse(text).ok())
        }
        Found::NotYet | Found::Nothing => None,
    };
    let seen = Some(seen.freeze()).filter(|seen| !seen.is_empty());
    (id, Body::new(Replayed { seen, failed, body }))
}

/// A body whose beginning has been read already.
struct Replayed {
    seen: Option<Bytes>,
    /// How it ended while it was read, if it has.
    failed: Option<Status>,
    body: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(seen) = self.seen.take() {
            return Poll::Ready(Some(Ok(Frame::data(seen))));
        }
        if let Some(status) = self.failed.take() {
            self.body = Body::empty();
            return Poll::Ready(Some(Err(status)));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_none() && self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.seen.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests;
