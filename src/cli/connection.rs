//! The protocol over a pair of pipes: frames in, lines out, and control requests
//! matched with their answers. Knows nothing of processes: any reader and writer
//! will do, which is how sessions are tested in memory.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tracing::{debug, warn};

use super::{
    frame::{ControlReply, Frame, FrameKind},
    lines::{LineError, LineReader},
    request::ControlRequest,
};

/// Lines that may wait for a CLI that does not read its input. One prompt and a few
/// control requests are all that a session has under way.
const OUTBOX_LINES: usize = 32;

/// Lines that are no frames of which each is worth a warning, for each process.
const STRAYS_LOGGED: u64 = 3;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The CLI closed its output.
    #[error("the CLI closed its output")]
    Closed,
    /// A frame is too long, or reading failed.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// The CLI does not take any more input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the CLI does not read its input")]
pub struct InputBlocked;

/// The answer to a control request, once it comes. The sender is dropped when the
/// connection ends first.
pub type ControlAnswer = oneshot::Receiver<Result<String, String>>;

/// Frames in, lines out.
pub struct Connection {
    lines: LineReader<Box<dyn AsyncRead + Send + Unpin>>,
    /// Scratch space for lines; empty between calls.
    cut: Vec<Bytes>,
    outbox: mpsc::Sender<Bytes>,
    writer: JoinHandle<()>,
    awaited: HashMap<String, oneshot::Sender<Result<String, String>>>,
    /// Whether an answer came since that was asked last.
    answered: bool,
    ended: bool,
    /// Whether the output ended within a line.
    cut_short: bool,
    /// Lines that are no frames.
    strays: u64,
    strays_taken: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("awaited", &self.awaited.len()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Speaks over the CLI's output and input. Frames may have `max_frame` bytes.
    pub fn new(
        output: impl AsyncRead + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        max_frame: usize,
    ) -> Self {
        let (outbox, lines_out) = mpsc::channel(OUTBOX_LINES);
        Self {
            lines: LineReader::new(Box::new(output), max_frame),
            cut: Vec::new(),
            outbox,
            writer: crate::tasks::spawn_owned(write_lines(input, lines_out)),
            awaited: HashMap::new(),
            answered: false,
            ended: false,
            cut_short: false,
            strays: 0,
            strays_taken: 0,
        }
    }

    /// Waits for output and adds the frames in it to `frames`; answers to control
    /// requests go to those who wait for them instead. What was added counts even
    /// when an error is returned. Cancel safe.
    pub async fn read(&mut self, frames: &mut Vec<Frame>) -> Result<(), ConnectionError> {
        if self.ended {
            return Err(ConnectionError::Closed);
        }
        let more = self.lines.read_lines(&mut self.cut).await;
        let at_end = matches!(more, Ok(false));
        for line in std::mem::take(&mut self.cut) {
            let length = line.len();
            let Ok(frame) = Frame::parse(line) else {
                // A CLI that is killed while it writes leaves a piece of a line.
                if at_end {
                    self.cut_short = true;
                } else {
                    self.stray(length);
                }
                continue;
            };
            if let FrameKind::ControlReply(reply) = frame.kind {
                self.resolve(reply);
            } else {
                frames.push(frame);
            }
        }
        if !more? {
            self.ended = true;
            self.awaited.clear();
        }
        Ok(())
    }

    /// Of a CLI that has ended: whether that was while it printed.
    pub fn was_cut_short(&self) -> bool {
        self.cut_short || self.lines.is_within_line()
    }

    /// Takes note of a line that is no frame: a wrapper, a debug option or an agent wrote to
    /// the CLI's output. It says nothing to the pool and ends nothing.
    fn stray(&mut self, length: usize) {
        self.strays += 1;
        // What it says may be somebody's words.
        if self.strays <= STRAYS_LOGGED {
            warn!(bytes = length, seen = self.strays, "line_is_no_frame");
        } else {
            debug!(bytes = length, seen = self.strays, "line_is_no_frame");
        }
    }

    /// How many lines that are no frames were skipped since this was asked last.
    pub fn take_strays(&mut self) -> u64 {
        let new = self.strays - self.strays_taken;
        self.strays_taken = self.strays;
        new
    }

    fn resolve(&mut self, reply: ControlReply) {
        if let Some(waiting) = self.awaited.remove(&reply.request_id) {
            self.answered = true;
            // Whoever asked may have stopped waiting: the answer is not needed then.
            drop(waiting.send(reply.outcome));
        }
    }

    /// Whether a control request was answered since this was asked last.
    pub fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// Sends a line.
    pub fn send(&self, line: Bytes) -> Result<(), InputBlocked> {
        self.outbox.try_send(line).map_err(|_| InputBlocked)
    }

    /// Sends a control request. Its answer arrives while [`Self::read`] is polled.
    pub fn request(&mut self, request: ControlRequest) -> Result<ControlAnswer, InputBlocked> {
        self.send(request.line)?;
        let (answer, waiting) = oneshot::channel();
        self.awaited.insert(request.id, answer);
        Ok(waiting)
    }

    /// Closes the CLI's input and goes on reading: what it prints before it ends
    /// still counts.
    pub fn close_input(&mut self) {
        // The writer ends when the last sender is gone, after what was sent before.
        self.outbox = mpsc::channel(1).0;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Writing is a task of its own because it is not cancel safe, and because a CLI
/// that does not read must not stop its output from being read.
async fn write_lines(mut input: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
            // The CLI is gone; its output says so to whoever reads.
            return;
        }
    }
    // Dropping a pipe is what closes it; a failed shutdown changes nothing.
    drop(input.shutdown().await);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader, duplex, split};

