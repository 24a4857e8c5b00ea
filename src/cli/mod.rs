//! One CLI process and its protocol. Knows nothing of sessions, turns or gRPC.
//!
//! The CLI runs as `claude --input-format=stream-json --output-format=stream-json
//! --verbose …` and speaks one JSON object a line, both ways:
//!
//! ```text
//!  to the CLI                                   from the CLI
//!  {"type":"control_request",                   {"type":"control_response", …}
//!   "request":{"subtype":"initialize"}}
//!  {"type":"user","message":{…}}                {"type":"system","subtype":"init", …}
//!                                               {"type":"assistant", …}
//!                                               {"type":"control_request",
//!                                                "request":{"subtype":"can_use_tool"}}
//!  {"type":"control_response", …}               {"type":"user", … tool_result …}
//!  {"type":"control_request",
//!   "request":{"subtype":"interrupt"}}          {"type":"result", …}
//!                                               {"type":"system",
//!                                                "subtype":"session_state_changed","state":"idle"}
//! ```
//!
//! - [`lines`] cuts the CLI's output into lines, within a bound.
//! - [`frame`] says of each line what the pool has to know of it, in one cheap pass.
//! - [`turn`] says what a frame means for the turn that runs; [`traits`] is what a process has
//!   shown of itself in earlier turns.
//! - [`message`] reads a line in full, for those who show it to callers.
//! - [`request`] makes the lines that go to the CLI.
//! - [`answer`] makes those that answer its prompts; [`questions`] reads what the model asks the
//!   user, and puts the answers where it reads them.
//! - [`hooks`] registers hooks that callers answer, and makes the answers to their calls.
//! - [`permissions`] reads what callers granted in their answers, and tells a process of it.
//! - [`applied`] is what a process says of its mode and its model, and what of it a prompt may
//!   choose.
//! - [`binding`] says what makes a process started ahead that of a session.
//! - [`connection`] joins these over a pair of pipes; what the CLI asks is passed on or refused by
//!   `router`, or answered by the session's tool servers, as which `mcp` speaks.
//! - [`cost`] makes costs of turns out of the sums that it tells.
//! - [`mirror`] reads what it adds to its transcripts; [`transcript`] finds and writes those,
//!   without [`snapshots`].
//! - [`launch`] makes a [`command`], its argv and its environment, with [`env_files`]; [`telemetry`]
//!   has the variables for spans of its own; [`process`] spawns, watches and stops, and `outer` is
//!   the process that it waits for; [`sandbox`] is what a process is enclosed in, [`usage`] what it may hold.

pub mod answer;
pub mod applied;
pub mod background;
pub mod binding;
pub mod command;
pub mod config_folder;
pub mod connection;
pub mod cost;
pub mod env_files;
pub mod frame;
pub mod hooks;
pub mod json;
pub mod launch;
pub mod lines;
mod mcp;
pub mod message;
pub mod mirror;
mod outer;
pub mod permissions;
pub mod process;
pub mod program;
pub mod questions;
pub mod request;
mod router;
pub mod sandbox;
pub mod schema;
pub mod scratch;
pub mod snapshots;
mod spawner;
mod stderr;
pub mod sweep;
pub mod telemetry;
pub mod timers;
pub mod traits;
pub mod transcript;
pub mod turn;
pub mod usage;
pub mod versions;
