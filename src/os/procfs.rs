//! What `/proc` says of the processes of this machine: parents, states, threads, memory. One
//! look reads it once. Knows nothing of what the processes are.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Read as _},
    time::Duration,
};

use rustix::process::Pid;

/// Bytes of the longest line about a process: fifty numbers, and its name.
const LONGEST_LINE: usize = 2048;

/// One process, as one line of `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its parent; 0 if that is outside what can be seen.
    pub parent: u32,
    /// Its process group; 0 if that is outside what can be seen.
    pub group: u32,
    /// Its threads; one that has ended still is one.
    pub threads: u64,
    /// Whether it has ended, and its parent has yet to wait for it.
    pub ended: bool,
    /// When it was started, in the kernel's ticks since the machine's start.
    pub started: u64,
    /// Resident memory in pages, shared ones included.
    pub pages: u64,
    /// Processor time of its own, in the kernel's ticks.
    pub ticks: u64,
    /// Processor time of what it has started and waited for, likewise.
    pub waited: u64,
}

impl Entry {
    /// Resident bytes of the process alone, and how much of the processor it has used.
    pub fn of_itself(&self) -> (u64, Duration) {
        (self.pages * rustix::param::page_size() as u64, time(self.ticks))
    }
}

/// What a process and its descendants hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident bytes. Pages that they share are counted for each.
    pub bytes: u64,
    /// Processes. What has ended and was not waited for counts.
    pub processes: u64,
    /// Processes and their threads. What has ended and was not waited for counts, as it does
    /// for the kernel.
    pub tasks: u64,
}

/// All processes at one moment, or nearly: reading takes a millisecond or two.
#[derive(Debug, Default)]
pub struct Look {
    entries: HashMap<u32, Entry>,
    children: HashMap<u32, Vec<u32>>,
}

impl Look {
    /// Reads `/proc`: not for a runtime's own threads.
    pub fn take() -> io::Result<Self> {
        let mut look = Self::default();
        for entry in fs::read_dir("/proc")? {
            // What ends while we look is not there.
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(entry) = entry_of(pid) {
                look.children.entry(entry.parent).or_default().push(pid);
                look.entries.insert(pid, entry);
            }
        }
        Ok(look)
    }

    /// The children of a process, the oldest first.
    pub fn children(&self, pid: u32) -> Vec<u32> {
        let mut children = self.children.get(&pid).cloned().unwrap_or_default();
        children.sort_by_key(|child| self.entries.get(child).map(|entry| entry.started));
        children
    }

    /// Whatever a process started and has not ended, except `spared` and what that started.
    pub fn descendants(&self, pid: u32, spared: Option<u32>) -> Vec<u32> {
        let mut found = self.tree(pid, spared);
        found.retain(|found| *found != pid && self.lives(*found));
        found
    }

    /// Whether a process is there and has not ended.
    pub fn lives(&self, pid: u32) -> bool {
        self.entries.get(&pid).is_some_and(|entry| !entry.ended)
    }

    /// The processes of a group.
    pub fn in_group(&self, group: u32) -> impl Iterator<Item = u32> {
        let members = self.entries.iter().filter(move |(_, entry)| entry.group == group);
        members.map(|(pid, _)| *pid)
    }

    /// The process group of a process, as far as it can be seen.
    pub fn group(&self, pid: u32) -> Option<u32> {
        self.entries.get(&pid).map(|entry| entry.group).filter(|group| *group > 0)
    }

    /// What all that a process has started and not ended hold together, and how much of the processor
    /// all that it ever started has used: what has ended is found at whoever has waited for it.
    pub fn of_descendants(&self, pid: u32) -> (Usage, Duration) {
        let own = self.entries.get(&pid);
        let (mut usage, mut ticks) = (self.usage(pid), own.map_or(0, |own| own.waited));
        if let Some(own) = own {
            let page = rustix::param::page_size() as u64;
            usage.bytes = usage.bytes.saturating_sub(own.pages * page);
            usage.processes = usage.processes.saturating_sub(1);
            usage.tasks = usage.tasks.saturating_sub(own.threads);
        }
        let below = self.tree(pid, None).into_iter().filter(|found| *found != pid);
        for entry in below.filter_map(|pid| self.entries.get(&pid)) {
            ticks += entry.ticks + entry.waited;
        }
        (usage, time(ticks))
    }

    /// What a process and its descendants hold.
    pub fn usage(&self, root: u32) -> Usage {
        let (mut pages, mut tasks) = (0, 0);
        let tree = self.tree(root, None);
        for entry in tree.iter().filter_map(|pid| self.entries.get(pid)) {
            pages += entry.pages;
            tasks += entry.threads;
        }
        let bytes = pages * rustix::param::page_size() as u64;
        Usage { bytes, processes: tree.len() as u64, tasks }
    }

