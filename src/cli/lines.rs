//! Cuts a byte stream into lines, within a bound; lines that came together share their memory.
//! Knows nothing of what the lines say.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::yield_now,
};

/// What a read asks for: the size of a Linux pipe.
const READ: usize = 64 * 1024;

thread_local! {
    /// Where reads of a thread put what they get, before it is copied to a place of its size: idle
    /// processes are many, and none of them holds space for what it may print.
    static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Bytes after which the reader yields. The task that waits for the lines was woken on this thread, and
/// no other thread can steal it while this one goes on reading.
const BURST: usize = READ;

/// Why no further line can be had.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// A line is longer than the bound. What follows it is not read.
    #[error("a line of more than {limit} bytes")]
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The stream failed.
    #[error("reading failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads lines from `R`, many at a time.
#[derive(Debug)]
pub struct LineReader<R> {
    inner: R,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    max_line: usize,
    /// Bytes that were read since others had the thread.
    burst: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Lines of `inner` of at most `max_line` bytes, their end not counted.
    pub fn new(inner: R, max_line: usize) -> Self {
        Self { inner, buffer: BytesMut::new(), scanned: 0, max_line, burst: 0, ended: false }
    }

    /// Waits for more input and adds the lines that it completes to `lines`;
    /// they may be none. Returns false at the end of the stream, when the last
    /// line counts even without a line end. Empty lines are left out.
    ///
    /// Cancel safe: what was read before a cancelled call is kept.
    pub async fn read_lines(&mut self, lines: &mut Vec<Bytes>) -> Result<bool, LineError> {
        if self.ended {
            return Ok(false);
        }
        if self.burst >= BURST {
            self.burst = 0;
            yield_now().await;
        }
        let count = poll_fn(|context| self.poll_fill(context)).await?;
        self.burst += count;
        if count == 0 {
            self.ended = true;
            push_line(lines, self.buffer.split().freeze());
            return Ok(false);
        }
        self.cut(lines)?;
        Ok(true)
    }

    /// Reads once; returns how many bytes came.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        SPACE.with_borrow_mut(|space| {
            let mut space = ReadBuf::new(space);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut space))?;
            self.buffer.extend_from_slice(space.filled());
            Poll::Ready(Ok(space.filled().len()))
        })
    }

    /// Whether a line has begun that has not ended.
    pub fn is_within_line(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn cut(&mut self, lines: &mut Vec<Bytes>) -> Result<(), LineError> {
        let Some(end) = memchr::memrchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return self.check(self.scanned);
        };
        let whole = self.buffer.split_to(self.scanned + end + 1).freeze();
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', &whole) {
            self.check(newline - start)?;
            push_line(lines, whole.slice(start..newline));
            start = newline + 1;
        }
        if self.buffer.is_empty() {
            // It would keep the lines' memory.
            self.buffer = BytesMut::new();
        }
        self.scanned = self.buffer.len();
        self.check(self.scanned)
    }

    fn check(&self, length: usize) -> Result<(), LineError> {
        if length > self.max_line {
            return Err(LineError::TooLong { limit: self.max_line });
        }
        Ok(())
    }
}

fn push_line(lines: &mut Vec<Bytes>, line: Bytes) {
    if !line.trim_ascii().is_empty() {
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// A stream that arrives in the given pieces.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    fn read_all(pieces: Vec<Vec<u8>>, max_line: usize) -> Result<Vec<Bytes>, LineError> {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let mut reader = LineReader::new(Pieces(pieces), max_line);
        let mut lines = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            while reader.read_lines(&mut lines).await? {}
            Ok(lines)
        })
    }

    fn cut_at(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<Vec<u8>> {
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            let cut = cut.min(bytes.len());
            pieces.push(bytes[start..cut].to_vec());
            start = cut;
        }
        pieces.push(bytes[start..].to_vec());
        pieces
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_was_cut(
            lines in prop::collection::vec("[a-zé{}\" ]{0,40}", 0..20),
            cuts in prop::collection::vec(0usize..900, 0..30),
            last_line_ends in any::<bool>(),
        ) {
            let mut stream = lines.join("\n").into_bytes();
            if last_line_ends {
                stream.push(b'\n');
            }
            let expected: Vec<&str> =
                lines.iter().map(String::as_str).filter(|line| !line.trim_ascii().is_empty()).collect();
            let got = read_all(cut_at(&stream, cuts), 4096).expect("all lines are short");
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn a_line_over_the_bound_is_an_error_wherever_it_is_cut(
            before in "[a-z]{1,8}",
            excess in 1usize..200,
            cuts in prop::collection::vec(0usize..300, 0..10),
        ) {
            let stream = format!("{before}\n{}\nafter\n", "y".repeat(64 + excess));
            let got = read_all(cut_at(stream.as_bytes(), cuts), 64);
            prop_assert!(matches!(got, Err(LineError::TooLong { limit: 64 })), "{:?}", got);
        }
    }

    #[test]
    fn a_line_of_many_megabytes_arrives_whole() {
        let line = vec![b'x'; 9 * 1024 * 1024];
        let mut stream = line.clone();
        stream.extend_from_slice(b"\nnext");
        let pieces = stream.chunks(65_536).map(<[u8]>::to_vec).collect();
        let lines = read_all(pieces, 16 * 1024 * 1024).expect("within the bound");
        assert_eq!(lines, [Bytes::from(line), Bytes::from_static(b"next")]);
    }
}
