//! The audit log: one JSON object a line for each call of the contract, each credential that a
//! process begins to use, and each host that a session was kept from. Says who did what to which
//! session and how it ended, and never what was asked or answered.
//!
//! ```text
//! rpc ─────▶ Entry ──▶ Audit ──▶ a queue of bounded length ──▶ a thread ──▶ files, one a day, or stdout
//! gateway ─────┘
//! ```
//!
//! What always holds: nobody who records waits for a disk; an entry that is not written whole is
//! counted and logged, and the next one begins on a line of its own; lines have the order in which
//! they were recorded. [`Note`] is what the
//! layers of a call learn of it on its way. Knows nothing of the contract or of sessions.

mod entry;
mod note;
mod writer;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::SystemTime,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tracing::error;

pub use entry::{Call, Entry};
pub use note::Note;

use crate::{measures::Labels, telemetry::log_limit::AUDIT};
use writer::Message;

/// Entries that wait to be written: a second of what a busy node is called.
const QUEUE: usize = 8192;

/// Where entries go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The standard output of the service.
    Stdout,
    /// A file for each day (UTC) in the folder of this path, whose names begin with its name; the
    /// path itself becomes a link to the newest.
    Files {
        /// The path.
        path: PathBuf,
        /// How many are kept.
        most: usize,
    },
}

/// Takes entries; without a place it drops them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Message>,
    counts: Counts,
}

/// How many entries were written and lost. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
struct Counts {
    family: Family<Labels, Counter>,
    written: Counter,
    lost: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        let family = Family::<Labels, Counter>::default();
        // Both are there from the start: whoever alerts on a counter has to see its first step.
        let [written, lost] = ["written", "lost"]
            .map(|outcome| family.get_or_create_owned(&vec![("outcome", outcome.to_owned())]));
        Self { family, written, lost }
    }
}

impl Counts {
    fn lost(&self, reason: &dyn fmt::Display) {
        self.lost.inc();
        if AUDIT.admits() {
            error!(%reason, "audit_entry_lost");
        }
    }
}

impl Audit {
    /// Writes entries to a place from now on.
    ///
    /// # Errors
    ///
    /// What keeps today's file from being made or opened, or the thread from being started.
    pub fn open(place: &Place) -> io::Result<Self> {
        Self::to(writer::sink(place)?, QUEUE)
    }

    fn to(sink: Box<dyn io::Write + Send>, queue: usize) -> io::Result<Self> {
        let (queue, messages) = sync_channel(queue);
        let counts = Counts::default();
        let of_thread = counts.clone();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer::run(&messages, sink, &of_thread))?;
        Ok(Self(Some(Arc::new(Inner { queue, counts }))))
    }

    /// Whether entries go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records an entry, with the time.
    pub fn record(&self, entry: &Entry<'_>) {
        let Some(inner) = &self.0 else { return };
        let message = Message::Line(entry.line(SystemTime::now()));
        match inner.queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => inner.counts.lost(&"the disk is too slow"),
            Err(TrySendError::Disconnected(_)) => inner.counts.lost(&"the writer has ended"),
        }
    }

    /// Waits until all that was recorded before is written or lost, and blocks its thread for as long
    /// as a disk takes. Returns false if the writer has ended.
    pub fn flush(&self) -> bool {
        let Some(inner) = &self.0 else { return true };
        let (done, written) = sync_channel(1);
        inner.queue.send(Message::Flush(done)).is_ok() && written.recv().is_ok()
    }

    /// Adds the counts to a registry.
    pub fn register(&self, registry: &mut Registry) {
        // Without a place they are there with 0: dashboards and alerts need not know of it.
        let counts = self.0.as_ref().map(|inner| inner.counts.clone()).unwrap_or_default();
        let help = "Entries of the audit log, by whether they were written";
        registry.register("audit_entries", help, counts.family);
    }
}

#[cfg(test)]
mod tests;
