//! No process is left behind, whatever ends a session, a turn or the service itself.

mod children;
mod kill;
mod restart;
mod sessions;
mod sigterm;
mod stopping;
