//! SIGTERM and SIGINT, as the CLI takes them: SIGTERM ends the process with 143 wherever it is, SIGINT ends
//! a running turn first. Also the signals a script has the process send itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::inbox::Input;
use crate::journal;

/// Whether SIGTERM is ignored; shared with the thread that takes signals.
#[derive(Clone, Debug)]
pub struct IgnoreTerm(Arc<AtomicBool>);

impl IgnoreTerm {
    pub fn new(ignored: bool) -> Self {
        Self(Arc::new(AtomicBool::new(ignored)))
    }

    pub fn ignore(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Takes signals from now on, in a thread of its own: a main loop that is busy or hangs must not delay SIGTERM.
pub fn watch(inputs: Sender<Input>, ignore_term: IgnoreTerm) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::spawn(move || {
        for signal in &mut signals {
            match signal {
                SIGTERM if ignore_term.0.load(Ordering::SeqCst) => {}
                SIGTERM => {
                    journal::stop();
                    std::process::exit(128 + SIGTERM)
                }
                _ => {
                    drop(inputs.send(Input::Sigint));
                }
            }
        }
    });
    Ok(())
}

/// Sends this process the signal of that name.
pub fn raise(name: &str) -> Result<(), String> {
    let signal = match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "KILL" => Signal::KILL,
        "ABRT" => Signal::ABORT,
        "SEGV" => Signal::SEGV,
        "STOP" => Signal::STOP,
        _ => return Err(format!("fake-claude: no such signal: '{name}'")),
    };
    let send =
        || kill_process(getpid(), signal).map_err(|error| format!("fake-claude: kill: {error}"));
    send()?;
    // The Rust runtime's own handler takes the first SIGSEGV, to look for a stack overflow, and then lets go.
    if signal == Signal::SEGV { send() } else { Ok(()) }
}
