//! The service over gRPC, on the real CLI and the stand-in for the Messages API.
//!
//! Each scenario runs on two pinned versions, but for a few that start many processes and run on
//! the newest alone. Those in which the versions differ, and those of what any version has to do,
//! run on the oldest one that is supported as well, or in its place on the one that
//! `SESSION_POOL_CLI_VERSION` names; the rest does so with `--include-ignored`, which
//! `tests/cli-versions` gives. The CLIs are fetched by `.ci/fetch-cli` into
//! `target/claude/VERSION/claude`; `SESSION_POOL_CLAUDE_DIR` names another folder for them.

#[path = "../stand_in/mod.rs"]
mod stand_in;
#[path = "../support/mod.rs"]
mod support;

mod bed;
mod behind;
mod compare;
mod lossless;
mod rebuild;
mod shapes;

mod background;
mod creation;
mod failures;
mod flags;
mod frames;
mod gateway;
mod hooks;
mod interrupts;
mod kept;
mod live_options;
mod permission_state;
mod permissions;
mod policy;
mod processes;
mod questions;
mod recovery;
mod resting;
mod resume;
mod rules;
mod spares;
mod spending;
mod steering;
mod subagents;
mod tools;
mod traces;
mod turns;
mod typed;
