//! Prompts of the CLI that wait for an answer, by their ids. What they hold counts for the
//! memory of their tenant, and has a bound of its own: an agent can write prompts in its CLI's
//! name for as long as it likes.

use std::collections::HashMap;

use tracing::warn;

use crate::{
    budget::{Account, Reservation},
    cli::frame::Prompt,
    telemetry::log_limit::PROMPT_NOT_HELD,
};

/// Prompts at the same time. The CLI asks for a handful.
const MOST: usize = 10_000;

/// Bytes of all of them: twice the largest frame that `cli.max_frame_bytes` allows by default.
const MOST_BYTES: u64 = 32 << 20;

/// What a prompt takes beside its texts.
const PROMPT_BYTES: usize = 256;

/// The open prompts of a turn.
#[derive(Debug)]
pub struct OpenPrompts {
    by_id: HashMap<String, Prompt>,
    /// What all of them hold.
    held: Reservation,
}

impl OpenPrompts {
    /// None yet; they will count for this account.
    pub fn new(memory: &Account) -> Self {
        Self { by_id: HashMap::new(), held: memory.open() }
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
            self.by_id.insert(prompt.id.clone(), prompt.clone());
        } else if PROMPT_NOT_HELD.admits() {
            warn!(bytes, held, "prompt_not_held");
        }
    }

    /// The prompt of this id.
    pub fn get(&self, id: &str) -> Option<&Prompt> {
        self.by_id.get(id)
    }

    /// It was answered, or is not asked any more.
    pub fn let_go(&mut self, id: &str) {
        if let Some(prompt) = self.by_id.remove(id) {
            self.held.set(self.held.bytes() - bytes_of(&prompt));
        }
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// None of them waits any more.
    pub fn clear(&mut self) {
        self.by_id.clear();
        self.held.set(0);
    }
}

/// What a prompt takes.
fn bytes_of(prompt: &Prompt) -> u64 {
    let texts = [&prompt.id, &prompt.id, &prompt.raw_id, &prompt.subtype, &prompt.input];
    (PROMPT_BYTES + texts.map(String::len).iter().sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        budget::{Bounds, Budget},
        ids::TenantId,
    };

    fn prompt(id: &str, length: usize) -> Prompt {
        Prompt {
            id: id.into(),
            raw_id: format!("{id:?}"),
            subtype: "can_use_tool".into(),
            input: "x".repeat(length),
        }
    }

    fn budget(total: u64) -> Budget {
        Budget::new(Bounds { key: "all", total, tenant_key: "each", of_tenant: None })
    }

    #[test]
    fn c7_a_flood_of_prompts_has_a_bound_and_counts_for_the_tenant() {
        let memory = budget(1 << 40);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()));
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
        open.clear();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn c7_a_prompt_for_which_the_tenant_has_no_memory_is_not_held() {
        let memory = budget(10_000);
        let mut open = OpenPrompts::new(&memory.account(&TenantId::default()));
        open.hold(&prompt("small", 1000));
        open.hold(&prompt("large", 20_000));
        open.hold(&prompt("", 10));
        assert!(open.get("small").is_some() && open.get("large").is_none());
        // The id of the small one again: only the newest is asked.
        open.hold(&prompt("small", 2000));
        assert_eq!(open.get("small").map(|prompt| prompt.input.len()), Some(2000));
    }
}
