//! What `/proc` says of the processes of this machine: parents, states, memory. One
//! look reads it once. Knows nothing of what the processes are.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
};

use rustix::process::Pid;

/// One process, as one line of `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its parent; 0 if that is outside what can be seen.
    pub parent: u32,
    /// Whether it has ended, and its parent has yet to wait for it.
    pub ended: bool,
    /// When it was started, in the kernel's ticks since the machine's start.
    pub started: u64,
    /// Resident memory in pages, shared ones included.
    pub pages: u64,
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

    /// Resident bytes of a process and its descendants. Pages that they share are
    /// counted for each.
    pub fn resident_bytes(&self, root: u32) -> u64 {
        let pages = |pid: &u32| self.entries.get(pid).map_or(0, |entry| entry.pages);
        let pages: u64 = self.tree(root, None).iter().map(pages).sum();
        pages * rustix::param::page_size() as u64
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

/// One process; `None` if there is none of this id.
pub fn entry_of(pid: u32) -> Option<Entry> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether a process is gone, or a zombie that its parent has yet to wait for.
pub fn has_ended(pid: u32) -> bool {
    entry_of(pid).is_none_or(|entry| entry.ended)
}

/// The id as system calls take it.
pub fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(id.try_into().ok()?)
}

fn parse(stat: &str) -> Option<Entry> {
    // The name before the state is in parentheses and may hold any character.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // A process whose first thread has ended looks like a zombie while others run.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    Some(Entry {
        ended: "ZX".contains(*fields.first()?) && threads <= 1,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        pages: fields.get(21)?.parse().ok()?,
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
        assert_eq!(entry, Entry { parent: 3, ended: false, started: 991, pages: 12 });
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
    fn a_process_counts_with_its_children() {
        let own = Look::take().expect("/proc").resident_bytes(std::process::id());
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; read end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        // One that has only just begun holds nothing yet.
        let mut up = [0; 3];
        child.stdout.take().expect("a pipe").read_exact(&mut up).expect("it runs");
        let look = Look::take().expect("/proc");
        let with_child = look.resident_bytes(std::process::id());
        let alone = look.resident_bytes(child.id());
        assert!(look.descendants(std::process::id(), None).contains(&child.id()));
        assert!(look.descendants(std::process::id(), Some(child.id())).is_empty());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(own > 0 && alone > 0);
        assert!(with_child > own / 2 + alone, "{with_child} {own} {alone}");
    }
}
