//! What happens to a session's process outside of what it prints, and that those who follow the
//! session are told: as values.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What a session's callers are told of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It has to wait for a limit.
    RateLimited(RateLimited),
    /// It was kept from a host.
    EgressRefused(EgressRefused),
}

/// No requests are taken for a model before some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimited {
    /// Until then.
    pub until: SystemTime,
    /// Whose limit it is.
    pub kind: LimitKind,
    /// The model; empty where the request did not name it first.
    pub model: String,
}

/// Whose limit a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LimitKind {
    /// The credential has asked for as much as it may, and can ask again soon.
    #[default]
    Requests,
    /// The API has more to do than it can.
    Overloaded,
    /// The credential has used what it may for longer than a CLI waits.
    Quota,
    /// The tenant has used its tokens of the minute.
    Tenant,
}

/// A process was kept from a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRefused {
    /// `HOST:PORT`, as the process named it.
    pub host: String,
    /// Why, in words.
    pub reason: String,
}
