//! The protocol over a pair of pipes: frames in, lines out, control requests matched with
//! their answers, and those of the CLI passed on or refused. Knows nothing of processes: any
//! reader and writer will do, which is how sessions are tested in memory.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};

use super::{
    frame::{ControlReply, Frame, FrameKind},
    hooks::callbacks,
    lines::{LineError, LineReader},
    request::ControlRequest,
    router::Router,
};
use crate::{domain::hook::Hook, tools::SessionTools};

/// Lines that may wait for a CLI that does not read its input. A session has one prompt and a few
/// control requests under way, and at most times refusals of hooks and stops of tasks, of which
/// there may be a hundred at once.
const OUTBOX_LINES: usize = 256;

/// Bytes of frames that may come while an answer is waited for, twice the largest frame that
/// `cli.max_frame_bytes` allows by default: answers come within milliseconds. A bound for an
/// agent that floods its CLI's output.
const MOST_MEANWHILE: usize = 32 << 20;

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

/// What becomes of frames that come while an answer is waited for.
#[derive(Debug)]
pub enum Meanwhile<'a> {
    /// They are added to these.
    Keep(&'a mut Vec<Frame>),
    /// They are of no turn.
    Drop,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It could not be asked.
    #[error(transparent)]
    Blocked(#[from] InputBlocked),
    /// The connection ended first.
    #[error(transparent)]
    Broken(#[from] ConnectionError),
    /// It took too long.
    #[error("the CLI did not answer")]
    Late,
    /// It said too much else.
    #[error("the CLI printed {MOST_MEANWHILE} bytes and did not answer")]
    Flooded,
}

/// Frames in, lines out.
pub struct Connection {
    lines: LineReader<Box<dyn AsyncRead + Send + Unpin>>,
    /// Scratch space for lines; empty between calls.
    cut: Vec<Bytes>,
    outbox: mpsc::Sender<Bytes>,
    writer: JoinHandle<()>,
    awaited: HashMap<String, oneshot::Sender<Result<String, String>>>,
    /// Where what the CLI asks goes.
    router: Router,
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
            router: Router::new(),
            answered: false,
            ended: false,
            cut_short: false,
            strays: 0,
            strays_taken: 0,
        }
    }

    /// Waits for output and adds the frames in it to `frames`; answers to control
    /// requests go to those who wait for them instead, messages to tool servers to these, and
    /// requests that nobody answers are refused. What was added counts even when an error is returned. Cancel safe.
    pub async fn read(&mut self, frames: &mut Vec<Frame>) -> Result<(), ConnectionError> {
        if self.ended {
            return Err(ConnectionError::Closed);
        }
        let more = self.next_lines().await;
        let at_end = matches!(more, Ok(false));
        for line in std::mem::take(&mut self.cut) {
            let length = line.len();
            let Ok(mut frame) = Frame::parse(line) else {
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
            } else if self.router.sort(&mut frame, &self.outbox) {
                frames.push(frame);
            }
        }
        if !more? {
            self.ended = true;
            self.awaited.clear();
        }
        Ok(())
    }

    /// Waits for lines, and for room for refusals that had none.
    async fn next_lines(&mut self) -> Result<bool, LineError> {
        loop {
            tokio::select! {
                more = self.lines.read_lines(&mut self.cut) => return more,
                // A CLI that takes no more input needs no refusals.
                _ = self.outbox.reserve(), if self.router.has_pending() => {
                    self.router.flush(&self.outbox);
                }
            }
        }
    }

    /// Somebody answers what the CLI asks, from here on.
    pub fn pass_requests_on(&mut self) {
        self.router.pass_on();
    }

    /// Nobody answers any more what the CLI asks.
    pub fn refuse_requests(&mut self) {
        self.router.refuse();
    }

    /// Serves these tools to the CLI, which has to be told their servers' names in `initialize`.
    pub fn serve_tools(&mut self, tools: SessionTools) {
        self.router.serve(tools, &self.outbox);
    }

    /// The CLI is told of these hooks in `initialize`: calls of them are passed on, and of no
    /// others.
    pub fn register_hooks(&mut self, hooks: &[Hook]) {
        self.router.register(callbacks(hooks));
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

    /// Sends control requests whose answers nobody needs, however many: all of them or none.
    pub fn request_all(
        &mut self,
        requests: impl IntoIterator<Item = ControlRequest>,
    ) -> Result<(), InputBlocked> {
        let (ids, lines): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| (request.id, request.line)).unzip();
        if lines.is_empty() {
            return Ok(());
        }
        // One place in the outbox: that has room for less than a CLI may have tasks.
        self.send(lines.concat().into())?;
        self.awaited.extend(ids.into_iter().map(|id| (id, oneshot::channel().0)));
        Ok(())
    }

    /// Sends a control request and waits for its answer until then. The frames that come
    /// meanwhile count even when an error is returned.
    pub async fn call(
        &mut self,
        request: ControlRequest,
        deadline: Instant,
        meanwhile: Meanwhile<'_>,
    ) -> Result<Result<String, String>, CallError> {
        let answer = self.request(request)?;
        self.answer(answer, deadline, meanwhile).await
    }

    /// Waits for the answer to a request that was sent. As [`Self::call`].
    pub async fn answer(
        &mut self,
        mut answer: ControlAnswer,
        deadline: Instant,
        meanwhile: Meanwhile<'_>,
    ) -> Result<Result<String, String>, CallError> {
        let mut dropped = Vec::new();
        let (keeps, frames) = match meanwhile {
            Meanwhile::Keep(frames) => (true, frames),
            Meanwhile::Drop => (false, &mut dropped),
        };
        let (mut bytes, mut counted) = (0, frames.len());
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => {
                    return answered.map_err(|_| ConnectionError::Closed.into());
                }
                read = timeout_at(deadline, self.read(frames)) => read.map_err(|_| CallError::Late)??,
            }
            bytes += frames[counted..].iter().map(|frame| frame.raw.len()).sum::<usize>();
            if bytes > MOST_MEANWHILE {
                return Err(CallError::Flooded);
            }
            if !keeps {
                frames.clear();
            }
            counted = frames.len();
        }
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
mod tests;
