//! Timers by which the CLI will begin a turn: those that the model sets with its tools CronCreate
//! and ScheduleWakeup, and takes back with CronDelete. They live in the process alone. They are
//! read off the tool calls and their results, which say the id of a timer in a sentence:
//! `Scheduled recurring job dbaa00bf (Every minute). …` (2.1.197 and 2.1.332). No frame names the
//! timer whose time has come. One that fires once is over when its prompt is in the transcript as
//! one that nobody has sent.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use memchr::memmem;
use tokio::time::Instant;

use super::{
    frame::{Frame, FrameKind, ToolTexts, tool_texts},
    json::{Json, Text, view},
    mirror,
};

/// Timers at the same time, and calls whose results are waited for.
const MOST: usize = 100;

/// Bytes of a timer's id.
const LONGEST_ID: usize = 100;

/// Characters of a schedule and of a prompt.
const MOST_TEXT: usize = 200;

/// What the names of the tools have in common with nothing else that is frequent.
const CRON: &[u8] = b"\"Cron";
const WAKEUP: &[u8] = b"\"ScheduleWakeup\"";

/// What the prompts of timers have in a transcript.
const META: &[u8] = b"\"isMeta\":true";

/// How late a wake-up may be before it is taken for gone.
const LATE: Duration = Duration::from_secs(120);

/// What sets a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerKind {
    /// A time table, in the form of cron.
    Cron,
    /// A time span.
    Wakeup,
}

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its id; of a wake-up the id of the tool call.
    pub id: String,
    /// What sets it.
    pub kind: TimerKind,
    /// The time table, or the span in seconds with an `s` behind it.
    pub schedule: String,
    /// The beginning of what the CLI will ask the model.
    pub prompt: String,
    /// When it was set, by the wall clock.
    pub create_time: SystemTime,
    /// When it was set.
    pub began: Instant,
    /// When it is over; `None` for a time table.
    ends: Option<Instant>,
    /// Whether it begins one turn and is over then.
    once: bool,
}

/// The timers of a process.
#[derive(Debug, Default)]
pub struct Timers {
    /// Calls that set one and have no result yet, by their ids.
    asked: VecDeque<(String, Timer)>,
    set: Vec<Arc<Timer>>,
}

view! {
    /// What the tools are given.
    Call {
        /// Of CronCreate.
        "cron" => cron: Text<'a>,
        /// What is asked when the time has come.
        "prompt" => prompt: Text<'a>,
        /// Of CronDelete.
        "id" => id: Text<'a>,
        /// Of ScheduleWakeup.
        "delaySeconds" => delay: Json<'a>,
    }
}

view! {
    /// An entry of a transcript.
    Entry {
        /// Whether nobody has written it: the CLI itself has.
        "isMeta" => is_meta: bool,
        /// What it says.
        "message" => message: Json<'a>,
    }
}

view! {
    /// What an entry says.
    Message {
        /// Where that is a text; empty where it is not.
        "content" => content: Text<'a>,
    }
}

impl Timers {
    /// Takes note of a frame. Returns whether what is shown changes.
    pub fn note(&mut self, frame: &Frame) -> bool {
        match &frame.kind {
            FrameKind::Assistant { tool_calls } if !tool_calls.is_empty() => {
                let line = &frame.raw;
                let named = |name| memmem::find(line, name).is_some();
                (named(CRON) || named(WAKEUP)) && self.hear_calls(frame.text())
            }
            FrameKind::User { tool_results, .. } if !tool_results.is_empty() => {
                !self.asked.is_empty() && self.hear_results(frame.text())
            }
            FrameKind::Mirror => {
                self.set.iter().any(|timer| timer.once)
                    && memmem::find(&frame.raw, META).is_some()
                    && self.hear_transcript(&frame.raw)
            }
            _ => false,
        }
    }

    /// The prompt of a timer is in the transcript once the timer has begun its turn.
    fn hear_transcript(&mut self, line: &[u8]) -> bool {
        let Some(mirrored) = mirror::read(line).filter(|it| it.subpath.is_empty()) else {
            return false;
        };
        let before = self.set.len();
        for (_, entry) in mirrored.entries {
            let Some(entry) = Entry::parse(&entry).filter(|it| it.is_meta) else { continue };
            let Some(message) = entry.message.and_then(|raw| Message::parse(raw.get())) else {
                continue;
            };
            let prompt: String = message.content.0.chars().take(MOST_TEXT).collect();
            let fired = self.set.iter().position(|timer| timer.once && timer.prompt == prompt);
            if let Some(index) = fired.filter(|_| !prompt.is_empty()) {
                self.set.remove(index);
            }
        }
        self.set.len() < before
    }

