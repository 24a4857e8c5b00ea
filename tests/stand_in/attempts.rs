//! How often a scripted failure has been served.
//!
//! Counted per session, prompt and directive, so that the retries of one conversation spend its own
//! failures only. The same prompt said twice in a conversation counts afresh, by its position.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Failures remembered; the oldest are forgotten first.
const CAPACITY: usize = 10_000;

/// How often a failure is served before the script goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// To every request.
    Forever,
    /// To the first so many requests.
    Count(u32),
}

/// One directive of one prompt in one conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Step {
    /// The CLI's session.
    pub session: String,
    /// How many prompts came before this one.
    pub position: usize,
    /// The prompt, as it was written.
    pub prompt: String,
    /// Index of the directive in the prompt.
    pub directive: usize,
}

/// The failures served so far.
#[derive(Debug, Default)]
pub struct Attempts {
    served: Mutex<Served>,
}

#[derive(Debug, Default)]
struct Served {
    counts: HashMap<Step, u32>,
    order: VecDeque<Step>,
}

impl Attempts {
    /// Whether the failure at `step` is due for this request; if so, it is counted as served.
    pub fn take(&self, step: Step, times: Times) -> bool {
        let Times::Count(limit) = times else {
            return true;
        };
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let count = served.counts.get(&step).copied().unwrap_or_default();
        if count >= limit {
            return false;
        }
        if count == 0 {
            served.order.push_back(step.clone());
        }
        served.counts.insert(step, count + 1);
        if served.order.len() > CAPACITY
            && let Some(oldest) = served.order.pop_front()
        {
            served.counts.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(session: &str, position: usize) -> Step {
        Step {
            session: session.to_owned(),
            position,
            prompt: "[[status 529 times 2]]".to_owned(),
            directive: 0,
        }
    }

    #[test]
    fn a_failure_is_served_as_often_as_it_says_in_each_conversation() {
        let attempts = Attempts::default();
        let twice = Times::Count(2);
        assert!(attempts.take(step("a", 0), twice));
        assert!(attempts.take(step("b", 0), twice));
        assert!(attempts.take(step("a", 0), twice));
        assert!(!attempts.take(step("a", 0), twice));
        assert!(attempts.take(step("b", 0), twice));
        assert!(attempts.take(step("a", 1), twice));
    }

    #[test]
    fn a_failure_for_ever_never_ends() {
        let attempts = Attempts::default();
        assert!((0..100).all(|_| attempts.take(step("a", 0), Times::Forever)));
    }
}
