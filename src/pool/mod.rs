//! Which sessions exist, and every decision about capacity. Knows sessions; nothing of
//! gRPC.
//!
//! What is at hand is sessions with a task; all others are in the store, which is asked for
//! them when a call names them (`lookup`) and lists them in pages. However many there are,
//! they cost neither memory nor time before.
//!
//! The map of sessions is behind a lock that is held for a look-up or an insertion,
//! never across a wait. A session whose task ends is taken out of the map by the task
//! that ran it, and only then are those answered who waited for its end: whoever asks
//! next finds no session, or a new one, never a dying one.
//!
//! What happens in a session can be followed (`watching`) whether or not it has a task: who
//! follows one that has none waits until it has.
//!
//! A closing session keeps its place in the map until its process is gone. A Query that
//! meets it waits for that, so that two processes never serve one conversation.

#![deny(clippy::wildcard_enum_match_arm)]

mod calls;
#[cfg(feature = "test-tools")]
pub mod contended;
mod feeds;
mod janitor;
mod lifecycle;
mod lookup;
mod making;
mod nodes;
mod places;
mod registry;
mod relief;
mod retries;
mod sessions;
mod stats;
#[cfg(test)]
mod tests;
mod watching;

pub use nodes::Beyond;
pub use registry::{Parts, PoolSettings, SessionPool};
pub use sessions::Scope;
pub use stats::PoolStats;
pub use watching::{Told, Watch};