    fn hear_calls(&mut self, line: &str) -> bool {
        let mut changed = false;
        for ToolTexts { id, name, text } in tool_texts(line) {
            let Some(call) = Call::parse(&text) else { continue };
            match name.as_str() {
                "CronCreate" => self.ask(id, &call, TimerKind::Cron),
                "ScheduleWakeup" => self.ask(id, &call, TimerKind::Wakeup),
                "CronDelete" => {
                    let before = self.set.len();
                    self.set.retain(|timer| timer.id != *call.id.0);
                    changed |= self.set.len() < before;
                }
                _ => {}
            }
        }
        changed
    }

    fn ask(&mut self, id: String, call: &Call<'_>, kind: TimerKind) {
        if id.len() > LONGEST_ID {
            return;
        }
        let cut = |text: &str| text.chars().take(MOST_TEXT).collect();
        let (now, seconds) = (Instant::now(), call.delay.map_or("0", |raw| raw.get()));
        let (schedule, ends) = match kind {
            TimerKind::Cron => (cut(&call.cron.0), None),
            TimerKind::Wakeup => {
                let delay =
                    seconds.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
                let ends = delay.and_then(|delay| now.checked_add(delay + LATE));
                (cut(&format!("{seconds}s")), Some(ends.unwrap_or(now + LATE)))
            }
        };
        let timer = Timer {
            id: id.clone(),
            kind,
            schedule,
            prompt: cut(&call.prompt.0),
            create_time: SystemTime::now(),
            began: now,
            ends,
            once: false,
        };
        if self.asked.len() == MOST {
            self.asked.pop_front();
        }
        self.asked.push_back((id, timer));
    }

    fn hear_results(&mut self, line: &str) -> bool {
        let mut changed = false;
        for ToolTexts { id, text, .. } in tool_texts(line) {
            let Some(index) = self.asked.iter().position(|(call, _)| *call == id) else { continue };
            let Some((_, timer)) = self.asked.remove(index) else { continue };
            let Some(timer) = named(timer, &text) else { continue };
            // There is one wake-up at a time.
            self.set.retain(|it| it.id != timer.id && (timer.kind, it.kind) != WAKEUPS);
            if self.set.len() < MOST {
                self.set.push(Arc::new(timer));
            }
            changed = true;
        }
        changed
    }

    /// From when on, not before `now`, none of them begins a turn; `None` while there is a time table.
    pub fn over_from(&self, now: Instant) -> Option<Instant> {
        self.set.iter().try_fold(now, |over, timer| Some(over.max(timer.ends?)))
    }

    /// When those were set that may begin a turn yet.
    pub fn began(&self) -> impl Iterator<Item = Instant> {
        self.current().map(|timer| timer.began)
    }

    /// Those that may begin a turn yet.
    pub fn shown(&self) -> Vec<Arc<Timer>> {
        self.current().cloned().collect()
    }

    /// A wake-up that should have happened long ago has.
    fn current(&self) -> impl Iterator<Item = &Arc<Timer>> {
        let now = Instant::now();
        self.set.iter().filter(move |timer| timer.ends.is_none_or(|ends| ends > now))
    }
}

const WAKEUPS: (TimerKind, TimerKind) = (TimerKind::Wakeup, TimerKind::Wakeup);

/// The timer, if the result of the call that sets it says that it is set.
fn named(timer: Timer, result: &str) -> Option<Timer> {
    match timer.kind {
        TimerKind::Wakeup => result.contains("wakeup scheduled").then_some(timer),
        TimerKind::Cron => {
            let result = result.strip_prefix("Scheduled ")?;
            let once = result.starts_with("one-shot ");
            let mut words = result.split_whitespace();
            let id =
                words.by_ref().find(|word| ["job", "task"].contains(word)).and(words.next())?;
            let id = id.trim_end_matches(['.', ',', ':']);
            (!id.is_empty() && id.len() <= LONGEST_ID).then(|| Timer {
                id: id.into(),
                once,
                ..timer
            })
        }
    }
}

#[cfg(test)]
mod tests;
