//! The store that keeps nothing beyond the service's life.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    future,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::{
    Commit, Epoch, Idle, Import, KeptTurn, Line, Part, Pending, Piece, Place, Record, Store,
    StoreError, StoreStatus,
    columns::elapsed,
    owner,
    record::{MOST_TURN_BYTES, MOST_TURNS},
};
use crate::{
    counters::Totals,
    domain::ids::{CliSessionId, SessionId, SessionKey, TenantId, TurnId},
};

/// Keeps conversations in memory. All methods are done at once.
#[derive(Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// Who commits by it.
    owner: String,
    /// What its own times count from.
    began: Instant,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Arc::default(), owner: "1".to_owned(), began: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<SessionKey, Kept>,
    /// The sessions that have a conversation: nobody goes through all of them to know it.
    holders: HashMap<(TenantId, CliSessionId), BTreeSet<SessionId>>,
    transcripts: HashMap<(TenantId, CliSessionId), Transcript>,
    /// Those that are being taken up, and whether all of each has come.
    taken_up: HashMap<(TenantId, CliSessionId), (Vec<Line>, bool)>,
    totals: HashMap<TenantId, Totals>,
}

#[derive(Debug)]
struct Kept {
    record: Record,
    kept_at: Instant,
    conversations: HashSet<CliSessionId>,
    turns: VecDeque<KeptTurn>,
    /// Whose it is; empty after it was given back.
    owner: String,
    epoch: Epoch,
}

#[derive(Debug, Default)]
struct Transcript {
    lines: Vec<Line>,
    uuids: BTreeSet<(Arc<str>, String)>,
}

impl MemoryStore {
    /// Another service on the same conversations.
    #[cfg(test)]
    pub fn beside(&self) -> Self {
        let owner = format!("{}'", self.owner);
        Self { state: Arc::clone(&self.state), owner, began: self.began }
    }

    /// Whose a session is; empty where it was given back.
    #[cfg(test)]
    pub fn owner_of(&self, key: &SessionKey) -> String {
        self.lock().sessions.get(key).map(|kept| kept.owner.clone()).unwrap_or_default()
    }

    /// When a session was last used, from when the store began on.
    fn used_ms(&self, kept: &Kept) -> i64 {
        let kept_at = kept.kept_at.saturating_duration_since(self.began);
        elapsed(kept_at).saturating_sub(elapsed(kept.record.unused_for))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The record as it is by now.
    fn aged(&self) -> Record {
        let mut record = self.record.clone();
        record.age += self.kept_at.elapsed();
        record.unused_for = self.unused_for();
        record.epoch = self.epoch;
        record
    }

    fn unused_for(&self) -> Duration {
        self.record.unused_for + self.kept_at.elapsed()
    }

    /// Keeps a turn within the bounds.
    fn add(&mut self, turn: KeptTurn) {
        let now = turn.end_time;
        self.turns.retain(|kept| kept.turn_id != turn.turn_id && kept.expire_time > now);
        self.turns.push_front(turn);
        self.turns.truncate(MOST_TURNS);
        let mut bytes = 0;
        for kept in &mut self.turns {
            bytes += kept.result.len();
            if bytes > MOST_TURN_BYTES {
                kept.result = "".into();
            }
        }
    }
}

impl State {
    fn keep(&mut self, key: &SessionKey, record: Record, owner: &str) {
        let conversation = record.cli_session_id;
        if let Some(kept) = self.sessions.get_mut(key) {
            kept.record = record;
            kept.kept_at = Instant::now();
        } else {
            let (kept_at, conversations) = (Instant::now(), HashSet::new());
            let (owner, epoch) = (owner.to_owned(), Epoch::NONE.kept());
            let turns = VecDeque::new();
            let kept = Kept { record, kept_at, conversations, turns, owner, epoch };
            self.sessions.insert(key.clone(), kept);
        }
        self.give(key, conversation);
    }

    /// Gives a conversation to a session unless only others have it. Returns whether the
    /// session has it.
    fn take(&mut self, key: &SessionKey, id: CliSessionId) -> bool {
        self.others(key, id).is_none() && self.give(key, id)
    }

    /// Returns whether there is such a session.
    fn give(&mut self, key: &SessionKey, id: CliSessionId) -> bool {
        let Some(kept) = self.sessions.get_mut(key) else { return false };
        kept.conversations.insert(id);
        let place = (key.tenant.clone(), id);
        self.holders.entry(place).or_default().insert(key.session.clone());
        true
    }

