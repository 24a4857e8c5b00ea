//! Clocks that the standard library does not have.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the machine was started, suspended or not.
pub fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}
