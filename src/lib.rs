//! Claude CLI sessions as a gRPC service: one warm process per conversation.
//!
//! ```text
//! main ─▶ config ─▶ server (puts the parts together)
//! rpc ─▶ pool ─▶ session ─▶ supply ─▶ cli
//!                   ├─────▶ turn (the log of one turn, and its listeners)
//!                   └─────▶ store (what outlives a session)
//! transport (listeners and connections) ─▶ rpc, by what server puts together
//! client (subcommands for people) ─▶ the generated types, over the network
//! ```
//!
//! Arrows point one way. [`domain`] holds the values that all of them speak of. [`proto`] holds the generated types, which only [`rpc`] and
//! [`client`] name. [`access`] says who a caller is, [`policy`] what callers may ask for, and
//! [`os`] asks the operating system; they know nothing of sessions. `tests/architecture.rs`
//! checks what each module may name.
//!
//! The way of a Query: `rpc` decodes it, `pool` finds or makes the session, the session's task
//! makes sure of a process and writes the prompt, frames come back into the turn's log, every
//! listener reads the log at its own pace, `rpc` encodes.

pub mod access;
pub mod budget;
pub mod cli;
pub mod client;
pub mod config;
pub mod counters;
pub mod domain;
pub mod health;
pub mod os;
pub mod policy;
pub mod pool;
pub mod proto;
pub mod rpc;
pub mod server;
pub mod session;
pub mod store;
pub mod supply;
pub mod tasks;
pub mod telemetry;
pub mod tenant;
#[cfg(test)]
mod test_support;
pub mod transport;
pub mod turn;
