//! What the service holds for its callers is bounded, whatever they do or leave undone.

mod disk;
mod memory;
