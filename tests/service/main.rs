//! The service over gRPC, on the scripted fake CLI.

#[path = "../support/mod.rs"]
mod support;

mod budgets;
mod clone;
mod contract;
mod errors;
mod faults;
mod following;
mod hooks;
mod policy;
mod processes;
mod resting;
mod rows;
mod spares;
mod terminal;
mod tools;
mod traces;
mod turns;
