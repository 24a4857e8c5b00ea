//! Signals that come before the service is ready to stop in order: while a sandbox is tried
//! out there is something to clean up, and nobody yet who hears them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag, low_level,
};

/// Holds SIGTERM and SIGINT back until [`Self::arm`], and has them end the process from then
/// until [`Self::hand_over`].
#[derive(Debug, Clone)]
pub struct EarlyStop {
    ends: Arc<AtomicBool>,
    held_back: Vec<(i32, Arc<AtomicBool>)>,
}

impl EarlyStop {
    /// Holds signals back from now on.
    pub fn hold_back() -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let mut held_back = Vec::new();
        for signal in [SIGTERM, SIGINT] {
            let came = Arc::new(AtomicBool::new(false));
            flag::register_conditional_default(signal, Arc::clone(&ends))?;
            flag::register(signal, Arc::clone(&came))?;
            held_back.push((signal, came));
        }
        Ok(Self { ends, held_back })
    }

    /// Nothing has to be cleaned up any more: a signal ends the process, one that was held
    /// back at once.
    pub fn arm(&self) -> io::Result<()> {
        // In this order: what comes in between is seen by one of the two.
        self.ends.store(true, Ordering::SeqCst);
        for (signal, came) in &self.held_back {
            if came.load(Ordering::SeqCst) {
                low_level::emulate_default_handler(*signal)?;
            }
        }
        Ok(())
    }

    /// Somebody else hears the signals now.
    pub fn hand_over(&self) {
        self.ends.store(false, Ordering::SeqCst);
    }
}
