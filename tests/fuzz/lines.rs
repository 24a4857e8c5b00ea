//! The frame codec: whatever the CLI prints, in whatever pieces it arrives, comes out as
//! its lines, whole and in order, or as one error; and any of them can be looked at.
#![no_main]
// The macro exports the function that libFuzzer calls.
#![allow(unsafe_code)]

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use libfuzzer_sys::fuzz_target;
use session_pool::internals::cli::{
    frame::Frame,
    lines::{LineError, LineReader},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Gives its bytes in pieces of changing size.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: &'a [u8],
    turn: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.sizes.get(self.turn % self.sizes.len().max(1)).copied().unwrap_or(64);
        self.turn += 1;
        let size = (usize::from(size) + 1).min(self.rest.len()).min(buffer.remaining());
        let (piece, rest) = self.rest.split_at(size);
        buffer.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(([limit, sizes @ ..], input)) = data.split_first_chunk::<4>() else { return };
    let limit = usize::from(*limit) + 1;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pieces = Pieces { rest: input, sizes, turn: 0 };
    let (lines, outcome) = runtime.block_on(async {
        let mut reader = LineReader::new(pieces, limit);
        let mut lines = Vec::new();
        loop {
            match reader.read_lines(&mut lines).await {
                Ok(true) => {}
                Ok(false) => return (lines, Ok(())),
                Err(error) => return (lines, Err(error)),
            }
        }
    });
    let said = |line: &&[u8]| !line.trim_ascii().is_empty();
    let mut wanted = input.split(|byte| *byte == b'\n').filter(said);
    for line in &lines {
        assert!(line.len() <= limit);
        assert_eq!(wanted.next(), Some(&line[..]));
        if let Ok(frame) = Frame::parse(line.clone()) {
            assert!(frame.text().trim_start().starts_with('{'));
        }
    }
    match outcome {
        Ok(()) => assert_eq!(wanted.next(), None),
        // Also one of blanks alone.
        Err(LineError::TooLong { .. }) => {
            assert!(input.split(|byte| *byte == b'\n').any(|line| line.len() > limit));
        }
        Err(LineError::Io(error)) => panic!("no read failed: {error}"),
    }
});
