//! How many CLI processes the memory here has room for, and how much the service itself may
//! hold for its callers.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MIB: u64 = 1 << 20;
/// What the service itself and the system may need.
const RESERVED: u64 = 512 * MIB;
/// What a CLI process that has done some work holds.
const PER_PROCESS: u64 = 300 * MIB;
/// Where the cgroup hierarchies of versions 2 and 1 are mounted. The second is
/// version 2 beside version 1.
const VERSION_2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const VERSION_1: [&str; 1] = ["/sys/fs/cgroup/memory"];

/// The default of `pool.max_processes`.
pub fn processes_that_fit() -> usize {
    processes_in(memory_limit(|path| fs::read_to_string(path).ok()))
}

/// The default of `pool.memory_budget`, part of what is reserved for the service.
pub fn budget_that_fits() -> u64 {
    budget_in(memory_limit(|path| fs::read_to_string(path).ok()))
}

fn budget_in(memory: Option<u64>) -> u64 {
    (memory.unwrap_or(0) / 8).clamp(32 * MIB, 96 * MIB)
}

fn processes_in(memory: Option<u64>) -> usize {
    // Where neither /proc nor cgroups say anything, one process is a safe guess.
    let room = memory.unwrap_or(0).saturating_sub(RESERVED) / PER_PROCESS;
    usize::try_from(room.clamp(1, 100_000)).unwrap_or(1)
}

/// The least of the machine's memory and every limit from our cgroup to the root.
fn memory_limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| machine_memory(&text));
    let cgroups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    limit_files(&cgroups)
        .iter()
        .filter_map(|path| read(path)?.trim().parse().ok())
        .chain(machine)
        .min()
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The files that may hold a limit, from `/proc/self/cgroup`, whose lines read
/// `0::/path` in version 2 and `4:memory:/path` in version 1.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (roots, name) = if controllers.is_empty() {
            (&VERSION_2[..], "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (&VERSION_1[..], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for root in roots {
            // In a container the path is often the host's and leads nowhere; the
            // mounted root, the last ancestor, is then the container's own.
            let inner = Path::new(path.trim_start_matches('/'));
            files.extend(inner.ancestors().map(|part| Path::new(root).join(part).join(name)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:  1 kB\n";

    fn limit_with(files: &[(&str, &str)]) -> Option<u64> {
        memory_limit(|path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some((*text).into())
        })
    }

    #[test]
    fn without_a_limit_the_machine_counts() {
        let limit = limit_with(&[
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a\n"),
            ("/sys/fs/cgroup/a/memory.max", "max\n"),
        ]);
        assert_eq!(limit, Some(16 << 30));
        assert_eq!(processes_in(limit), 52);
    }

    #[test]
    fn the_tightest_cgroup_of_version_2_counts() {
        let limit = limit_with(&[
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "2147483648\n"),
        ]);
        assert_eq!(limit, Some(2 << 30));
        assert_eq!(processes_in(limit), 5);
    }

    #[test]
    fn the_cgroup_of_version_1_counts_also_when_its_path_is_the_hosts() {
        let limit = limit_with(&[
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "4:cpu,memory:/docker/123\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
        ]);
        assert_eq!(limit, Some(1 << 30));
    }

    #[test]
    fn c7_the_budget_is_a_part_of_the_memory_within_bounds() {
        let budget = |memory: u64| budget_in(Some(memory)) / MIB;
        assert_eq!([budget(100 * MIB), budget(512 * MIB), budget(64 << 30)], [32, 64, 96]);
        assert_eq!(budget_in(None), 32 * MIB);
    }

    #[test]
    fn there_is_always_room_for_one() {
        assert_eq!(processes_in(None), 1);
        assert_eq!(processes_in(Some(1)), 1);
        assert_eq!(processes_in(Some(u64::MAX)), 100_000);
        assert!(processes_that_fit() >= 1);
    }
}
