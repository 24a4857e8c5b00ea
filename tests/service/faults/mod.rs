//! The faults that other pools were seen to have: each is tried here, and must not happen.

mod deaths;
mod interrupts;
mod leaving;
mod lines;
mod memory;
mod mixing;
mod slow_reader;
mod waiting;
