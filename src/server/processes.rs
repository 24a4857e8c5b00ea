//! What the processes that the service has started use together, by a look that others have asked
//! for as well, and what it uses itself. There is no series of a single process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::os::{looks::Looks, procfs};

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Processor time of all that was ever started.
    pub cpu: Duration,
    /// Resident bytes of what runs, spares included.
    pub memory: u64,
    /// Processor time of the service.
    pub own_cpu: Duration,
    /// Resident bytes of the service.
    pub own_memory: u64,
    /// File descriptors that the service has open; `None` if that cannot be seen.
    pub own_descriptors: Option<u64>,
}

/// Looks, and remembers what no later look may fall below.
#[derive(Debug, Default)]
pub struct Processes {
    most_micros: AtomicU64,
}

impl Processes {
    /// What a recent look has seen, and what the service uses now.
    pub async fn look(&self, looks: &Arc<Looks>) -> Used {
        let (held, cpu) = looks.recent(&[]).await.of_descendants(std::process::id());
        // A look that failed is a figure that is not known.
        let own = tokio::task::spawn_blocking(of_itself).await.unwrap_or_default();
        Used { cpu: self.at_least(cpu), memory: held.bytes, ..own }
    }

    /// A process that ends while we look is missed: its time is with its parent, which was looked at
    /// before. A counter that falls would be taken for one that began anew.
    fn at_least(&self, cpu: Duration) -> Duration {
        let micros = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
        let before = self.most_micros.fetch_max(micros, Ordering::Relaxed);
        Duration::from_micros(micros.max(before))
    }
}

fn of_itself() -> Used {
    let own = procfs::entry_of(std::process::id());
    let (own_memory, own_cpu) = own.map_or_else(Default::default, |own| own.of_itself());
    let descriptors = std::fs::read_dir("/proc/self/fd").ok();
    // The one by which they are read is not counted.
    let own_descriptors = descriptors.map(|all| (all.count() as u64).saturating_sub(1));
    Used { own_cpu, own_memory, own_descriptors, ..Used::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_does_not_fall() {
        let processes = Processes::default();
        for (seen, told) in [(3, 3), (2, 3), (5, 5), (0, 5)] {
            assert_eq!(processes.at_least(Duration::from_secs(seen)), Duration::from_secs(told));
        }
    }

    #[tokio::test]
    async fn what_the_service_holds_itself_is_seen() {
        let used = Processes::default().look(&Arc::default()).await;
        assert!(used.own_memory > 0 && used.own_descriptors > Some(2), "{used:?}");
    }
}
