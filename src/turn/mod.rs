//! What one turn produced, for any number of readers. Knows what an event is and how
//! a turn can fail; nothing of sessions, of processes or of who reads.
//!
//! A [`log::TurnLog`] holds every event of the turn from the first on: the newest in
//! memory, older ones in files ([`spill`]), up to bounds of its own and up to the budgets
//! that it shares with all other logs ([`storage`]). A [`listener::Listener`] is one
//! reader's place in it. Whoever appends never waits for a reader.

pub mod event;
pub mod listener;
pub mod log;
mod shared;
pub mod spill;
mod state;
pub mod storage;
mod writer;
