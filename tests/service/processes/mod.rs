//! No process is left behind, whatever ends a session, a turn or the service itself.

mod children;
pub mod daemon;
mod kill;
mod sessions;
mod sigterm;
