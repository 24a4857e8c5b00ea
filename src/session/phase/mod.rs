//! The phases of a session, and what is a part of one. Each phase is one function that takes what
//! exists only in it by value and returns the next one ([`Phase`](super::state::Phase)); its
//! `select!` lists what can happen there. Phases know the owners of a session's parts, and none
//! of those knows a phase.
//!
//! - `detached`: there is no process.
//! - `connecting`: a turn waits for one; `preparing` says what that is to be.
//! - `idle`: it has one that does nothing, or is about to (Settling), until the next turn begins
//!   on it. `fitting` makes it what that wants, `between` has what it does by itself, `hibernation`
//!   lets it go, and `resending` begins a turn once more.
//! - `active`: a turn runs, of a caller or of the CLI's own (`background`). `ended` has it kept and
//!   tells callers its end, and `told` logs, measures and traces it; `choice` hears what a turn has
//!   chosen whose prompt was a command of the CLI; `watchdog` says when it takes too long, and
//!   `turn_failure` what is done about what goes wrong.
//! - `interrupting`: it is being stopped.
//! - `closing`: the session ends.
//! - `busy`: whatever is waited for within a phase, callers are answered.

mod active;
mod background;
mod between;
mod busy;
mod choice;
mod closing;
mod connecting;
mod detached;
mod ended;
mod fitting;
mod hibernation;
mod idle;
mod interrupting;
mod preparing;
mod resending;
mod told;
mod turn_failure;
mod watchdog;

pub use closing::{forgotten_too_late, longest_forgetting};
