//! Sessions in memory, under a paused clock.
