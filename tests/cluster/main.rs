//! Several nodes: calls that come to one of them for a session that lives at another.

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod everywhere;
mod failures;
mod flow;
mod identity;
mod passing;
mod rpcs;
mod stand_in;
mod tls;
