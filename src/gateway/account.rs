//! What one process has used of the API: by model, as the API counted it. Whoever keeps the
//! session's sums takes it from here, each part once; what a session may still spend is said here,
//! and asked before each request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{notices::Notices, usage::Used};
use crate::{
    cli::{cost::Wire, frame::ModelUse},
    domain::{
        ids::{ClientId, TenantId},
        usage::is_spent,
    },
};

/// Connections of one process. A CLI has some five, with its subagents.
pub(super) const OF_A_PROCESS: usize = 32;

/// Names that one process may have looked up at once.
const LOOKUPS: usize = 8;

/// Hosts that one process was kept from and that are told apart.
const MOST_REFUSED: usize = 64;

/// The account of a process.
#[derive(Debug)]
pub struct Account {
    tenant: TenantId,
    process: ClientId,
    counts: bool,
    lookups: Arc<Semaphore>,
    closed: CancellationToken,
    connections: Arc<Semaphore>,
    /// Whether a credential was shown for it.
    is_used: AtomicBool,
    notices: Notices,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    not_taken: BTreeMap<String, ModelUse>,
    /// US dollars since the process began.
    sum: f64,
    /// What the sum may come to before requests are refused.
    bound: Option<f64>,
    /// Hosts that it was kept from.
    refused: BTreeSet<String>,
}

impl Account {
    /// Of a process, whose use of the API counts here if it comes here for that.
    pub(super) fn new(tenant: TenantId, process: ClientId, counts: bool) -> Self {
        Self {
            tenant,
            process,
            counts,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            closed: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(OF_A_PROCESS)),
            is_used: AtomicBool::new(false),
            notices: Notices::default(),
            state: Mutex::default(),
        }
    }

    /// Whose the process is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The process.
    pub fn process(&self) -> ClientId {
        self.process
    }

    /// Whether the process comes here for the API; otherwise for other hosts alone.
    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// Whether a credential is shown for it for the first time.
    pub(super) fn is_first_use(&self) -> bool {
        !self.is_used.swap(true, Ordering::Relaxed)
    }

    /// Whether it is kept from a host for the first time. After so many hosts nothing is new any more:
    /// what an agent makes up is not to fill a disk.
    pub(super) fn is_first_refusal(&self, host: &str) -> bool {
        let refused = &mut self.lock().refused;
        refused.len() < MOST_REFUSED && refused.insert(host.to_owned())
    }

    /// What its session is to be told.
    pub(super) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// A place for one more look-up of a name, if it has not too many.
    pub(super) fn lookup(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.lookups).try_acquire_owned().ok()
    }

    /// A place for one more connection of the process, if it has not too many.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// Cancelled when the process has ended.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Takes note of what a request has used.
    pub(super) fn add(&self, used: &Used, cost_usd: f64) {
        let mut state = self.lock();
        state.sum += cost_usd;
        let model = state.not_taken.entry(used.model.clone()).or_default();
        model.name.clone_from(&used.model);
        model.cost_usd += cost_usd;
        model.usage.add(&used.tokens());
    }

    /// US dollars that nobody has taken note of yet.
    pub(super) fn not_taken(&self) -> f64 {
        self.lock().not_taken.values().map(|model| model.cost_usd).sum()
    }

    /// Whether the session may use more; the error is what this process has spent, in US dollars.
    pub(super) fn check(&self) -> Result<(), f64> {
        let state = self.lock();
        match state.bound {
            Some(bound) if is_spent(bound, bound - state.sum) => Err(state.sum),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Account {
    fn take(&self) -> Vec<ModelUse> {
        std::mem::take(&mut self.lock().not_taken).into_values().collect()
    }

    fn has_more(&self) -> bool {
        !self.lock().not_taken.is_empty()
    }

    fn sum(&self) -> f64 {
        self.lock().sum
    }

    fn allow(&self, left: Option<f64>) {
        let mut state = self.lock();
        let not_taken: f64 = state.not_taken.values().map(|model| model.cost_usd).sum();
        state.bound = left.map(|left| state.sum - not_taken + left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(model: &str, input: u64) -> Used {
        Used { model: model.into(), input, ..Used::default() }
    }

    #[test]
    fn what_was_used_is_taken_once_and_bounded_by_what_is_left() {
        let account = Account::new(TenantId::default(), ClientId::fresh(), true);
        assert!(account.check().is_ok() && !account.has_more());
        account.allow(Some(1.0));
        account.add(&used("a", 10), 0.25);
        account.add(&used("b", 1), 0.25);
        account.add(&used("a", 5), 0.25);
        assert!((account.not_taken() - 0.75).abs() < 1e-12);
        let taken = account.take();
        let told: Vec<_> = taken
            .iter()
            .map(|model| (model.name.as_str(), model.cost_usd, model.usage.input_tokens))
            .collect();
        assert_eq!(told, [("a", 0.5, 15), ("b", 0.25, 1)]);
        assert!(account.take().is_empty() && account.not_taken() == 0.0);
        // What is left now is less by what was taken: the bound stays where it is.
        account.allow(Some(0.25));
        assert!(account.check().is_ok());
        account.add(&used("a", 5), 0.25);
        assert_eq!(account.check(), Err(1.0));
        account.allow(None);
        assert!(account.check().is_ok());
    }
}
