//! The phases of a session, and what is a part of one. Each phase is one function that takes what
//! exists only in it by value and returns the next one ([`Phase`](super::state::Phase)); its
//! `select!` lists what can happen there. Phases know the owners of a session's parts, and none
//! of those knows a phase.
//!
//! - `detached`: there is no process.
//! - `connecting`: a turn waits for one; `preparing` says what that is to be.
//! - `idle`: it has one that does nothing, or is about to (Settling); `hibernation` lets it go.
//!   `starting` changes its options and begins the next turn, `resending` begins one once more.
//! - `active`: a turn runs, of a caller or of the CLI's own (`background`). `ended` tells its end;
//!   `watchdog` says when it takes too long, and `turn_failure` what is done about what goes wrong.
//! - `interrupting`: it is being stopped.
//! - `closing`: the session ends.
//! - `busy`: whatever is waited for within a phase, callers are answered.

mod active;
mod background;
mod busy;
mod closing;
mod connecting;
mod detached;
mod ended;
mod hibernation;
mod idle;
mod interrupting;
mod preparing;
mod resending;
mod starting;
mod turn_failure;
mod watchdog;

pub use closing::{forgotten_too_late, longest_forgetting};
