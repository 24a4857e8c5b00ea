//! Processes that are started ahead of the sessions that will have them. A spare is up and
//! has been told nothing yet: what a session can still choose is bound when the spare is
//! taken (see [`crate::cli::binding`]). What only a start can give is the spare's class.
//!
//! Newer CLIs have a spare mechanism of their own (`--await-claim`). It is not used: a
//! process that has not been initialised takes the same options on both versions, as soon,
//! and by nothing that is hidden.
//!
//! [`spare_pool`] is the list of them and of the demand, [`spare`] is one of them, and
//! [`demand`] says whose they are. The life of each, from its start on, is in
//! `supply/spare_life.rs`.

mod demand;
pub(super) mod spare;
pub(super) mod spare_pool;

use std::time::Duration;

use crate::domain::{ids::TenantId, options::Options};

/// Spares with the same options from their start.
#[derive(Debug, Clone, PartialEq)]
pub struct SpareClass {
    /// Those options; nothing that can be bound later is among them.
    pub options: Options,
    /// How many are kept ready.
    pub count: usize,
    /// Whose they are; `None` is of those tenants whose sessions began lately.
    pub tenant: Option<TenantId>,
}

/// What the configuration says about spares.
#[derive(Debug, Clone, Default)]
pub struct SpareSettings {
    /// The classes; none is no spares at all.
    pub classes: Vec<SpareClass>,
    /// Age at which a spare is replaced.
    pub max_age: Duration,
    /// Whose spares are kept before any session has begun.
    pub first: Option<TenantId>,
}

/// Why a session that began did not get a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// None of its tenant and class was ready.
    NoneReady,
    /// It has options that no class has.
    Options,
    /// It takes up a conversation.
    Conversation,
    /// It has a folder already.
    Folder,
    /// The spare died or refused what it was told.
    Failed,
}

/// Whether a process had been a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpareUse {
    /// Nobody keeps any.
    NotKept,
    /// It had.
    Taken,
    /// It had not.
    Missed(Miss),
}
