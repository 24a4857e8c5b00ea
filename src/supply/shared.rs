//! What the tasks of a supply share: what processes are started with, places among them, turns
//! at starting, and the spares that are ready. Knows nothing of how a process or a spare is
//! started.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    slots::{ProcessSlots, Shortage},
    spares::spare_pool::SparePool,
};
use crate::{
    cli::{
        launch::LaunchSettings,
        usage::{Allowed, Watch},
    },
    domain::{failure::Cause, ids::TenantId},
    gateway::Gateway,
    os::looks::Looks,
    policy::Policy,
    tasks::Tasks,
};

/// Bounds of the supply.
#[derive(Debug, Clone)]
pub struct SupplyLimits {
    /// Live processes.
    pub max_processes: usize,
    /// Live processes of one tenant; `None` is all of them.
    pub max_processes_of_a_tenant: Option<usize>,
    /// Processes that start at the same time.
    pub start_concurrency: usize,
    /// From the start of a process to its answer; also the longest wait for a place of a
    /// caller without a deadline.
    pub connect_timeout: Duration,
    /// Bytes of a frame.
    pub max_frame_bytes: usize,
    /// What one process and its descendants may hold.
    pub usage: Allowed,
}

/// The state of a supply.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: LaunchSettings,
    /// The way of processes to the API, where the service has the credential.
    pub(super) gateway: Option<Gateway>,
    pub(super) limits: SupplyLimits,
    pub(super) policy: Arc<Policy>,
    pub(super) slots: ProcessSlots,
    pub(super) starts: ProcessSlots,
    pub(super) spares: SparePool,
    pub(super) starting: AtomicU32,
    pub(super) watch: Option<Arc<Watch>>,
    pub(super) looks: Arc<Looks>,
    pub(super) tasks: Tasks,
}

impl Shared {
    /// Who waits for a place that is not on its way already.
    pub(super) fn shortage(&self) -> Shortage {
        let Shortage { of_any, of_tenant } = self.slots.shortage();
        // Slots of spares that were sent away are on their way to those who wait.
        let spares = &self.spares;
        let of_own = of_tenant.into_iter().filter_map(|(tenant, count)| {
            let left = count.saturating_sub(spares.leaving(Some(&tenant)));
            (left > 0).then_some((tenant, left))
        });
        Shortage {
            of_any: of_any.saturating_sub(spares.leaving(None)),
            of_tenant: of_own.collect(),
        }
    }

    /// Sends a spare away if somebody, or this tenant, waits for a place: a spare is
    /// nobody's. Asked by whoever comes to wait, and by a spare that has just got ready,
    /// which those who wait already could not send away.
    pub(super) fn make_room(&self, tenant: &TenantId) {
        let Shortage { of_any, of_tenant } = self.shortage();
        if of_any > 0 {
            self.spares.give_way(None);
        }
        if of_tenant.iter().any(|(waits, _)| waits == tenant) {
            self.spares.give_way(Some(tenant));
        }
    }

    /// The variables whose values are in files, as they are now.
    pub(super) async fn variables(&self) -> Result<BTreeMap<String, String>, Cause> {
        self.settings.env_files.read().await.map_err(|error| Cause::ConnectFailed {
            detail: error.to_string(),
            exit: None,
            stderr_tail: String::new(),
        })
    }
}

/// Counts a start for as long as it lives.
pub(super) struct Starting<'a>(&'a AtomicU32);

impl<'a> Starting<'a> {
    pub(super) fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
