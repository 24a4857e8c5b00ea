//! The gRPC edge: requests in, events out, failures to statuses. Knows the pool and the
//! generated types, which end here: nothing below this folder names them.
//!
//! - [`decode`]: requests to the domain's types, with every violation found at once.
//! - [`encode`]: events to the contract's messages; [`snapshot`]: sessions and figures.
//! - [`others`]: the other nodes, and what they are asked; `everywhere`: what is told of all of
//!   them together, and `figures` the sums.
//! - `options`: the form that each option's value has in the contract, and all of them for readers.
//! - [`status`]: the one place where a failure becomes a status.
//! - [`stream`]: a turn's log as a response stream, with the caller's deadline.
//! - `heartbeat`: signs of life in a stream that is quiet.
//! - `tool_stream`: the stream of one who serves tools.
//! - `watch_stream`: the stream of one who follows a session.
//! - [`deadline`]: what a caller says of its own deadline.
//! - [`edge`]: what every request is held to: it is gRPC, arrives in time, means one thing.
//! - [`calls`]: counts every call, by its method and its end.
//! - `audited`: has calls recorded in the audit log.
//! - [`auth_layer`]: asks every caller who they are, before any service is called.
//! - [`service`]: one short method for each rpc.

mod access;
mod audited;
pub mod auth_layer;
pub mod calls;
pub mod deadline;
pub mod decode;
pub mod edge;
pub mod encode;
mod everywhere;
mod figures;
mod heartbeat;
pub mod meter;
mod options;
pub mod others;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod stream;
mod tool_stream;
mod watch_stream;
