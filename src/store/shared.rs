//! What services that share a store know of each other by it: who they are, how many sessions
//! there are of all of them, and what all of them have counted. A store that one service has to
//! itself has none of this ([`Store::shared`](super::Store::shared)).

use std::{collections::HashMap, fmt, time::Duration};

use super::Pending;
use crate::{
    counters::Totals,
    domain::ids::{SessionId, SessionKey, TenantId},
};

/// A look at what changes while others work.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// How many sessions of each tenant are in the pool.
    pub in_pool: Vec<(TenantId, usize)>,
    /// US dollars that all but this service have spent of each tenant's on the day in question.
    pub spent: Vec<(TenantId, f64)>,
}

/// A store that several services share.
pub trait Shared: Send + Sync + fmt::Debug {
    /// The name under which what this life of the service counts is kept.
    fn counts_as(&self) -> &str;

    /// How often it is worth looking.
    fn look_every(&self) -> Duration;

    /// Looks at how many sessions there are, and what others have spent of these tenants' on
    /// a day (days since 1970, UTC). What is committed is seen, once.
    fn survey<'a>(&'a self, tenants: &'a [TenantId], day: u64) -> Pending<'a, Survey>;

    /// Gives a session that is about to be made a place among at most `limit` of its tenant, of
    /// all services. Returns its number, if there was one. A place is held until it is given back or
    /// its holder is dead, and counts once, also when its session is in the store.
    fn take_place<'a>(&'a self, key: &'a SessionKey, limit: usize) -> Pending<'a, Option<i64>>;

    /// Gives a place back: soon, and before this service takes another one of the tenant's.
    fn give_place_back(&self, place: i64);

    /// What was counted by all services but those that count under these names: for one tenant,
    /// or all together.
    fn counted<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        but_by: &'a [String],
    ) -> Pending<'a, Totals>;

    /// The names of the other nodes at which sessions of a tenant live, of those that are in the
    /// store with ids after `after` and up to `last`.
    fn owners<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        last: &'a SessionId,
    ) -> Pending<'a, HashMap<SessionId, String>>;
}
