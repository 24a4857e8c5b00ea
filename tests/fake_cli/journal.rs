//! What the fake notes for whoever watches several services: its own start and stop, and each prompt that it runs.
//! One JSON line each, added to the file that `FAKE_CLAUDE_JOURNAL` names, which many processes share; without the
//! variable nothing is noted. Times are nanoseconds since the machine was started, which suspended processes agree on.
//!
//! A process that is killed notes no stop.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::json::object;

/// Names the file.
const VARIABLE: &str = "FAKE_CLAUDE_JOURNAL";

struct Journal {
    file: File,
    conversation: String,
}

static JOURNAL: OnceLock<Mutex<Journal>> = OnceLock::new();

/// The process has opened its conversation.
pub fn start(conversation: &str) {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    match File::options().create(true).append(true).open(&path) {
        Ok(file) => {
            let conversation = conversation.to_owned();
            drop(JOURNAL.set(Mutex::new(Journal { file, conversation })));
            note("start", "");
        }
        Err(error) => eprintln!("fake-claude: {VARIABLE}: {error}"),
    }
}

/// The process runs a prompt.
pub fn run(prompt: &str) {
    note("run", prompt);
}

/// The process ends by itself, or by SIGTERM.
pub fn stop() {
    note("stop", "");
}

fn note(event: &str, prompt: &str) {
    let Some(journal) = JOURNAL.get() else { return };
    let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    let line = object! {
        "event": event,
        "conversation": journal.conversation.clone(),
        "pid": u64::from(std::process::id()),
        "at": boot_nanos(),
        "prompt": prompt,
    };
    // One write: lines of several processes do not mix.
    let line = format!("{}\n", line.0);
    if let Err(error) = journal.file.write_all(line.as_bytes()) {
        eprintln!("fake-claude: {VARIABLE}: {error}");
    }
}

fn boot_nanos() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}