    /// The session of the tenant that has a conversation, if only others have it.
    fn others(&self, key: &SessionKey, id: CliSessionId) -> Option<SessionId> {
        let holders = self.holders.get(&(key.tenant.clone(), id))?;
        if holders.contains(&key.session) { None } else { holders.first().cloned() }
    }

    /// Takes a conversation from a session that is gone. Returns whether nobody has it now.
    fn drop_holder(&mut self, key: &SessionKey, id: CliSessionId) -> bool {
        let place = (key.tenant.clone(), id);
        let Some(holders) = self.holders.get_mut(&place) else { return true };
        holders.remove(&key.session);
        let has_none = holders.is_empty();
        if has_none {
            self.holders.remove(&place);
        }
        has_none
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
    Box::pin(future::ready(Ok::<T, StoreError>(value)))
}

fn refused<'a, T: Send + 'a>(error: StoreError) -> Pending<'a, T> {
    Box::pin(future::ready(Err(error)))
}

impl Store for MemoryStore {
    fn load<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Option<Record>> {
        done(self.lock().sessions.get(key).map(Kept::aged))
    }

    fn claim<'a>(&'a self, key: &'a SessionKey) -> Pending<'a, Epoch> {
        let mut state = self.lock();
        let Some(kept) = state.sessions.get_mut(key) else { return done(Epoch::NONE) };
        kept.epoch = Epoch(kept.epoch.0 + 1);
        kept.owner.clone_from(&self.owner);
        done(kept.epoch)
    }

    fn release<'a>(&'a self, key: &'a SessionKey, epoch: Epoch) -> Pending<'a, ()> {
        let mut state = self.lock();
        let is_own = |kept: &&mut Kept| kept.owner == self.owner && kept.epoch == epoch.kept();
        if let Some(kept) = state.sessions.get_mut(key).filter(is_own) {
            kept.owner.clear();
        }
        done(())
    }

    fn commit(&self, commit: Commit) -> Pending<'_, ()> {
        let Commit { key, epoch, releases, record, turn, lines, totals } = commit;
        let mut state = self.lock();
        let row = state.sessions.get(&key).map(|kept| (kept.owner.as_str(), kept.epoch));
        if let Err(fenced) = owner::admit(row, &self.owner, epoch) {
            return refused(fenced);
        }
        let conversation = record.cli_session_id;
        if let Some(owner) = state.others(&key, conversation) {
            return refused(StoreError::Conflict { conversation, owner: Some(owner) });
        }
        state.totals.entry(key.tenant.clone()).or_default().raise(&totals);
        state.keep(&key, record, &self.owner);
        if let (Some(turn), Some(kept)) = (turn, state.sessions.get_mut(&key)) {
            kept.add(turn);
        }
        let place = (key.tenant.clone(), conversation);
        let taken_up = state.taken_up.extract_if(|it, (_, all)| *it == place && *all);
        let taken_up: Vec<Line> = taken_up.flat_map(|(_, (lines, _))| lines).collect();
        for line in taken_up.into_iter().chain(Arc::unwrap_or_clone(lines)) {
            if !state.take(&key, line.conversation) {
                continue;
            }
            let place = (key.tenant.clone(), line.conversation);
            let transcript = state.transcripts.entry(place).or_default();
            let is_new = line
                .uuid
                .as_ref()
                .is_none_or(|uuid| transcript.uuids.insert((line.subpath.clone(), uuid.clone())));
            if is_new {
                transcript.lines.push(line);
            }
        }
        if let (true, Some(kept)) = (releases, state.sessions.get_mut(&key)) {
            kept.owner.clear();
        }
        done(())
    }

