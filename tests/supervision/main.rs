//! The program as an operator runs it, in both sandboxes: whatever ends a session, the
//! service or its supervisor, nothing of it is left a second later.
//!
//! Needs bubblewrap, which `.ci/run` installs, and the real CLIs of `.ci/fetch-cli`.

#[path = "../stand_in/mod.rs"]
mod stand_in;
#[path = "../support/mod.rs"]
mod support;

mod bed;

mod disk;
mod egress;
mod ends;
mod escapes;
mod large;
mod lease_watch;
mod locked;
mod memory;
mod modes;
mod planted;
mod real;
mod rules;
mod second;
mod spares;
mod spent;
mod starts;
mod supervisor;
mod tasks;
mod view;
mod walls;
mod watched;
mod workspace;
