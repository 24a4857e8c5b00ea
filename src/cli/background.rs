//! What a process works at behind its turns: tasks (subagents and commands) that go on when the
//! turn that began them has ended, and timers by which the CLI will begin a turn. Read off what
//! the process prints; it ends with the process. The session decides what is done about it.
//!
//! Facts, as seen on 2.1.197 and 2.1.332: `task_started` and `task_updated` (or only
//! `task_notification`) enclose every task; 2.1.332 also lists those behind turns in
//! `background_tasks_changed`, before `task_started`. Each end begins a turn of the CLI's own some
//! milliseconds later, but for subagents that an interrupt has ended. An agent that writes in its
//! CLI's name can say anything of this: everything here has a bound, and nothing else follows
//! from it than what is shown and how long a process is kept.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use self::lineage::Calls;
use super::{
    frame::{Frame, FrameKind, TaskInfo},
    timers::{Timer, Timers},
};

/// How long after the end of a task the turn that it begins is waited for.
pub const TASK_ECHO: Duration = Duration::from_secs(1);

/// Tasks at the same time.
const MOST_TASKS: usize = 1000;

/// The kind of subagents.
const SUBAGENT: &str = "local_agent";

/// Bytes of a task's id. No CLI has longer ones, and half an id is none.
pub const LONGEST_ID: usize = 200;

/// Characters of a task's kind and description.
const MOST_TEXT: usize = 200;

/// Tasks that are shown, and tasks that have been stopped and of which nobody has been told.
pub const MOST_SHOWN: usize = 100;

/// A task that works behind the turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id, by which it can be stopped.
    pub id: String,
    /// `local_agent`, `local_bash`, …
    pub kind: String,
    /// What it is for, in the model's words.
    pub description: String,
    /// When it began, by the wall clock.
    pub start_time: SystemTime,
    /// When it began.
    pub began: Instant,
}

impl Task {
    /// Whether it is a subagent.
    pub fn is_subagent(&self) -> bool {
        self.kind == SUBAGENT
    }
}

/// A task, and what is known of it beside.
#[derive(Debug)]
struct Known {
    task: Arc<Task>,
    /// Its number in the order in which they began, or that of the task that began the one that
    /// began it: a subagent's tasks are of the turn that the subagent is of.
    family: u64,
    /// The tool call by which it was begun.
    call: String,
    /// Whether a turn waits for it, as far as the CLI says.
    foreground: bool,
    /// Whether it was in the last list of those behind turns.
    listed: bool,
}

/// What works behind the turns of a process.
#[derive(Debug, Default)]
pub struct Background {
    tasks: Vec<Known>,
    calls: Calls,
    timers: Timers,
    next: u64,
    /// When a task last ended, or the turn in which it did: it may yet begin its turn.
    ended: Option<Instant>,
    /// Whether a task has ended since the last result: its turn waits for the one that runs.
    ended_in_turn: bool,
    /// Tasks that were stopped before they were done.
    stopped: Vec<Arc<Task>>,
    /// Grows with every change of what is shown.
    version: u64,
}

/// What is shown of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackgroundWork {
    /// The tasks, the oldest first; 100 at most.
    pub tasks: Vec<Arc<Task>>,
    /// The timers, the oldest first.
    pub timers: Vec<Arc<Timer>>,
}

impl BackgroundWork {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.timers.is_empty()
    }
}

impl Background {
    /// Takes note of a frame.
    pub fn note(&mut self, frame: &Frame) {
        if self.ended_in_turn && matches!(frame.kind, FrameKind::Result(_)) {
            (self.ended, self.ended_in_turn) = (Some(Instant::now()), false);
        }
        match &frame.kind {
            FrameKind::TaskStarted(task) => self.begin(task),
            FrameKind::TaskEnded { id, stopped } => self.end(id, *stopped),
            FrameKind::TasksListed(tasks) => self.list(tasks),
            _ => {
                self.calls.note(frame);
                self.version += u64::from(self.timers.note(frame));
            }
        }
    }

    fn begin(&mut self, info: &TaskInfo) {
        if let Some(index) = self.tasks.iter().position(|known| known.task.id == info.id) {
            let family = self.family_of(info);
            let known = &mut self.tasks[index];
            known.foreground = info.foreground && !known.listed;
            known.family = family.unwrap_or(known.family);
            if info.call.len() <= LONGEST_ID {
                known.call.clone_from(&info.call);
            }
            self.version += 1;
            return;
        }
        if self.tasks.len() >= MOST_TASKS || info.id.is_empty() || info.id.len() > LONGEST_ID {
            return;
        }
        let cut = |text: &str| text.chars().take(MOST_TEXT).collect();
        let task = Arc::new(Task {
            id: info.id.clone(),
            kind: cut(&info.kind),
            description: cut(&info.description),
            start_time: SystemTime::now(),
            began: Instant::now(),
        });
        let family = self.family_of(info).unwrap_or(self.next);
        let call = info.call.chars().take(LONGEST_ID).collect();
        self.tasks.push(Known { task, family, call, foreground: info.foreground, listed: false });
        self.next += 1;
        self.version += 1;
    }

    /// The family of the task that has begun this one, if one has.
    fn family_of(&self, info: &TaskInfo) -> Option<u64> {
        let mut known = self.tasks.iter().filter(|known| known.task.id != info.id);
        let parent = known.find(|it| self.calls.is_child(info, &it.task.id, &it.call))?;
        Some(parent.family)
    }