    fn other_owner<'a>(
        &'a self,
        key: &'a SessionKey,
        conversation: CliSessionId,
    ) -> Pending<'a, Option<SessionId>> {
        let state = self.lock();
        let holders = state.holders.get(&(key.tenant.clone(), conversation));
        done(holders.into_iter().flatten().find(|other| **other != key.session).cloned())
    }

    fn piece<'a>(
        &'a self,
        tenant: &'a TenantId,
        conversation: CliSessionId,
        _: Option<Place>,
    ) -> Pending<'a, Piece> {
        // It is in memory as it is.
        let state = self.lock();
        let transcript = state.transcripts.get(&(tenant.clone(), conversation));
        let lines = transcript.map(|transcript| transcript.lines.clone()).unwrap_or_default();
        done(Piece { lines, next: None })
    }

    fn import(&self, import: Import) -> Pending<'_, ()> {
        let Import { key, conversation, part } = import;
        let mut state = self.lock();
        if let Some(owner) = state.others(&key, conversation) {
            return refused(StoreError::Conflict { conversation, owner: Some(owner) });
        }
        let (lines, all_came) = state.taken_up.entry((key.tenant, conversation)).or_default();
        match part {
            Part::Begin => (*lines, *all_came) = (Vec::new(), false),
            Part::Lines(more) => lines.extend(more),
            Part::End => *all_came = true,
        }
        done(())
    }

    fn give_up_import<'a>(&'a self, tenant: &'a TenantId, id: CliSessionId) -> Pending<'a, ()> {
        self.lock().taken_up.remove(&(tenant.clone(), id));
        done(())
    }

    fn forget<'a>(
        &'a self,
        key: &'a SessionKey,
        _until: Instant,
    ) -> Pending<'a, Option<Vec<CliSessionId>>> {
        let mut state = self.lock();
        let Some(kept) = state.sessions.remove(key) else { return done(None) };
        let mut gone: Vec<CliSessionId> = kept.conversations.into_iter().collect();
        gone.retain(|id| state.drop_holder(key, *id));
        for id in &gone {
            state.transcripts.remove(&(key.tenant.clone(), *id));
        }
        done(Some(gone))
    }

    fn list<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> Pending<'a, Vec<(SessionId, Record)>> {
        let after = after.cloned().unwrap_or_else(SessionId::before_all);
        let from = SessionKey::new(tenant.clone(), after);
        let state = self.lock();
        let page = state
            .sessions
            .range((Bound::Excluded(from), Bound::Unbounded))
            .take_while(|(key, _)| key.tenant == *tenant)
            .filter(|(_, kept)| kept.record.in_pool)
            .take(limit)
            .map(|(key, kept)| (key.session.clone(), kept.aged()))
            .collect();
        done(page)
    }

    fn unused_for(&self, time: Duration, limit: usize) -> Pending<'_, Vec<SessionKey>> {
        let state = self.lock();
        let unused = state.sessions.iter().filter(|(_, kept)| kept.unused_for() > time);
        done(unused.take(limit).map(|(key, _)| key.clone()).collect())
    }

    fn in_pool(&self) -> Pending<'_, Vec<(TenantId, usize)>> {
        let mut counts = BTreeMap::<TenantId, usize>::new();
        for (key, _) in self.lock().sessions.iter().filter(|(_, kept)| kept.record.in_pool) {
            *counts.entry(key.tenant.clone()).or_default() += 1;
        }
        done(counts.into_iter().collect())
    }

    fn idle<'a>(
        &'a self,
        time: Duration,
        after: Option<&'a Idle>,
        limit: usize,
    ) -> Pending<'a, Vec<Idle>> {
        let order = |idle: &Idle| (idle.used_ms, idle.key.clone());
        let state = self.lock();
        let is_idle = |kept: &Kept| kept.record.in_pool && kept.unused_for() > time;
        let mut idle: Vec<Idle> = state
            .sessions
            .iter()
            .filter(|(_, kept)| is_idle(kept))
            .map(|(key, kept)| Idle { key: key.clone(), used_ms: self.used_ms(kept) })
            .filter(|idle| after.is_none_or(|after| order(idle) > order(after)))
            .collect();
        idle.sort_by_key(order);
        idle.truncate(limit);
        done(idle)
    }

    fn turn<'a>(&'a self, key: &'a SessionKey, turn: &'a TurnId) -> Pending<'a, Option<KeptTurn>> {
        let (state, now) = (self.lock(), SystemTime::now());
        let mut turns = state.sessions.get(key).into_iter().flat_map(|kept| &kept.turns);
        done(turns.find(|kept| kept.turn_id == *turn && kept.expire_time > now).cloned())
    }

    fn count<'a>(&'a self, tenant: &'a TenantId, totals: Totals) -> Pending<'a, ()> {
        self.lock().totals.entry(tenant.clone()).or_default().raise(&totals);
        done(())
    }

    fn leave_pool<'a>(&'a self, key: &'a SessionKey, unused_for: Duration) -> Pending<'a, bool> {
        let mut state = self.lock();
        let leaves = |kept: &Kept| kept.record.in_pool && kept.unused_for() >= unused_for;
        let left = state.sessions.get_mut(key).filter(|kept| leaves(kept));
        done(left.map(|kept| kept.record.in_pool = false).is_some())
    }

    fn totals(&self) -> Pending<'_, Vec<(TenantId, Totals)>> {
        done(
            self.lock()
                .totals
                .iter()
                .map(|(tenant, totals)| (tenant.clone(), totals.clone()))
                .collect(),
        )
    }

    fn status(&self) -> watch::Receiver<StoreStatus> {
        // Memory does not fail.
        watch::Sender::default().subscribe()
    }
}
