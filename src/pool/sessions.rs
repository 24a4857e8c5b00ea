//! The sessions that the service has at hand, and how many more are in the pool that only the
//! store has. Nothing here asks the store: what it must not lose sight of is that a session
//! counts once, wherever it is.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use tokio_util::sync::CancellationToken;

use super::{feeds::Feeds, places::Place};
use crate::{
    domain::ids::{SessionId, SessionKey, TenantId},
    session::{Remains, SessionHandle},
};

/// Whose sessions are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One tenant's.
    Tenant(TenantId),
    /// Everybody's.
    All,
}

/// What is known of a session without asking the store.
#[derive(Debug)]
pub(super) enum Entry {
    /// It has a task.
    Live {
        /// The way to it.
        handle: SessionHandle,
        /// Tells a session from a later one under the same id.
        generation: u64,
    },
    /// Somebody asks the store for it. Nobody else makes or ends it meanwhile.
    Asked {
        /// Cancelled when that is over.
        over: CancellationToken,
        /// Whether it has left the pool without the store having taken note.
        has_left: bool,
    },
    /// It has left the pool, and the store has not taken note of that.
    Left,
}

impl Entry {
    /// The way to it, if it has a task.
    pub(super) fn handle(&self) -> Option<&SessionHandle> {
        match self {
            Self::Live { handle, .. } => Some(handle),
            Self::Asked { .. } | Self::Left => None,
        }
    }

    fn has_left(&self) -> bool {
        matches!(self, Self::Left | Self::Asked { has_left: true, .. })
    }
}

/// The sessions at hand, and the number of the others.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Sessions of one tenant are next to each other.
    entries: BTreeMap<SessionKey, Entry>,
    /// How many of each tenant have a task: counted, since each that is made asks.
    live: HashMap<TenantId, usize>,
    /// Sessions of each tenant that are in the pool without having a task.
    stored: HashMap<TenantId, usize>,
    /// Places of those that have a task, where others have to know of them.
    places: HashMap<SessionKey, Place>,
    /// What those who follow sessions read.
    pub(super) feeds: Feeds,
}

impl Sessions {
    /// Takes over how many sessions of each tenant an earlier life of the service left.
    pub(super) fn begin_with(&mut self, stored: impl IntoIterator<Item = (TenantId, usize)>) {
        self.stored.extend(stored);
    }

    /// Others have changed how many sessions of each tenant are in the pool.
    pub(super) fn have_stored(&mut self, stored: impl IntoIterator<Item = (TenantId, usize)>) {
        self.stored = stored.into_iter().collect();
    }

    /// A session has a place among those of its tenant, for as long as it has a task.
    pub(super) fn keep_place(&mut self, key: &SessionKey, place: Place) {
        if self.get(key).and_then(Entry::handle).is_some() {
            self.places.insert(key.clone(), place);
        }
    }

