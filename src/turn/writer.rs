//! The thread that writes spilled events, for all turns: writing may wait for the disk, and
//! a runtime's thread that waits holds up every other session. Knows jobs; nothing of what
//! is in them.
//!
//! Its queue is bounded: each log has at most one job in it, and one that finds no room
//! keeps fewer events. The thread ends with the last handle to it.

use std::{
    sync::{
        OnceLock,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use bytes::BytesMut;

/// Jobs that may wait.
const QUEUE: usize = 1024;

/// A piece of work. It may use the buffer, which it leaves empty.
pub type Job = Box<dyn FnOnce(&mut BytesMut) + Send>;

/// The thread, which is started with its first job.
#[derive(Debug, Default)]
pub struct Writer(OnceLock<Option<SyncSender<Job>>>);

impl Writer {
    /// Has a job done; gives it back when it cannot be taken.
    pub fn ask(&self, job: Job) -> Result<(), Job> {
        let Some(jobs) = self.0.get_or_init(start) else { return Err(job) };
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

fn start() -> Option<SyncSender<Job>> {
    let (jobs, queue) = sync_channel::<Job>(QUEUE);
    let work = move || {
        let mut scratch = BytesMut::new();
        for job in queue {
            job(&mut scratch);
        }
    };
    // Not joined: whoever drops the last handle may be this thread itself, and there is
    // nothing of it to wait for but a write that nobody needs any more.
    match thread::Builder::new().name("spill".into()).spawn(work) {
        Ok(_) => Some(jobs),
        Err(error) => {
            tracing::error!(%error, "spill_thread_not_started");
            None
        }
    }
}
