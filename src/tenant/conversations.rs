//! Which of a tenant's sessions has which conversation, as far as the store may not know
//! it yet. What is committed is decided by the store; a session that works in a
//! conversation holds it here from before its process starts until it is committed, so that
//! two sessions that ask at the same time cannot both get it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::ids::{CliSessionId, SessionId};

/// The conversations that live sessions hold.
#[derive(Debug, Default)]
pub struct Conversations {
    held: Arc<Mutex<HashMap<CliSessionId, SessionId>>>,
}

/// A conversation that one session holds until this is dropped.
#[derive(Debug)]
pub struct Hold {
    held: Arc<Mutex<HashMap<CliSessionId, SessionId>>>,
    id: CliSessionId,
}

impl Conversations {
    /// Holds a conversation for a session that does not hold it yet; who has it otherwise.
    pub fn hold(&self, id: CliSessionId, session: &SessionId) -> Result<Hold, SessionId> {
        match lock(&self.held).entry(id) {
            Entry::Occupied(entry) => Err(entry.get().clone()),
            Entry::Vacant(entry) => {
                entry.insert(session.clone());
                Ok(Hold { held: Arc::clone(&self.held), id })
            }
        }
    }

    /// Who holds a conversation.
    pub fn holder(&self, id: CliSessionId) -> Option<SessionId> {
        lock(&self.held).get(&id).cloned()
    }
}

impl Hold {
    /// The conversation.
    pub fn id(&self) -> CliSessionId {
        self.id
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.id);
    }
}

/// Nothing panics half-way through a change of the map.
fn lock(
    held: &Mutex<HashMap<CliSessionId, SessionId>>,
) -> MutexGuard<'_, HashMap<CliSessionId, SessionId>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e1_a_conversation_is_held_by_one_session_until_it_lets_go() {
        let conversations = Conversations::default();
        let [a, b] = ["a", "b"].map(|name| SessionId::parse(name).expect("a name"));
        let id = CliSessionId::fresh();
        let held = conversations.hold(id, &a).expect("nobody has it");
        assert_eq!(conversations.hold(id, &b).expect_err("a has it"), a);
        assert_eq!(conversations.holder(id), Some(a.clone()));
        let other = conversations.hold(CliSessionId::fresh(), &b).expect("another");
        drop(held);
        assert_eq!(conversations.holder(id), None);
        assert_eq!(conversations.holder(other.id()), Some(b.clone()));
        assert!(conversations.hold(id, &b).is_ok());
    }
}
