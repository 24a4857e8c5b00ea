//! What reaches the process from outside, one thing after the other: lines of stdin, its end, and SIGINT.
//!
//! A thread reads stdin, so that a fake that hangs or prints still drains it. Knows nothing of the protocol.

use std::io::{self, BufRead};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How long the process may outlive its stdin: no fault that a test asks for needs longer, and a test that died
/// leaves nothing behind for ever.
const LIFE_AFTER_EOF: Duration = Duration::from_secs(600);

/// Something from outside.
#[derive(Debug)]
pub enum Input {
    Line(Vec<u8>),
    Eof,
    Sigint,
}

/// The receiving end.
pub struct Inbox {
    receiver: Receiver<Input>,
    /// Keeps the channel open when stdin has ended, so that waiting goes on.
    sender: Sender<Input>,
}

impl Inbox {
    /// Starts to read stdin.
    pub fn open() -> Self {
        let (sender, receiver) = mpsc::channel();
        let lines = sender.clone();
        thread::spawn(move || {
            read_lines(&lines);
            thread::sleep(LIFE_AFTER_EOF);
            std::process::exit(70);
        });
        Self { receiver, sender }
    }

    pub fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }

    /// What is there already.
    pub fn poll(&self) -> Option<Input> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next input, until the deadline when there is one.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<Input> {
        let Some(deadline) = deadline else {
            return self.receiver.recv().ok();
        };
        let left = deadline.saturating_duration_since(Instant::now());
        self.receiver.recv_timeout(left).ok()
    }
}

/// Sends every line of stdin, without its end, and then the end of stdin. A last line without a line end counts.
fn read_lines(inputs: &Sender<Input>) {
    let mut stdin = io::BufReader::with_capacity(256 * 1024, io::stdin());
    loop {
        let mut line = Vec::new();
        match stdin.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                while line.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
                    line.pop();
                }
                drop(inputs.send(Input::Line(line)));
            }
        }
    }
    drop(inputs.send(Input::Eof));
}
