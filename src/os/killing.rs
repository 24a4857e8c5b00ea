//! Killing many processes. Knows nothing of what the processes are.

use std::collections::HashSet;

use rustix::process::{Signal, kill_process, kill_process_group};

use super::procfs::{self, Look};

/// Kills processes that a look has found, and returns how many could be killed.
///
/// A group that has nobody else in it is killed as one: the kernel lets nothing be forked
/// meanwhile, so what forks faster than it is killed one by one does not escape that.
pub fn kill(look: &Look, found: &[u32]) -> usize {
    let targets: HashSet<u32> = found.iter().copied().collect();
    let groups: HashSet<u32> = found.iter().filter_map(|pid| look.group(*pid)).collect();
    // To the kernel, the group of the first process is everybody.
    for group in groups.into_iter().filter(|group| *group > 1) {
        if look.in_group(group).all(|member| targets.contains(&member)) {
            procfs::pid(group).map(|group| kill_process_group(group, Signal::KILL).ok());
        }
    }
    let pids = found.iter().filter_map(|pid| procfs::pid(*pid));
    pids.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::{Child, Command},
    };

    use super::*;

    /// In a group of its own, or in that of another.
    fn sleeper(leader: Option<&Child>) -> Child {
        let group = leader.map_or(0, |leader| leader.id().try_into().expect("an id"));
        Command::new("sleep").arg("100").process_group(group).spawn().expect("started")
    }

    fn signal(mut ended: Child) -> Option<i32> {
        ended.wait().expect("reaped").signal()
    }

    #[test]
    fn b2_what_was_forked_since_the_look_ends_with_its_group() {
        let first = sleeper(None);
        let look = Look::take().expect("/proc");
        let second = sleeper(Some(&first));
        assert_eq!(kill(&look, &[first.id()]), 1);
        let killed = Some(Signal::KILL.as_raw());
        assert_eq!((signal(first), signal(second)), (killed, killed));
    }

    #[test]
    fn a_group_in_which_there_is_somebody_else_is_not_killed_as_one() {
        let first = sleeper(None);
        let mut second = sleeper(Some(&first));
        assert_eq!(kill(&Look::take().expect("/proc"), &[first.id()]), 1);
        assert_eq!(signal(first), Some(Signal::KILL.as_raw()));
        assert_eq!(second.try_wait().expect("asked"), None);
        second.kill().expect("killed");
        second.wait().expect("reaped");
    }
}
