//! Slots among what is scarce: live processes, turns at starting one. Handed out
//! fairly between tenants: a free slot goes to the tenant that holds fewest, and among
//! equals to whoever waits longest. A burst of one tenant then costs another tenant one
//! wait, not the whole queue. Within a tenant it is first come, first served. Those who
//! come last take what nobody else wants.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::domain::ids::TenantId;

/// So many slots.
#[derive(Debug, Clone)]
pub struct ProcessSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// What one tenant may hold.
    share: usize,
    state: Mutex<State>,
    /// Told when somebody joins the line.
    joined: Arc<Notify>,
}

/// Who waits for a slot that only somebody else's can become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortage {
    /// So many wait whom any slot would help.
    pub of_any: usize,
    /// So many wait whom only a slot of their own tenant would help, which holds all that
    /// it may.
    pub of_tenant: Vec<(TenantId, usize)>,
}

/// A tenant that waits for a slot while others hold more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// Who waits.
    pub tenant: TenantId,
    /// Since when, the one who waits longest.
    pub since: Instant,
    /// Who holds more slots than it, and how many.
    pub holders: HashMap<TenantId, usize>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    tenants: HashMap<TenantId, Line>,
    /// Those who wait behind everybody else.
    last: VecDeque<(TenantId, oneshot::Sender<ProcessSlot>)>,
    /// Tells who came first.
    tickets: u64,
}

/// A tenant's slots and those who wait for one.
#[derive(Debug, Default)]
struct Line {
    held: usize,
    waiting: VecDeque<(u64, oneshot::Sender<ProcessSlot>)>,
    /// Since when somebody waits; moved on whenever a slot is given.
    since: Option<Instant>,
}

/// One slot, free again when dropped.
#[derive(Debug)]
pub struct ProcessSlot {
    tenant: TenantId,
    /// `None` once it has been taken back.
    slots: Option<ProcessSlots>,
}

impl Drop for ProcessSlot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            let mut state = slots.lock();
            state.give_back(&self.tenant);
            slots.hand_out(&mut state);
        }
    }
}

impl ProcessSlots {
    /// So many slots, of which one tenant may hold `share`.
    pub fn new(capacity: usize, share: Option<usize>) -> Self {
        let share = share.unwrap_or(capacity);
        Self(Arc::new(Shared { capacity, share, state: Mutex::default(), joined: Arc::default() }))
    }

    /// Who waits. Everybody does so because there is no free slot, or none for them.
    pub fn shortage(&self) -> Shortage {
        let mut shortage = Shortage::default();
        let state = self.lock();
        for (tenant, line) in &state.tenants {
            let waiting = line.waiting.iter().filter(|(_, sender)| !sender.is_closed()).count();
            // Those for whom the tenant has no share left have to wait for its own.
            let without_share = waiting.min((line.held + waiting).saturating_sub(self.0.share));
            shortage.of_any += waiting - without_share;
            if without_share > 0 {
                shortage.of_tenant.push((tenant.clone(), without_share));
            }
        }
        shortage
    }

    /// The tenants that wait for a slot while others hold more, those first that wait
    /// longest.
    pub fn contests(&self) -> Vec<Contest> {
        let state = self.lock();
        let mut contests = Vec::new();
        for (tenant, line) in &state.tenants {
            let waits = line.waiting.iter().any(|(_, sender)| !sender.is_closed());
            let Some(since) = line.since.filter(|_| waits && line.held < self.0.share) else {
                continue;
            };
            let more = state.tenants.iter().filter(|(_, other)| other.held > line.held);
            let holders = more.map(|(tenant, other)| (tenant.clone(), other.held)).collect();
            contests.push(Contest { tenant: tenant.clone(), since, holders });
        }
        contests.sort_by_key(|contest| contest.since);
        contests
    }

    /// Told when somebody joins the line.
    pub fn joined(&self) -> Arc<Notify> {
        Arc::clone(&self.0.joined)
    }

