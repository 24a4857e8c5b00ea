//! `fake-claude`: a stand-in for the Claude CLI that can be told to misbehave.
//!
//! It speaks the CLI's stream-json protocol on stdin and stdout, writes and resumes the same transcript files and
//! accepts the same flags, but asks no model anything: a prompt whose first line is `#!fake` is a script
//! (the table is in [`script`]), any other is answered with `echo: <prompt>`. It exists for the faults, the timing and the throughput
//! that a real CLI cannot be made to show on demand. Ordinary frames have the keys of CLI 2.1.332; where the versions
//! differ in behaviour, the stricter one is played (2.1.197 for `--resume` of an unknown conversation and for a
//! permission answer without `updatedInput`).
//!
//! ```text
//! args, knobs ──▶ session ──▶ turn ──▶ steps, ask, burst        script: what a prompt tells it to do
//!                   │           └────▶ ending                   frames, result, json, ids: how lines look
//!                   └──▶ intake, incoming, control                      inbox, output, signals, children: the process
//!                        conversation, transcript: what is remembered, on disk too
//! ```
//!
//! Faults at start-up go by model name or environment, see [`knobs`]. What a process does is noted in [`journal`].

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a process of its own, without an async runtime: its clock is the real one"
)]

mod args;
mod ask;
mod burst;
mod children;
mod control;
mod conversation;
mod directive;
mod ending;
mod frames;
mod hooks;
mod ids;
mod inbox;
mod incoming;
mod intake;
mod journal;
mod json;
mod knobs;
mod mcp;
mod output;
mod result;
mod script;
mod session;
mod signals;
mod steps;
mod transcript;
mod turn;

use args::{Args, Parsed};
use session::Session;

fn main() {
    let argv: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(kind) = children::kind_asked_for(&argv) {
        children::live(kind);
    }
    let args = match Args::parse(&argv) {
        Ok(Parsed::Run(args)) => args,
        Ok(Parsed::Version) => {
            println!("{} (Claude Code)", frames::VERSION);
            return;
        }
        Err(text) => {
            eprintln!("{text}");
            std::process::exit(1);
        }
    };
    std::process::exit(Session::serve(*args, argv));
}
