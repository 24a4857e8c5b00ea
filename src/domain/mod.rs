//! What the service is about, as values: ids, the options of a session and when each can
//! change, prompts, permissions, token counts, exits and failures. Nothing here does anything: no
//! module of the crate is named, and there is neither I/O nor a clock.

pub mod acquired;
pub mod decision;
pub mod exit;
pub mod failure;
pub mod grants;
pub mod hook;
pub mod ids;
pub mod input;
pub mod notice;
pub mod operator_rule;
pub mod options;
pub mod redacted;
pub mod usage;