    /// Slots that are taken.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// Slots that a tenant has taken.
    pub fn held_by(&self, tenant: &TenantId) -> usize {
        self.lock().tenants.get(tenant).map_or(0, |line| line.held)
    }

    /// Waits for a slot. Leaves the line when dropped.
    pub async fn take(&self, tenant: &TenantId) -> ProcessSlot {
        loop {
            let given = {
                let mut state = self.lock();
                let (sender, given) = oneshot::channel();
                state.tickets += 1;
                let ticket = state.tickets;
                let line = state.tenants.entry(tenant.clone()).or_default();
                line.waiting.retain(|(_, sender)| !sender.is_closed());
                if line.waiting.is_empty() {
                    line.since = Some(Instant::now());
                }
                line.waiting.push_back((ticket, sender));
                self.hand_out(&mut state);
                given
            };
            self.0.joined.notify_waiters();
            // The sender is in the line until it has sent; it is never just dropped.
            if let Ok(slot) = given.await {
                return slot;
            }
        }
    }

    /// Waits for a slot that nobody else wants. Leaves the line when dropped.
    pub async fn take_low_priority(&self, tenant: &TenantId) -> ProcessSlot {
        loop {
            let given = {
                let mut state = self.lock();
                let (sender, given) = oneshot::channel();
                state.last.push_back((tenant.clone(), sender));
                self.hand_out(&mut state);
                given
            };
            if let Ok(slot) = given.await {
                return slot;
            }
        }
    }

    /// Gives every free slot to whoever is next.
    fn hand_out(&self, state: &mut State) {
        while state.held < self.0.capacity {
            let Some(tenant) = state.next(self.0.share) else { break };
            let Some(line) = state.tenants.get_mut(&tenant) else { break };
            let Some((_, sender)) = line.waiting.pop_front() else { break };
            line.since = (!line.waiting.is_empty()).then(Instant::now);
            self.give(state, tenant, sender);
        }
        while state.held < self.0.capacity {
            let Some((tenant, sender)) = state.next_of_last(self.0.share) else { break };
            self.give(state, tenant, sender);
        }
        state.tenants.retain(|_, line| line.held > 0 || !line.waiting.is_empty());
    }

    fn give(&self, state: &mut State, tenant: TenantId, sender: oneshot::Sender<ProcessSlot>) {
        state.held += 1;
        state.tenants.entry(tenant.clone()).or_default().held += 1;
        let slot = ProcessSlot { tenant: tenant.clone(), slots: Some(self.clone()) };
        if let Err(mut unwanted) = sender.send(slot) {
            // Whoever waited is gone. Its drop would take the lock that is held here.
            unwanted.slots = None;
            state.give_back(&tenant);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The tenant whose turn it is.
    fn next(&mut self, share: usize) -> Option<TenantId> {
        for line in self.tenants.values_mut() {
            while line.waiting.front().is_some_and(|(_, sender)| sender.is_closed()) {
                line.waiting.pop_front();
            }
        }
        self.tenants
            .iter()
            .filter(|(_, line)| line.held < share)
            .filter_map(|(tenant, line)| Some((line.held, line.waiting.front()?.0, tenant)))
            .min()
            .map(|(_, _, tenant)| tenant.clone())
    }

    /// The first of those who come last whose tenant may have another slot.
    fn next_of_last(&mut self, share: usize) -> Option<(TenantId, oneshot::Sender<ProcessSlot>)> {
        self.last.retain(|(_, sender)| !sender.is_closed());
        let held = |tenant| self.tenants.get(tenant).map_or(0, |line| line.held);
        let first = self.last.iter().position(|(tenant, _)| held(tenant) < share)?;
        self.last.remove(first)
    }

    fn give_back(&mut self, tenant: &TenantId) {
        self.held = self.held.saturating_sub(1);
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.held = line.held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
