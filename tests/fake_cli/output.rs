//! Standard output, in large writes. Knows nothing of the protocol.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use crate::json::Json;

const CAPACITY: usize = 256 * 1024;

/// Lines for whoever reads this process's stdout.
///
/// A reader that went away is no error: the real CLI lives on too.
pub struct Output {
    writer: BufWriter<File>,
}

impl Output {
    pub fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { writer: BufWriter::with_capacity(CAPACITY, stdout) })
    }

    /// Writes a frame and a line end; it reaches the reader with the next flush.
    pub fn frame(&mut self, frame: &Json) {
        self.bytes(frame.0.as_bytes());
        self.bytes(b"\n");
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        drop(self.writer.write_all(bytes));
    }

    pub fn flush(&mut self) {
        drop(self.writer.flush());
    }

    /// Closes stdout for the reader; what is written from now on goes nowhere.
    pub fn close(&mut self) -> io::Result<()> {
        self.flush();
        let nowhere = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nowhere)?;
        self.writer = BufWriter::with_capacity(CAPACITY, nowhere);
        Ok(())
    }
}
