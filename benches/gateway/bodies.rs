//! Bodies of requests and of answers, whose lengths are known where an API or a CLI would know them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes of an event of a stream.
pub const EVENT: usize = 300;
/// Time between two events of a stream.
pub const PACE: Duration = Duration::from_millis(10);
/// What the time stands behind at which an event was due.
pub const DUE: &[u8] = b"\"due=";
/// Digits of that time.
pub const DIGITS: usize = 20;

type Polled = Poll<Option<Result<Frame<Bytes>, Infallible>>>;

/// Nanoseconds of a clock that all processes of the machine share.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// An event that brings a piece of text: this one, and as much more as makes it [`EVENT`] bytes long.
pub fn delta(text: &str) -> String {
    let event = |text: &str| {
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
             \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        )
    };
    let rest = EVENT.saturating_sub(event(text).len());
    event(&format!("{text}{}", "lorem ipsum ".chars().cycle().take(rest).collect::<String>()))
}

/// One piece, again and again until there are so many bytes of it.
pub struct Repeated {
    piece: Bytes,
    left: usize,
}

impl Repeated {
    /// So many bytes in pieces like this one.
    pub fn new(piece: Bytes, bytes: usize) -> Self {
        Self { piece, left: bytes }
    }

    /// The piece alone.
    pub fn once(piece: Bytes) -> Self {
        Self { left: piece.len(), piece }
    }
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.piece.slice(..self.piece.len().min(self.left));
        self.left -= piece.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// Events at a steady pace, each with the time at which it was due.
pub struct Paced {
    timer: Pin<Box<Sleep>>,
    due: u64,
    left: usize,
}

impl Paced {
    /// So many, the first after this time.
    pub fn new(events: usize, first: Duration) -> Self {
        let due = now() + u64::try_from(first.as_nanos()).unwrap_or(0);
        Self { timer: Box::pin(sleep_until(Instant::now() + first)), due, left: events }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.timer.as_mut().poll(cx));
        let next = self.timer.deadline() + PACE;
        self.timer.as_mut().reset(next);
        let event = delta(&format!("due={:0DIGITS$} ", self.due));
        self.due += u64::try_from(PACE.as_nanos()).unwrap_or(0);
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}