    fn end(&mut self, id: &str, stopped: bool) {
        // Of a task that is not known as well: it may begin a turn.
        (self.ended, self.ended_in_turn) = (Some(Instant::now()), true);
        let Some(index) = self.tasks.iter().position(|known| known.task.id == id) else { return };
        let known = self.tasks.remove(index);
        if stopped && self.stopped.len() < MOST_SHOWN {
            self.stopped.push(known.task);
        }
        self.version += 1;
    }

    /// The CLI says which tasks there are behind its turns.
    fn list(&mut self, tasks: &[TaskInfo]) {
        let known: HashSet<String> = self.tasks.iter().map(|it| it.task.id.clone()).collect();
        for info in tasks.iter().filter(|info| !known.contains(&info.id)).take(MOST_TASKS) {
            self.begin(info);
        }
        let ids: HashSet<&str> = tasks.iter().map(|info| info.id.as_str()).collect();
        let before = self.tasks.len();
        // One that was in the list and is in it no more has ended, whatever was said of that.
        self.tasks.retain(|known| !known.listed || ids.contains(known.task.id.as_str()));
        if self.tasks.len() < before {
            (self.ended, self.ended_in_turn) = (Some(Instant::now()), true);
        }
        for known in &mut self.tasks {
            known.listed = ids.contains(known.task.id.as_str());
            known.foreground &= !known.listed;
        }
        self.version += 1;
    }

    /// Whether a task works behind the turns.
    pub fn has_tasks(&self) -> bool {
        self.tasks.iter().any(|known| !known.foreground)
    }

    /// Whether a task or a timer works behind the turns.
    pub fn has_work(&self) -> bool {
        self.has_tasks() || self.timers.began().next().is_some()
    }

    /// Whether there is a task with this id, whether or not a turn waits for it.
    pub fn has_task(&self, id: &str) -> bool {
        self.tasks.iter().any(|known| known.task.id == id)
    }

    /// Those of these tasks that work.
    pub fn find(&self, ids: &[String]) -> Vec<Arc<Task>> {
        let known = self.tasks.iter().map(|known| &known.task);
        known.filter(|task| ids.contains(&task.id)).cloned().collect()
    }

    /// Whether a task has ended since the last result.
    pub fn has_ended_in_turn(&self) -> bool {
        self.ended_in_turn
    }

    /// When a task last ended, or the turn in which it did.
    pub fn last_end(&self) -> Option<Instant> {
        self.ended
    }

    /// The number of the task that begins next.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// The ids of the tasks that have begun since `number` was the next, and still work; but for
    /// those that an older task has begun.
    pub fn since(&self, number: u64) -> Vec<String> {
        let behind = self.tasks.iter().filter(|known| !known.foreground);
        behind.filter(|known| known.family >= number).map(|it| it.task.id.clone()).collect()
    }

    /// What these tasks, and those that they begin, have in common.
    pub fn families(&self, ids: &[String]) -> HashSet<u64> {
        let those = self.tasks.iter().filter(|known| ids.contains(&known.task.id));
        those.map(|known| known.family).collect()
    }

    /// Whether a task of one of these families works.
    pub fn has_family(&self, families: &HashSet<u64>) -> bool {
        self.tasks.iter().any(|known| families.contains(&known.family))
    }

    /// Whether a timer is set, which may begin a turn without a word before.
    pub fn has_timers(&self) -> bool {
        self.timers.began().next().is_some()
    }

    /// The ids of all tasks, whether or not turns wait for them.
    pub fn ids(&self) -> HashSet<&str> {
        self.tasks.iter().map(|known| known.task.id.as_str()).collect()
    }

    /// All tasks that work behind the turns, the oldest first; more than are shown.
    pub fn behind(&self) -> Vec<Arc<Task>> {
        let tasks = self.tasks.iter().filter(|known| !known.foreground);
        tasks.map(|known| Arc::clone(&known.task)).collect()
    }

    /// From when on, not before `now`, it begins no turn by itself; `None` while it has tasks or
    /// timers.
    pub fn quiet_from(&self, now: Instant) -> Option<Instant> {
        let over = self.timers.over_from(now).filter(|_| self.tasks.is_empty())?;
        Some(self.ended.map_or(over, |ended| over.max(ended + TASK_ECHO)))
    }

    /// When what has worked for the longest has done so for `age`; `None` if nothing works.
    pub fn is_of_age_at(&self, age: Duration) -> Option<Instant> {
        let tasks = self.tasks.iter().map(|known| known.task.began);
        tasks.chain(self.timers.began()).min().map(|began| began + age)
    }

    /// The tasks that were stopped before they were done; each is named once.
    pub fn take_stopped(&mut self) -> Vec<Arc<Task>> {
        std::mem::take(&mut self.stopped)
    }

    /// What is shown of it.
    pub fn shown(&self) -> BackgroundWork {
        let tasks = self.tasks.iter().filter(|known| !known.foreground);
        BackgroundWork {
            tasks: tasks.take(MOST_SHOWN).map(|known| Arc::clone(&known.task)).collect(),
            timers: self.timers.shown(),
        }
    }

    /// Another whenever what is shown changes. Timers pass without a word of the CLI.
    pub fn version(&self) -> (u64, usize) {
        (self.version, self.timers.began().count())
    }
}

mod lineage;
#[cfg(test)]
mod tests;
