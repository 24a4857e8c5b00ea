//! Prompts of the CLI that wait for an answer, by their ids. What they hold counts for the
//! memory of their tenant, and has a bound of its own: an agent can write prompts in its CLI's
//! name for as long as it likes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    budget::{Account, Reservation},
    cli::frame::{Ask, Frame, Prompt},
    telemetry::log_limit::PROMPT_NOT_HELD,
    turn::event::{PromptResolved, Resolution, Resolver},
};

/// Prompts at the same time. The CLI asks for a handful.
const MOST: usize = 10_000;

/// Bytes of all of them: twice the largest frame that `cli.max_frame_bytes` allows by default.
const MOST_BYTES: u64 = 32 << 20;

/// What a prompt takes beside its texts.
const PROMPT_BYTES: usize = 256;

/// Prompts that are shown, and characters of a tool's name and input.
const MOST_SHOWN: usize = 20;
const SHOWN_NAME: usize = 200;
const SHOWN_INPUT: usize = 1000;
/// No CLI has ids as long as this, and half an id is none.
const LONGEST_SHOWN_ID: usize = 1000;

/// A prompt as it is shown to those who look at the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPrompt {
    /// Its id.
    pub id: String,
    /// `can_use_tool`, `hook_callback`, …
    pub subtype: String,
    /// The tool's name, cut.
    pub tool_name: String,
    /// The beginning of the tool's input.
    pub input: String,
    /// The event of the hook that is called; empty if it is no call of one.
    pub hook_event: &'static str,
    /// When it is refused if nobody has answered by then; `None` is never.
    pub expire_time: Option<SystemTime>,
}

/// When a prompt is refused if nobody has answered by then.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    /// The same by the wall clock, for people.
    time: SystemTime,
}

/// A prompt that waits.
#[derive(Debug)]
struct Open {
    /// Its number in the order in which they came.
    number: u64,
    prompt: Prompt,
    expires: Option<Expiry>,
}

/// The open prompts of a process.
#[derive(Debug)]
pub struct OpenPrompts {
    by_id: HashMap<String, Open>,
    /// Their ids, in the order in which they came.
    in_order: BTreeMap<u64, String>,
    /// The numbers of those that expire. A hook can have less time than others.
    expiring: BTreeSet<(Instant, u64)>,
    next: u64,
    /// How long each waits at most; `None` is for ever.
    timeout: Option<Duration>,
    /// How some were resolved, which nobody has been told yet.
    resolved: Vec<PromptResolved>,
    /// What all of them hold.
    held: Reservation,
}

impl OpenPrompts {
    /// None yet; they will count for this account, and wait for so long.
    pub fn new(memory: &Account, timeout: Option<Duration>) -> Self {
        Self {
            by_id: HashMap::new(),
            in_order: BTreeMap::new(),
            expiring: BTreeSet::new(),
            next: 0,
            timeout,
            resolved: Vec::new(),
            held: memory.open(),
        }
    }

    /// Takes note of what the process asks, and of what it waits for no longer.
    pub fn hear(&mut self, frame: &Frame) {
        match frame.ask() {
            Some(Ask::Made(prompt)) => self.hold(prompt),
            Some(Ask::Withdrawn(id)) => self.resolve(id, Resolver::Cli, None, ""),
            None => {}
        }
    }

    /// The number of the next one.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// Whether one of those waits that came with this number or later.
    pub fn any_since(&self, number: u64) -> bool {
        self.in_order.range(number..).next().is_some()
    }

    /// Holds a prompt until it is answered. One without an id cannot be answered and is not
    /// waited for; nor is one for which there is no room.
    pub fn hold(&mut self, prompt: &Prompt) {
        if prompt.id.is_empty() {
            return;
        }
        // The same id again takes the place of what was there.
        self.let_go(&prompt.id);
        let (bytes, held) = (bytes_of(prompt), self.held.bytes());
        let fits = self.by_id.len() < MOST && held + bytes <= MOST_BYTES;
        if fits && self.held.resize(held + bytes).is_ok() {
            let expires = self.time_of(prompt).map(|timeout| Expiry {
                at: Instant::now() + timeout,
                time: SystemTime::now() + timeout,
            });
            self.expiring.extend(expires.map(|expires| (expires.at, self.next)));
            let open = Open { number: self.next, prompt: prompt.clone(), expires };
            self.by_id.insert(prompt.id.clone(), open);
            self.in_order.insert(self.next, prompt.id.clone());
            self.next += 1;
        } else if PROMPT_NOT_HELD.admits() {
            warn!(bytes, held, "prompt_not_held");
        }
    }

