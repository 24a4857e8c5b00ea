//! The ledger: what is known of a conversation beyond the life of its session, so
//! that the next Query under the same id continues it. Knows ids and options; nothing
//! of processes or turns.
//!
//! In this version it is kept in memory: it outlives sessions and processes, not the
//! service.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    cli::options::Options,
    ids::{CliSessionId, SessionKey},
};

/// Conversations remembered at most; past it, those longest unused are forgotten.
const MAX_RECORDS: usize = 100_000;

/// What is known of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The id that the CLI knows it by.
    pub cli_session_id: CliSessionId,
    /// Its options.
    pub options: Options,
}

/// The conversations of the service.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<SessionKey, (Record, u64)>,
    clock: u64,
}

impl Ledger {
    /// The conversation of a session.
    pub fn load(&self, id: &SessionKey) -> Option<Record> {
        self.lock().records.get(id).map(|(record, _)| record.clone())
    }

    /// Keeps the conversation of a session.
    pub fn save(&self, id: &SessionKey, record: Record) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        state.records.insert(id.clone(), (record, now));
        if state.records.len() > MAX_RECORDS {
            state.drop_oldest();
        }
    }

    /// Forgets the conversation of a session.
    pub fn remove(&self, id: &SessionKey) -> Option<Record> {
        self.lock().records.remove(id).map(|(record, _)| record)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops a tenth at once, so that it is not done for every new one.
    fn drop_oldest(&mut self) {
        let mut ages: Vec<u64> = self.records.values().map(|(_, used)| *used).collect();
        ages.sort_unstable();
        let Some(limit) = ages.get(MAX_RECORDS / 10).copied() else { return };
        self.records.retain(|_, (_, used)| *used >= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SessionId, TenantId};

    #[test]
    fn a_conversation_is_remembered_until_it_is_forgotten() {
        let ledger = Ledger::default();
        let session = SessionId::parse("a").expect("a name");
        let other = SessionKey::new(TenantId::parse("other").expect("a name"), session.clone());
        let id = SessionKey::new(TenantId::default(), session);
        let record = Record { cli_session_id: CliSessionId::fresh(), options: Options::default() };
        assert_eq!(ledger.load(&id), None);
        ledger.save(&id, record.clone());
        assert_eq!(ledger.load(&id), Some(record.clone()));
        assert_eq!(ledger.load(&other), None, "another tenant's");
        assert_eq!(ledger.remove(&id), Some(record));
        assert_eq!(ledger.load(&id), None);
    }
}
