//! Sessions that are followed over all of their turns.

mod heartbeat;
mod lasting;
mod program;
mod refused;
mod restarts;
mod slow;
mod turns;
