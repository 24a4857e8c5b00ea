//! What a session needs of a process, and how one is ended in order.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use tokio::time::timeout;

use crate::{
    cli::{
        connection::Connection,
        frame::{Frame, FrameKind},
    },
    domain::exit::{Exit, Overrun},
};

/// Bytes of frames that are kept while a process ends: it says a few short ones. A bound
/// for an agent that floods its CLI's output.
const LAST_WORDS: usize = 32 << 20;

/// What a session needs of a process. Tests have one that is no process at all.
pub trait Child: Send + fmt::Debug {
    /// Its process id; 0 if it is not known.
    fn id(&self) -> u32;
    /// Waits for its end. Cancel safe; the same answer every time.
    fn wait(&mut self) -> Pin<Box<dyn Future<Output = Exit> + Send + '_>>;
    /// Asks it to end.
    fn terminate(&mut self);
    /// Kills it and all that descends from it.
    fn kill(&mut self);
    /// Kills whatever it started and left, and waits for its end. Returns how many.
    fn sweep(&mut self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>>;
    /// The last of what it wrote to stderr.
    fn stderr_tail(&self) -> String;
    /// What it was killed for, if that is because it and its descendants held too much.
    fn overrun(&self) -> Option<Overrun> {
        None
    }
}

/// Bounds of the steps of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopGrace {
    /// After its input was closed: an idle CLI needs up to 50 ms, one with a
    /// background task may wait for that for ever.
    pub after_eof: Duration,
    /// After SIGTERM: up to 1.5 s were seen (2.1.330 with a background task).
    pub after_term: Duration,
    /// After SIGKILL, which only a process stuck in the kernel survives.
    pub after_kill: Duration,
}

impl StopGrace {
    /// For a process that is idle or that may still finish what it does.
    pub const GENTLE: Self = Self {
        after_eof: Duration::from_millis(1000),
        after_term: Duration::from_millis(2000),
        after_kill: Duration::from_millis(2000),
    };

    /// For a process that has been given its chance.
    pub const FIRM: Self = Self {
        after_eof: Duration::ZERO,
        after_term: Duration::from_millis(500),
        after_kill: Duration::from_millis(2000),
    };
}

/// What a stop came to.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// How the process ended; `None` if it has not, even after SIGKILL.
    pub exit: Option<Exit>,
    /// Whether SIGTERM or SIGKILL was needed.
    pub forced: bool,
    /// Processes that it left and that were killed.
    pub swept: usize,
}

/// Ends a process in steps: end of input, SIGTERM, SIGKILL, each with its bound, and
/// in the end whatever it left behind. What it still prints goes to `last_words`.
pub async fn stop(
    mut connection: Connection,
    child: &mut dyn Child,
    grace: StopGrace,
    last_words: &mut Vec<Frame>,
) -> Stopped {
    connection.refuse_requests();
    let mut exit = None;
    if !grace.after_eof.is_zero() {
        connection.close_input();
        exit = wait_and_read(&mut connection, child, grace.after_eof, last_words).await;
    }
    let forced = exit.is_none();
    if exit.is_none() {
        child.terminate();
        exit = wait_and_read(&mut connection, child, grace.after_term, last_words).await;
    }
    if exit.is_none() {
        child.kill();
        exit = timeout(grace.after_kill, child.wait()).await.ok();
    }
    let swept = child.sweep().await;
    Stopped { exit, forced, swept }
}

/// Reads once. Of what a process prints in the end, that is kept which outlives it. Returns
/// whether there can be more.
async fn hear_out(connection: &mut Connection, last_words: &mut Vec<Frame>) -> bool {
    let open = connection.read(last_words).await.is_ok();
    let mut bytes = 0;
    last_words.retain(|frame| {
        bytes += frame.raw.len();
        matches!(frame.kind, FrameKind::Mirror | FrameKind::Result(_)) && bytes <= LAST_WORDS
    });
    open
}

/// A process that nobody reads may block on its output instead of ending.
async fn wait_and_read(
    connection: &mut Connection,
    child: &mut dyn Child,
    limit: Duration,
    last_words: &mut Vec<Frame>,
) -> Option<Exit> {
    let ended = async {
        let mut open = true;
        loop {
            tokio::select! {
                exit = child.wait() => {
                    // What it printed before it ended is still in the pipe.
                    if open {
                        let rest = async { while hear_out(connection, last_words).await {} };
                        // A child of its own may hold the pipe open for ever.
                        drop(timeout(Duration::from_millis(100), rest).await);
                    }
                    return exit;
                }
                heard = hear_out(connection, last_words), if open => open = heard,
            }
        }
    };
    timeout(limit, ended).await.ok()
}
