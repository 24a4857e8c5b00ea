//! The feeds of sessions: of those that have a task, of those that somebody follows, and of some
//! more, so that who comes back to a session that was unloaded meanwhile is told that nothing
//! happened. Behind the lock of the map of sessions, since a feed ends with its session.

use std::{collections::HashMap, sync::Arc};

use crate::{
    budget::Account,
    domain::{
        failure::{Cause, Failure},
        ids::SessionKey,
    },
    session::{Remains, feed::Feed},
};

/// Feeds that are kept although nobody writes or reads them. Each is a few hundred bytes.
const MOST_UNUSED: usize = 1024;

/// The feeds of sessions.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: HashMap<SessionKey, Kept>,
    /// Unused ones are let go of when there are so many in all.
    tidy_at: usize,
    /// Counts uses.
    uses: u64,
    /// Whether the service stops.
    shut: bool,
}

#[derive(Debug)]
struct Kept {
    feed: Arc<Feed>,
    /// When it was asked for, by the count of uses.
    used: u64,
}

impl Kept {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.feed) > 1
    }
}

impl Feeds {
    /// The feed of a session, which is made if there is none; `memory` is the account for what
    /// it holds.
    pub(super) fn of(&mut self, key: &SessionKey, memory: impl FnOnce() -> Account) -> Arc<Feed> {
        self.tidy();
        self.uses += 1;
        let used = self.uses;
        let kept = self.feeds.entry(key.clone()).or_insert_with(|| Kept {
            feed: Arc::new(Feed::new(key.session.clone(), memory())),
            used,
        });
        kept.used = used;
        Arc::clone(&kept.feed)
    }

    /// A session's task has ended.
    pub(super) fn task_ended(&mut self, key: &SessionKey, remains: Remains) {
        match remains {
            Remains::Stored => {
                if let Some(kept) = self.feeds.get(key) {
                    kept.feed.unload();
                }
            }
            Remains::Elsewhere => self.end(key, Err(Cause::moved(""))),
            // All are told when the last has ended.
            Remains::Kept => {}
            Remains::Nothing | Remains::Unnoted => self.session_ended(key),
        }
    }

    /// A session has left the pool.
    pub(super) fn session_ended(&mut self, key: &SessionKey) {
        self.end(key, Ok(()));
    }

    /// The service stops: nothing is followed from here on.
    pub(super) fn shut(&mut self) {
        self.shut = true;
        for (key, Kept { feed, .. }) in self.feeds.drain() {
            feed.end(Err(failure(Cause::ShuttingDown, &key)));
        }
    }

    /// These sessions are another service's to go on with.
    pub(super) fn hand_over(&mut self, are_others: impl Fn(&SessionKey) -> bool) {
        for (key, Kept { feed, .. }) in self.feeds.extract_if(|key, _| are_others(key)) {
            feed.end(Err(failure(Cause::moved(""), &key)));
        }
    }

    /// The sessions that somebody follows.
    pub(super) fn followed(&self) -> Vec<SessionKey> {
        let used = self.feeds.iter().filter(|(_, kept)| kept.is_used());
        used.map(|(key, _)| key.clone()).collect()
    }

    /// Whether the service stops.
    pub(super) fn are_shut(&self) -> bool {
        self.shut
    }

    fn end(&mut self, key: &SessionKey, end: Result<(), Cause>) {
        if let Some(Kept { feed, .. }) = self.feeds.remove(key) {
            feed.end(end.map_err(|cause| failure(cause, key)));
        }
    }

    /// Lets go of the unused ones that were asked for longest ago.
    fn tidy(&mut self) {
        if self.feeds.len() < self.tidy_at {
            return;
        }
        let unused = self.feeds.values().filter(|kept| !kept.is_used());
        let mut uses: Vec<_> = unused.map(|kept| kept.used).collect();
        uses.sort_unstable();
        if let Some(excess) = uses.len().checked_sub(MOST_UNUSED)
            && let Some(first_kept) = uses.get(excess).copied()
        {
            self.feeds.retain(|_, kept| kept.is_used() || kept.used >= first_kept);
        }
        self.tidy_at = self.feeds.len() + MOST_UNUSED;
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.feeds.len()
    }
}

fn failure(cause: Cause, key: &SessionKey) -> Failure {
    Failure::from(cause).concerning(Some(&key.session), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::{SessionId, TenantId},
        turn::storage::Storage,
    };

    fn key(number: usize) -> SessionKey {
        SessionKey::new(TenantId::default(), SessionId::parse(&number.to_string()).expect("a name"))
    }

    #[test]
    fn feeds_that_nobody_uses_are_let_go_of_those_first_that_were_used_longest_ago() {
        let storage = Storage::in_memory(1024);
        let memory = || storage.accounts(&TenantId::default()).memory;
        let mut feeds = Feeds::default();
        let used = feeds.of(&key(0), memory);
        let mut most = 0;
        for number in 1..10 * MOST_UNUSED {
            drop(feeds.of(&key(number), memory));
            drop(feeds.of(&key(1), memory));
            most = most.max(feeds.len());
        }
        assert!(most <= 2 * MOST_UNUSED + 1, "{most}");
        assert!(Arc::ptr_eq(&used, &feeds.of(&key(0), memory)), "somebody reads it");
        for kept in [1, 10 * MOST_UNUSED - 1, 9 * MOST_UNUSED + 2] {
            assert!(feeds.feeds.contains_key(&key(kept)), "{kept}");
        }
        assert!(!feeds.feeds.contains_key(&key(2)));
    }
}
