//! Looks at `/proc` every ten milliseconds, and notes which conversation has a living process.
//! A process of a CLI is known by its command line, and whose it is by the mark in its
//! environment. Two of one conversation at one instant are wrong, unless one of them is of a
//! node that was stopped together with all that could have ended it.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    recorder::{Recorder, Wrong, now},
    support::processes,
};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(10);

/// Looks after which what is no process of a CLI is taken not to become one: between fork and exec it is
/// its parent still.
const LOOKS: u32 = 30;

/// A process of a CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cli {
    conversation: String,
    state: String,
    parent: u32,
}

enum Known {
    Cli(Cli),
    Other { looks: u32 },
}

/// Looks until it is dropped.
pub struct Sampler {
    over: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    looking: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Looks for processes in whose environment this variable has this value.
    pub fn start(mark: String, recorder: Arc<Recorder>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let looks = Arc::<AtomicU64>::default();
        let (ends, counts) = (Arc::clone(&over), Arc::clone(&looks));
        let looking = thread::spawn(move || look(&mark, &recorder, &ends, &counts));
        Self { over, looks, looking: Some(looking) }
    }

    /// How often it has looked.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Stops to look; says how often it has.
    pub fn stop(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.looking.take().expect("once").join().expect("no panic");
        self.looks()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn look(mark: &str, recorder: &Recorder, over: &AtomicBool, looks: &AtomicU64) {
    let mut known: HashMap<(u32, u64), Known> = HashMap::new();
    let mut reported = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let at = now();
        let mut alive: HashMap<String, Vec<(u32, Cli)>> = HashMap::new();
        let mut seen = HashMap::new();
        for (pid, parent, begun) in processes_that_live() {
            let before = known.remove(&(pid, begun));
            let is = match before {
                Some(Known::Cli(cli)) => Known::Cli(cli),
                Some(Known::Other { looks: LOOKS.. }) => Known::Other { looks: LOOKS },
                before => match cli(pid, parent, mark) {
                    Some(cli) => Known::Cli(cli),
                    None => {
                        let looks =
                            if let Some(Known::Other { looks }) = before { looks } else { 0 };
                        Known::Other { looks: looks + 1 }
                    }
                },
            };
            if let Known::Cli(cli) = &is {
                alive.entry(cli.conversation.clone()).or_default().push((pid, cli.clone()));
            }
            seen.insert((pid, begun), is);
        }
        known = seen;
        looks.fetch_add(1, Ordering::SeqCst);
        for (conversation, mut clis) in alive {
            // What a CLI starts is its copy for a moment.
            let pids: Vec<u32> = clis.iter().map(|(pid, _)| *pid).collect();
            clis.retain(|(_, cli)| !pids.contains(&cli.parent));
            clis.retain(|(_, cli)| !recorder.is_excused(&cli.state, at));
            // Its end may not have been seen: it was listed before the other one began.
            clis.retain(|(pid, _)| processes::lives(*pid));
            if clis.len() > 1 && !reported.contains(&conversation) {
                let what = format!("{conversation}: {clis:?} at {:.3}", at.as_secs_f64());
                recorder.wrong(Wrong::TwoProcesses, what);
                reported.push(conversation);
            }
        }
        thread::sleep(EVERY);
    }
}

/// Processes that live: id, parent, and when they began.
fn processes_that_live() -> Vec<(u32, u32, u64)> {
    let ids = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let process = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let lives = !"ZX".contains(fields[0]);
        lives.then_some((pid, fields[1].parse().ok()?, fields[19].parse().ok()?))
    };
    ids.filter_map(process).collect()
}

/// The CLI that a process is, if it is one of this round.
fn cli(pid: u32, parent: u32, mark: &str) -> Option<Cli> {
    let words = processes::words(pid);
    let program = words.first()?.rsplit('/').next()?;
    if !program.contains("claude") {
        return None;
    }
    let value = |flag: &str| words.iter().find_map(|word| word.strip_prefix(flag));
    let conversation = value("--session-id=").or_else(|| value("--resume="))?.to_owned();
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    if !variables.clone().any(|it| it == mark.as_bytes()) {
        return None;
    }
    let state = variables.find_map(|it| it.strip_prefix(b"SESSION_POOL_STATE="))?;
    Some(Cli { conversation, state: String::from_utf8_lossy(state).into_owned(), parent })
}
