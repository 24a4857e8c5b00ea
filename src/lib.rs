//! Claude CLI sessions as a gRPC service: one warm process per conversation.
//!
//! ```text
//! main ─▶ config ─▶ server (puts the parts together)
//! rpc ─▶ pool ─▶ session ─▶ supply ─▶ cli
//!                   ├─────▶ turn (the log of one turn, and its listeners)
//!                   └─────▶ store (what outlives a session)
//! rpc ─▶ tools ◀─ cli (tools that callers serve, and the calls of them)
//! transport (listeners and connections) ─▶ rpc, by what server puts together
//! transport ─▶ cluster (calls for sessions of other nodes) ─▶ pool, rpc
//! rpc, gateway ─▶ audit (who did what, for the operator)
//! supply ─▶ gateway (CLIs' way to the API, where the service has the credential)
//! client (subcommands for people) ─▶ the generated types, over the network
//! ```
//!
//! Arrows point one way. [`domain`] holds the values that all of them speak of. [`proto`] holds
//! the generated types, which only [`rpc`] and [`client`] name. [`access`] says who a caller is, [`policy`] what callers may ask for, and
//! [`os`] asks the operating system; they know nothing of sessions. `tests/architecture.rs`
//! checks what each module may name.
//!
//! The way of a Query: `rpc` decodes it, `pool` finds or makes the session, the session's task
//! makes sure of a process and writes the prompt, frames come back into the turn's log, every
//! listener reads the log at its own pace, `rpc` encodes.
//!
//! Public are [`config`], [`server`], [`client`] and [`proto`], which the program and its callers
//! need. Everything else is private, so that the compiler finds what nobody uses.

// A function fits on a screen: 60 lines, see clippy.toml. A test tells its story to the end.
#![cfg_attr(not(test), deny(clippy::too_many_lines))]

mod access;
mod audit;
mod budget;
mod cli;
pub mod client;
mod cluster;
pub mod config;
mod counters;
mod domain;
mod gateway;
mod health;
#[cfg(feature = "test-tools")]
#[doc(hidden)]
pub mod internals;
mod measures;
mod os;
mod policy;
mod pool;
pub mod proto;
mod rpc;
pub mod server;
mod session;
mod store;
mod supply;
mod tasks;
mod telemetry;
mod tenant;
#[cfg(test)]
mod test_support;
mod tools;
mod traces;
mod transport;
mod turn;
