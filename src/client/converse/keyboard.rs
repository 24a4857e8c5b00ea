//! The lines of the terminal. It stays in line mode: the kernel edits a line, and nothing has to be
//! put back when the program ends, however that happens. Nothing is read while nobody asks for a
//! line, so that an editor has the terminal to itself.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _};

use rustix::{fs::OFlags, io::Errno};
use tokio::net::unix::pipe::Receiver;

/// Bytes of a line, its end included, that the kernel keeps; it drops what is typed beyond.
const LONGEST: usize = 4096;

/// A line as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Without its end.
    pub text: String,
    /// The kernel may have dropped a part of it.
    pub is_cut: bool,
}

/// The terminal of this program, as far as it is read.
#[derive(Debug)]
pub struct Keyboard {
    terminal: Receiver,
    /// What was read of a line that has no end yet, or of lines that nobody has asked for.
    read: Vec<u8>,
}

impl Keyboard {
    /// Opens the terminal anew: that reads of it do not wait is nobody else's business.
    pub fn open() -> io::Result<Self> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let flags = i32::try_from(flags).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/tty")?;
        // A terminal is read as a pipe is: what is there, or nothing without waiting.
        let terminal = Receiver::from_file_unchecked(file)?;
        Ok(Self { terminal, read: Vec::new() })
    }

    /// The next line; `None` for Ctrl-D, or when the terminal has gone. Can be given up.
    pub async fn line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = first(&mut self.read) {
                return Ok(Some(line));
            }
            self.terminal.readable().await?;
            let mut bytes = [0; 4 * LONGEST];
            match self.terminal.try_read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                    _ if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// The lines that were typed already.
    pub fn typed_before(&mut self) -> Vec<Line> {
        let mut bytes = [0; 4 * LONGEST];
        // A Ctrl-D among them is read as nothing: it is as old as they are.
        while let Ok(count @ 1..) = self.terminal.try_read(&mut bytes) {
            self.read.extend_from_slice(&bytes[..count]);
        }
        std::iter::from_fn(|| first(&mut self.read)).collect()
    }
}

/// Takes the first whole line out of what was read.
fn first(read: &mut Vec<u8>) -> Option<Line> {
    let end = read.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = read.drain(..=end).collect();
    let text = String::from_utf8_lossy(&line[..end]).into_owned();
    Some(Line { text, is_cut: line.len() >= LONGEST })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_one_by_one_when_they_are_whole() {
        let mut read = b"one\ntwo\nth".to_vec();
        let line = |text: &str| Line { text: text.into(), is_cut: false };
        assert_eq!(first(&mut read), Some(line("one")));
        assert_eq!(first(&mut read), Some(line("two")));
        assert_eq!((first(&mut read), read.as_slice()), (None, &b"th"[..]));
        read.extend_from_slice(b"ree\xff\n");
        assert_eq!(first(&mut read), Some(line("three\u{fffd}")));
    }

    #[test]
    fn a_line_of_the_greatest_length_may_have_been_longer() {
        let mut read = [b"x".repeat(LONGEST - 1), b"\n".to_vec()].concat();
        assert!(first(&mut read).expect("a line").is_cut);
    }
}
