//! The service over gRPC, on the real CLI and the stand-in for the Messages API.
//!
//! The CLIs are fetched by `.ci/fetch-cli` into `target/claude/VERSION/claude`.

#[path = "../stand_in/mod.rs"]
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