    /// What is known of a session.
    pub(super) fn get(&self, key: &SessionKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Somebody asks the store for a session without a task. Returns what is cancelled when
    /// that is over, and whether the session has left the pool.
    pub(super) fn ask(&mut self, key: &SessionKey) -> (CancellationToken, bool) {
        let over = CancellationToken::new();
        let has_left = self.has_left(key);
        let entry = Entry::Asked { over: over.clone(), has_left };
        self.entries.insert(key.clone(), entry);
        (over, has_left)
    }

    /// The store was asked for it, and nothing was made of it.
    pub(super) fn asked(&mut self, key: &SessionKey, has_left: bool) {
        if has_left {
            self.entries.insert(key.clone(), Entry::Left);
        } else {
            self.entries.remove(key);
        }
    }

    /// A session has a task from here on. `was_stored`: it was in the pool without one.
    pub(super) fn live(
        &mut self,
        key: &SessionKey,
        handle: SessionHandle,
        generation: u64,
        was_stored: bool,
    ) {
        if was_stored {
            self.one_less(&key.tenant);
        }
        let before = self.entries.insert(key.clone(), Entry::Live { handle, generation });
        if before.is_none_or(|before| before.handle().is_none()) {
            *self.live.entry(key.tenant.clone()).or_default() += 1;
        }
    }

    /// A session's task has ended.
    pub(super) fn end(&mut self, key: &SessionKey, generation: u64, remains: Remains) {
        let is_its = |entry: &Entry| matches!(entry, Entry::Live { generation: current, .. } if *current == generation);
        if !self.entries.get(key).is_some_and(is_its) {
            return;
        }
        self.entries.remove(key);
        if let Some(live) = self.live.get_mut(&key.tenant) {
            *live -= 1;
        }
        self.places.remove(key);
        match remains {
            Remains::Stored | Remains::Elsewhere => {
                *self.stored.entry(key.tenant.clone()).or_default() += 1;
            }
            Remains::Nothing | Remains::Kept => {}
            Remains::Unnoted => drop(self.entries.insert(key.clone(), Entry::Left)),
        }
        self.feeds.task_ended(key, remains);
    }

    /// Those without a task that somebody follows.
    pub(super) fn followed_without_task(&self) -> Vec<SessionKey> {
        let mut followed = self.feeds.followed();
        followed.retain(|key| !has_task(&self.entries, key));
        followed
    }

    /// Sessions without a task that `are_others` go on elsewhere: who follows them asks again.
    pub(super) fn hand_over_feeds(&mut self, are_others: impl Fn(&SessionKey) -> bool) {
        let Self { entries, feeds, .. } = self;
        feeds.hand_over(|key| !has_task(entries, key) && are_others(key));
    }

    /// A session that only the store had is in the pool no more.
    pub(super) fn one_less(&mut self, tenant: &TenantId) {
        if let Some(count) = self.stored.get_mut(tenant) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a session has left the pool although the store may say otherwise.
    pub(super) fn has_left(&self, key: &SessionKey) -> bool {
        self.entries.get(key).is_some_and(Entry::has_left)
    }

    /// Those that have left without the store having taken note.
    pub(super) fn left(&self) -> Vec<SessionKey> {
        let left = self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Left));
        left.map(|(key, _)| key.clone()).collect()
    }

    /// A tenant's sessions that are at hand, with ids after `after`, in order.
    pub(super) fn of_tenant<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<SessionId>,
    ) -> impl Iterator<Item = (&'a SessionKey, &'a Entry)> {
        // No session has a name that is less than this one.
        let after = after.unwrap_or_else(SessionId::before_all);
        let from = SessionKey::new(tenant.clone(), after);
        self.entries
            .range((Bound::Excluded(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.tenant == *tenant)
    }

    /// The sessions that have a task.
    pub(super) fn handles(&self, scope: &Scope) -> Vec<(SessionKey, SessionHandle)> {
        let copy = |(key, entry): (&SessionKey, &Entry)| {
            entry.handle().map(|handle| (key.clone(), handle.clone()))
        };
        match scope {
            Scope::All => self.entries.iter().filter_map(copy).collect(),
            Scope::Tenant(tenant) => self.of_tenant(tenant, None).filter_map(copy).collect(),
        }
    }

    /// How many are in the pool without having a task.
    pub(super) fn stored(&self, scope: &Scope) -> usize {
        match scope {
            Scope::All => self.stored.values().sum(),
            Scope::Tenant(tenant) => self.stored.get(tenant).copied().unwrap_or_default(),
        }
    }

    /// How many are in the pool.
    pub(super) fn count(&self, scope: &Scope) -> usize {
        let live = match scope {
            Scope::All => self.live.values().sum(),
            Scope::Tenant(tenant) => self.live.get(tenant).copied().unwrap_or_default(),
        };
        live + self.stored(scope)
    }

    /// How many the service knows anything of, beyond their number.
    #[cfg(test)]
    pub(super) fn at_hand(&self) -> usize {
        self.entries.len()
    }
}

fn has_task(entries: &BTreeMap<SessionKey, Entry>, key: &SessionKey) -> bool {
    entries.get(key).is_some_and(|entry| entry.handle().is_some())
}