    fn tree(&self, root: u32, spared: Option<u32>) -> Vec<u32> {
        let (mut pending, mut seen) = (vec![root], HashSet::new());
        while let Some(pid) = pending.pop() {
            // Ids are reused while we look: a circle must not hold us.
            if Some(pid) != spared && seen.insert(pid) {
                pending.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        seen.into_iter().collect()
    }
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// One process; `None` if there is none of this id.
pub fn entry_of(pid: u32) -> Option<Entry> {
    let mut line = [0; LONGEST_LINE];
    // The kernel gives a line as a whole. What else reading a file takes would be half of it all.
    let read = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse(&String::from_utf8_lossy(&line[..read]))
}

/// The oldest child of a process of one thread. The kernel keeps a list of them, which is one
/// file to read, whatever the number of processes; where it does not show it, all are looked at.
pub fn first_child(pid: u32) -> Option<u32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        // What a process has adopted comes behind its own.
        Ok(children) => children.split_whitespace().next()?.parse().ok(),
        Err(_) => {
            entry_of(pid)?;
            Look::take().ok()?.children(pid).first().copied()
        }
    }
}

/// Processes and threads of the whole machine, as far as it says so: little to read, whatever
/// their number.
pub fn tasks_of_machine() -> Option<u64> {
    tasks_in(&fs::read_to_string("/proc/loadavg").ok()?)
}

fn tasks_in(loadavg: &str) -> Option<u64> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// Whether a process is gone, or a zombie that its parent has yet to wait for.
pub fn has_ended(pid: u32) -> bool {
    entry_of(pid).is_none_or(|entry| entry.ended)
}

/// The id as system calls take it.
pub fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(id.try_into().ok()?)
}

/// How many fields of a line are of interest, from the state on.
const FIELDS: usize = 22;

fn parse(stat: &str) -> Option<Entry> {
    // The name before the state is in parentheses and may hold any character.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = [""; FIELDS];
    fields.iter_mut().zip(rest.split_ascii_whitespace()).for_each(|(field, found)| *field = found);
    // A process whose first thread has ended looks like a zombie while others run.
    let number = |field: usize| fields[field].parse::<u64>().ok();
    let threads = number(17)?;
    Some(Entry {
        ended: "ZX".contains(fields[0]) && threads <= 1,
        parent: fields[1].parse().ok()?,
        group: fields[2].parse().ok()?,
        threads: threads.max(1),
        started: number(19)?,
        pages: number(21)?,
        ticks: number(11)? + number(12)?,
        waited: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let stat = "7 (a) Z 1 (b) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 991 4096 12 99";
        let entry = parse(stat).expect("a line of the kernel");
        let wanted = Entry {
            parent: 3,
            group: 7,
            threads: 1,
            ended: false,
            started: 991,
            pages: 12,
            ticks: 5 + 6,
            waited: 7 + 8,
        };
        assert_eq!(entry, wanted);
        assert_eq!(parse("7 (cut short) S"), None);
        // Ended, and with threads that live on.
        let ended = |threads: &str| {
            let fields =
                format!("7 (a) Z 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 9 0 0");
            parse(&fields).expect("a line of the kernel").ended
        };
        assert!(ended("1") && !ended("2"));
    }

    #[test]
    fn the_tasks_of_the_machine_are_the_fourth_figure() {
        assert_eq!(tasks_in("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(tasks_in("0.20 0.18"), None);
        assert!(tasks_of_machine().is_some_and(|tasks| tasks > 1));
    }

    #[test]
    fn a_process_counts_with_its_children() {
        let own = Look::take().expect("/proc").usage(std::process::id());
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; read end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        // One that has only just begun holds nothing yet.
        let mut up = [0; 3];
        child.stdout.take().expect("a pipe").read_exact(&mut up).expect("it runs");
        let look = Look::take().expect("/proc");
        let with_child = look.usage(std::process::id());
        let alone = look.usage(child.id());
        assert!(look.descendants(std::process::id(), None).contains(&child.id()));
        // Other tests of this process have children, too.
        let spared = look.descendants(std::process::id(), Some(child.id()));
        assert!(!spared.contains(&child.id()), "{spared:?}");
        assert_eq!(look.children(child.id()).first().copied(), first_child(child.id()));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(own.bytes > 0 && alone.bytes > 0);
        assert!(with_child.bytes > own.bytes / 2 + alone.bytes, "{with_child:?} {own:?} {alone:?}");
        assert_eq!(alone.tasks, 1);
    }

    #[test]
    fn the_time_of_what_has_ended_is_not_lost() {
        let used = || Look::take().expect("/proc").of_descendants(std::process::id());
        let before = used().1;
        let mut child = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo up; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut up = [0; 3];
        child.stdout.take().expect("a pipe").read_exact(&mut up).expect("it runs");
        let (held, living) = used();
        assert!(
            living > before && held.bytes > 0 && held.tasks > 0,
            "{before:?} {living:?} {held:?}"
        );
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(used().1 >= living, "{living:?} {:?}", used().1);
        let (bytes, own) = entry_of(std::process::id()).expect("it runs").of_itself();
        assert!(bytes > 0 && own < Duration::from_secs(3600), "{bytes} {own:?}");
    }

    #[test]
    fn b2_threads_count_and_so_does_what_nobody_has_waited_for() {
        let mut child = Command::new("true").spawn().expect("started");
        let (up, wait) = (std::sync::Barrier::new(3), std::sync::Barrier::new(3));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (up.wait(), wait.wait()));
            }
            up.wait();
            while !has_ended(child.id()) {
                std::thread::yield_now();
            }
            let look = Look::take().expect("/proc");
            assert_eq!(look.usage(child.id()).tasks, 1);
            assert!(look.usage(std::process::id()).tasks >= 4);
            wait.wait();
        });
        child.wait().expect("reaped");
    }
}
