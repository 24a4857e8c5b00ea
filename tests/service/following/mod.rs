//! Sessions that are followed over all of their turns.

mod lasting;
mod program;
mod refused;
mod restarts;
mod slow;
mod turns;