    /// The prompt of this id.
    pub fn get(&self, id: &str) -> Option<&Prompt> {
        self.by_id.get(id).map(|open| &open.prompt)
    }

    /// The calls of hooks that guard something.
    pub fn guards(&self) -> impl Iterator<Item = &Prompt> {
        let all = self.by_id.values().map(|open| &open.prompt);
        all.filter(|prompt| prompt.hook().is_some_and(|hook| hook.event.guards()))
    }

    /// When the prompt of this id is refused if nobody has answered by then.
    pub fn expire_time(&self, id: &str) -> Option<SystemTime> {
        self.by_id.get(id)?.expires.map(|expires| expires.time)
    }

    /// When the next one is refused; `None` if none ever is.
    pub fn expires_at(&self) -> Option<Instant> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// How long a prompt waits; `None` is for ever.
    pub fn time_of(&self, prompt: &Prompt) -> Option<Duration> {
        let own = prompt.hook().map(|hook| hook.timeout);
        own.into_iter().chain(self.timeout).min()
    }

    /// The next one whose time has passed.
    pub fn expired(&self) -> Option<&Prompt> {
        let (at, number) = self.expiring.first()?;
        let id = self.in_order.get(number).filter(|_| *at <= Instant::now())?;
        self.get(id)
    }

    /// It is refused at this time instead, if nobody has answered by then.
    pub fn postpone(&mut self, id: &str, at: Instant) {
        let Some(open) = self.by_id.get_mut(id) else { return };
        if let Some(expires) = &mut open.expires {
            self.expiring.remove(&(expires.at, open.number));
            expires.at = at;
            self.expiring.insert((at, open.number));
        }
    }

    /// It does not wait any more, for this reason, which is to be told.
    pub fn resolve(
        &mut self,
        id: &str,
        by: Resolver,
        resolution: Option<Resolution>,
        message: &str,
    ) {
        if self.let_go(id) {
            let (prompt_id, message) = (id.to_owned(), message.to_owned());
            self.resolved.push(PromptResolved { prompt_id, by, resolution, message });
        }
    }

    /// How some were resolved; each is said once.
    pub fn take_resolved(&mut self) -> Vec<PromptResolved> {
        std::mem::take(&mut self.resolved)
    }

    /// The oldest of them, as they are shown.
    pub fn shown(&self) -> Vec<ShownPrompt> {
        let all = self.in_order.values().filter_map(|id| self.by_id.get(id));
        let known = all.filter(|open| open.prompt.id.len() <= LONGEST_SHOWN_ID);
        let cut = |text: &str, most: usize| text.chars().take(most).collect();
        let shown = known.take(MOST_SHOWN).map(|Open { prompt, expires, .. }| ShownPrompt {
            expire_time: expires.map(|expires| expires.time),
            id: prompt.id.clone(),
            subtype: cut(&prompt.subtype, SHOWN_NAME),
            tool_name: cut(&prompt.tool_name, SHOWN_NAME),
            input: cut(&prompt.input, SHOWN_INPUT),
            hook_event: prompt.hook().map_or("", |hook| hook.event.name()),
        });
        shown.collect()
    }

    /// It is not asked any more. Returns whether it was open.
    fn let_go(&mut self, id: &str) -> bool {
        let Some(Open { number, prompt, expires }) = self.by_id.remove(id) else { return false };
        self.in_order.remove(&number);
        if let Some(expires) = expires {
            self.expiring.remove(&(expires.at, number));
        }
        self.held.set(self.held.bytes() - bytes_of(&prompt));
        true
    }
}

