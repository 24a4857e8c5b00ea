//! What the processes that the service has started use together, and what it uses itself: one look
//! at `/proc` for each scrape. There is no series of a single process.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::os::procfs::Look;

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
    /// One look.
    pub async fn look(&self) -> Used {
        // A look that failed is a figure that is not known.
        let used = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        Used { cpu: self.at_least(used.cpu), ..used }
    }

    /// A process that ends while we look is missed: its time is with its parent, which was looked at
    /// before. A counter that falls would be taken for one that began anew.
    fn at_least(&self, cpu: Duration) -> Duration {
        let micros = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
        let before = self.most_micros.fetch_max(micros, Ordering::Relaxed);
        Duration::from_micros(micros.max(before))
    }
}

fn look() -> Used {
    let own = std::process::id();
    let look = Look::take().unwrap_or_default();
    let ((held, cpu), (own_memory, own_cpu)) = (look.of_descendants(own), look.of_itself(own));
    let descriptors = std::fs::read_dir("/proc/self/fd").ok();
    // The one by which they are read is not counted.
    let own_descriptors = descriptors.map(|all| (all.count() as u64).saturating_sub(1));
    Used { cpu, memory: held.bytes, own_cpu, own_memory, own_descriptors }
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
        let used = Processes::default().look().await;
        assert!(used.own_memory > 0 && used.own_descriptors > Some(2), "{used:?}");
    }
}
