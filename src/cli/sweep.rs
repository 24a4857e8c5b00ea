//! Finds and kills what a CLI process left behind, by the mark in its environment.
//!
//! The CLI's shells have sessions and process groups of their own, so killing a
//! group does not reach them, and a child whose parent has ended has no ancestor to
//! be found by. The mark is in the environment of all of them. Knows nothing of
//! what they are.

use std::{collections::HashSet, fs, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::os::procfs::has_ended;

/// Rounds of looking and killing; a process that forks while it is killed may need
/// more than one, and a busy machine takes its time to end one.
const ROUNDS: u32 = 10;

/// The wait after the first round. It doubles each time: half a second in all.
const FIRST_WAIT: Duration = Duration::from_millis(1);

/// Kills every process whose environment holds `name=value`, and waits until they are
/// gone. Returns how many it killed. Reads `/proc`: not for a runtime's own threads.
pub fn kill_marked(name: &str, value: &str) -> usize {
    let mark = format!("{name}={value}");
    let mut killed = HashSet::new();
    for round in 0..ROUNDS {
        let found = marked(mark.as_bytes());
        let nothing_new = found.is_empty();
        killed.extend(found.into_iter().filter(|pid| kill_process(*pid, Signal::KILL).is_ok()));
        // A process on its way out has no environment any more.
        if nothing_new
            && killed.iter().all(|pid| has_ended(pid.as_raw_nonzero().get().unsigned_abs()))
        {
            break;
        }
        thread::sleep(FIRST_WAIT * 2_u32.pow(round));
    }
    killed.len()
}

fn marked(mark: &[u8]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // Gone or not ours to read: not ours to kill either. A zombie has none.
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark))
        })
        .filter_map(Pid::from_raw)
        .filter(|pid| *pid != rustix::process::getpid())
        .collect()
}
