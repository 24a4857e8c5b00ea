//! How much memory process trees hold, read from `/proc`. Knows nothing of what the
//! processes are.

use std::{collections::HashMap, fs};

/// Resident bytes of the given processes and all their descendants. Pages that they
/// share are counted for each. Reads `/proc`: not for a runtime's own threads.
pub fn resident_bytes(roots: &[u32]) -> u64 {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in processes() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let page = rustix::param::page_size() as u64;
    let mut pending = roots.to_vec();
    let mut pages = 0;
    while let Some(pid) = pending.pop() {
        pages += resident_pages(pid).unwrap_or_default();
        // Removed, so that a reused id cannot lead in a circle.
        pending.extend(children.remove(&pid).unwrap_or_default());
    }
    pages * page
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; state and parent follow it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn resident_pages(pid: u32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_with_its_children() {
        let own = resident_bytes(&[std::process::id()]);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let with_child = resident_bytes(&[std::process::id()]);
        let alone = resident_bytes(&[child.id()]);
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(own > 0 && alone > 0);
        assert!(with_child > own / 2 + alone, "{with_child} {own} {alone}");
    }
}
