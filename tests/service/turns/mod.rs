//! Turns as callers see them: joined, retried, answered, cut by deadlines, and every
//! frame as the CLI printed it.

mod attach;
mod background;
mod deadlines;
mod heartbeat;
mod odd_work;
mod partials;
mod payload;
mod prompts;
mod retry;
mod steering;
mod waiting;
mod work;
