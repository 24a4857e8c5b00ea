//! One session's life. A task owns everything of a session: its process, its queue,
//! its timers. Others hold a [`SessionHandle`], which sends it commands, and read the
//! [`status::Status`] that it publishes. Knows `supply`, `cli`, `turn` and `store`;
//! nothing of gRPC or of other sessions. What a frame of the CLI means is said by `cli::turn`.
//!
//! ```text
//!             Run                connected               prompt sent
//!  Detached ───────▶ Connecting ───────────▶ Idle ◀──────────────────────┐
//!     ▲                  │ failed              │ Run, or the CLI begins   │ idle event
//!     │                  ▼                     ▼                          │
//!     │               Closing ◀── Close ──── Active ──── result ──▶ Settling
//!     │                  ▲                     │ interrupt, timeout,      ▲
//!     │                  │ leave               ▼ disconnect               │
//!     └── process gone ──┴─────────────── Interrupting ──── result ───────┘
//!         or let go
//! ```
//!
//! A process that has connected goes on to Active at once, since a turn waits for it; it is Idle
//! where that turn was given up meanwhile.
//!
//! What happened is read by others from the session's `feed`, which outlives the task.
//! What outlives a phase has an owner with rules of its own: `queue` the turns,
//! `publisher` what others see of the session, `journal` what the store is given of it,
//! `ownership` its conversations, `replies` the answers that are due when it is gone; and
//! `process` what holds for one process alone, which goes from phase to phase with it.
//! Values that decide nothing (`state`, `stop`, `turn_end`) stand below those who hand
//! them on; no two files import each other.
//!
//! Each phase is one function in `phase/` that takes what exists only in it by value and
//! returns the next; its `select!` lists what can happen there. Whether a command is
//! taken in a phase is decided by `admission`, a pure table of all commands and all phases.
//!
//! What takes its time (a process that ends, the store, the disk) is waited for by `busy`, which
//! answers meanwhile: no phase is deaf to whoever asks.
//!
//! Races, and how they end:
//! - A command that reaches a closing session is refused with [`Refusal::Closed`]; the
//!   pool waits for the session's end and asks a new one.
//! - An interrupt and the natural end of a turn: whichever frame comes first names the
//!   outcome. An interrupt that a CLI version loses is repeated until the turn ends.
//! - An interrupt and the death of its turn's process: what that printed last says whether
//!   there was anything left to stop (`busy`).
//! - A listener that leaves and a result: a turn that has ended is not interrupted.
//! - A commit and everything else: one is under way at a time, in every phase (`commits`).
//!   A turn whose result is not kept yet has ended for an interrupt, but not for its
//!   callers, and the next turn waits for it.
//! - A message for the running turn and that turn's end: one that no frame of the turn names is
//!   the prompt of the turn that the CLI begins next, and one that a dying process has not named
//!   waits for the next process (`steering`).
//! - A prompt and the death of its process: one that no frame answered runs on another
//!   process (`resending`).

// Where the session decides by a case, a new case has to be decided on.
#![deny(clippy::wildcard_enum_match_arm)]

mod admission;
mod answering;
mod answers;
mod claim;
pub mod command;
mod commits;
mod context;
pub mod feed;
mod followers;
mod given_rules;
mod handing_over;
mod intake;
mod journal;
mod keeping;
mod notices;
mod open_prompts;
mod open_turns;
mod ownership;
mod permissions;
mod phase;
mod policies;
mod process;
mod publisher;
mod queue;
mod replies;
mod running;
mod said;
mod spending;
mod state;
pub mod status;
mod steering;
mod steers;
mod stop;
mod stopping_work;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod turn_end;
mod undone;
mod work_stops;

pub use claim::Wanted;
pub use command::{
    BackgroundPolicy, BusyPolicy, CloseReason, CloseReport, DisconnectPolicy, HibernateReason,
    InterruptOutcome, InterruptReport, InterruptTarget, MismatchPolicy, Refusal, TurnRequest,
    UpdateReport,
};
pub use commits::failed as store_failed;
pub use context::{SessionContext, Settings};
pub use open_prompts::ShownPrompt;
pub use phase::{forgotten_too_late, longest_forgetting};
pub use replies::Remains;
pub use task::{SessionHandle, SessionTask};