    use super::*;

    #[tokio::test]
    async fn answers_go_to_who_asked_and_frames_to_the_reader() {
        let (ours, cli) = duplex(64 * 1024);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1024);
        let mut answer = connection.request(ControlRequest::interrupt()).expect("room");

        let (cli_input, mut cli_output) = split(cli);
        let mut asked = String::new();
        BufReader::new(cli_input).read_line(&mut asked).await.expect("a line");
        let asked: serde_json::Value = serde_json::from_str(&asked).expect("JSON");
        let reply = serde_json::json!({"type": "control_response", "response":
            {"subtype": "success", "request_id": asked["request_id"], "response": {}}});
        let out = format!("{{\"type\":\"news\"}}\n{reply}\n");
        cli_output.write_all(out.as_bytes()).await.expect("written");

        let mut frames = Vec::new();
        connection.read(&mut frames).await.expect("output");
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].kind, FrameKind::Other);
        assert_eq!(answer.try_recv(), Ok(Ok("{}".to_owned())));
    }

    #[tokio::test]
    async fn who_asked_is_told_when_the_output_ends() {
        let (ours, cli) = duplex(1024);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1024);
        let answer = connection.request(ControlRequest::interrupt()).expect("room");
        drop(cli);
        let mut frames = Vec::new();
        connection.read(&mut frames).await.expect("the end is not an error yet");
        assert!(matches!(connection.read(&mut frames).await, Err(ConnectionError::Closed)));
        assert!(answer.await.is_err());
    }

    #[tokio::test]
    async fn a_line_that_death_cut_short_is_no_breach_of_the_protocol() {
        let (ours, mut cli) = duplex(1024);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1024);
        cli.write_all(b"{\"type\":\"news\"}\n{\"type\":\"as").await.expect("written");
        drop(cli);
        let mut frames = Vec::new();
        while connection.read(&mut frames).await.is_ok() {}
        assert!(matches!(connection.read(&mut frames).await, Err(ConnectionError::Closed)));
        assert_eq!(frames.len(), 1);
        assert!(connection.was_cut_short());
    }

    #[tokio::test]
    async fn d3_a_line_that_is_no_frame_is_skipped_and_counted() {
        let (ours, mut cli) = duplex(1024);
        let (output, input) = split(ours);
        let mut connection = Connection::new(output, input, 1024);
        let lines = b"hello\n{\"type\":\"a\"}\n[1]\n{cut off\nx{\"type\":\"result\"}\n42\n";
        cli.write_all(lines).await.expect("written");
        drop(cli);
        let mut frames = Vec::new();
        while connection.read(&mut frames).await.is_ok() {}
        let kinds: Vec<_> = frames.iter().map(Frame::text).collect();
        assert_eq!(kinds, [r#"{"type":"a"}"#, r#"{"type":"result"}"#]);
        assert_eq!((connection.take_strays(), connection.take_strays()), (4, 0));
    }
}