/// What a prompt takes.
fn bytes_of(prompt: &Prompt) -> u64 {
    let Prompt { id, raw_id, subtype, tool_name, input, callback } = prompt;
    let texts = [id, id, id, raw_id, subtype, tool_name, input, callback];
    (PROMPT_BYTES + texts.map(String::len).iter().sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        budget::{Bounds, Budget},
        domain::ids::TenantId,
    };

    fn prompt(id: &str, length: usize) -> Prompt {
        Prompt {
            id: id.into(),
            raw_id: format!("{id:?}"),
            subtype: "can_use_tool".into(),
            tool_name: "Bash".into(),
            input: "x".repeat(length),
            callback: String::new(),
        }
    }

    fn budget(total: u64) -> Budget {
        Budget::new(Bounds { key: "all", total, tenant_key: "each", of_tenant: None })
    }

    #[test]
    fn c7_a_flood_of_prompts_has_a_bound_and_counts_for_the_tenant() {
        let memory = budget(1 << 40);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), None);
        for number in 0..100 {
            open.hold(&prompt(&number.to_string(), 1 << 20));
        }
        assert!(memory.used() <= MOST_BYTES && memory.used() > MOST_BYTES / 2, "{}", memory.used());
        assert!(open.get("0").is_some() && open.get("99").is_none());
        open.let_go("0");
        open.hold(&prompt("99", 1 << 20));
        assert!(open.get("99").is_some(), "there is room again");
        for number in 0..2 * MOST {
            open.hold(&prompt(&number.to_string(), 1));
        }
        assert!(open.by_id.len() <= MOST);
        drop(open);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_refusal_is_not_taken_is_refused_later_and_the_others_in_their_time() {
        let memory = budget(1 << 40);
        let timeout = Duration::from_secs(60);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), Some(timeout));
        open.hold(&prompt("first", 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        open.hold(&prompt("second", 1));
        tokio::time::advance(timeout).await;
        let id = |open: &OpenPrompts| open.expired().map(|prompt| prompt.id.clone());
        assert_eq!(id(&open).as_deref(), Some("first"));
        let later = Instant::now() + Duration::from_secs(1);
        open.postpone("first", later);
        open.postpone("unknown", later);
        assert_eq!(id(&open).as_deref(), Some("second"));
        open.resolve("second", Resolver::Timeout, None, "");
        assert_eq!((id(&open), open.expires_at()), (None, Some(later)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(id(&open).as_deref(), Some("first"));
        open.resolve("first", Resolver::Timeout, None, "");
        assert_eq!((open.expires_at(), memory.used()), (None, 0));
    }

    #[test]
    fn the_oldest_are_shown_and_what_is_long_is_cut() {
        let memory = budget(1 << 40);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), None);
        for number in 0..30 {
            open.hold(&prompt(&number.to_string(), 2000));
        }
        open.let_go("0");
        // Asked again, it is the newest.
        open.hold(&prompt("1", 5));
        open.hold(&prompt(&"i".repeat(2000), 5));
        let shown = open.shown();
        let ids: Vec<_> = shown.iter().map(|prompt| prompt.id.as_str()).collect();
        assert_eq!((ids.len(), ids[0], ids[19]), (20, "2", "21"));
        assert_eq!((shown[0].tool_name.as_str(), shown[0].input.len()), ("Bash", 1000));
        for number in 2..30 {
            open.let_go(&number.to_string());
        }
        assert_eq!(open.shown().len(), 1, "not the one whose id is too long");
        open.let_go("1");
        open.let_go(&"i".repeat(2000));
        assert_eq!((open.shown(), memory.used()), (Vec::new(), 0));
    }

    #[test]
    fn c7_a_prompt_for_which_the_tenant_has_no_memory_is_not_held() {
        let memory = budget(10_000);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), None);
        open.hold(&prompt("small", 1000));
        open.hold(&prompt("large", 20_000));
        open.hold(&prompt("", 10));
        assert!(open.get("small").is_some() && open.get("large").is_none());
        // The id of the small one again: only the newest is asked.
        open.hold(&prompt("small", 2000));
        assert_eq!(open.get("small").map(|prompt| prompt.input.len()), Some(2000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_waits_as_long_as_it_says_and_no_longer_than_other_prompts() {
        let memory = budget(1 << 40);
        let second = Duration::from_secs(1);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), Some(60 * second));
        let hook = |id: &str, seconds: u64| Prompt {
            subtype: "hook_callback".into(),
            callback: format!("0 Stop {} ", seconds * 1000),
            ..prompt(id, 1)
        };
        open.hold(&prompt("tool", 1));
        for (id, seconds) in [("long", 600), ("short", 5), ("gone", 1)] {
            open.hold(&hook(id, seconds));
        }
        open.let_go("gone");
        for (id, after) in [("short", 5), ("tool", 60), ("long", 60)] {
            let at = open.expires_at().expect("a time");
            tokio::time::sleep_until(at - Duration::from_millis(1)).await;
            assert!(after == 60 && id == "long" || open.expired().is_none(), "{id}");
            tokio::time::sleep_until(at).await;
            assert_eq!(open.expired().map(|prompt| prompt.id.as_str()), Some(id));
            open.let_go(id);
        }
        assert_eq!((open.expires_at(), open.expiring.len()), (None, 0));
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()), None);
        open.hold(&prompt("tool", 1));
        assert_eq!(open.expires_at(), None);
        open.hold(&hook("hook", 5));
        assert_eq!(open.expires_at(), Some(Instant::now() + 5 * second));
        assert_eq!(open.shown()[1].hook_event, "Stop");
    }
}
