//! The behaviour of the pool, row by row: labels s01 to s25 name the rows of
//! `docs/behaviour.md`. Some rows
//! have their tests beside the errors and faults they are about.

mod busy;
mod cleanup;
mod expiry;
mod interrupts;
mod lifecycle;
mod listeners;
mod log_events;
mod log_more;
mod log_turns;
mod pictures;
mod timeouts;
