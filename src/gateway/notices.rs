//! What a process's session is to be told of its requests: a queue from the gateway, where it happens,
//! to the session, which tells it in the turn that runs. Bounded: an agent that asks in a loop takes
//! no memory, and who asks again for the same is not told again.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::domain::notice::{LimitKind, Notice, RateLimited};

/// Notices that wait at most; more are left out.
const MOST: usize = 64;

/// Limits that end within so short a time of each other are one.
const SAME: Duration = Duration::from_secs(1);

/// The notices of one process.
#[derive(Debug, Default)]
pub(super) struct Notices {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Notice>,
    last_limit: Option<RateLimited>,
}

impl Notices {
    /// Has the session told of a limit, unless that was the last thing it was told of one.
    pub(super) fn limited(&self, kind: LimitKind, model: &str, wait: Duration) {
        let until = SystemTime::now().checked_add(wait).unwrap_or(SystemTime::UNIX_EPOCH);
        let limit = RateLimited { until, kind, model: model.to_owned() };
        let mut state = self.lock();
        if state.last_limit.as_ref().is_some_and(|last| is_same(last, &limit)) {
            return;
        }
        state.last_limit = Some(limit.clone());
        drop(state);
        self.push(Notice::RateLimited(limit));
    }

    /// Has the session told of something.
    pub(super) fn push(&self, notice: Notice) {
        let mut state = self.lock();
        if state.waiting.len() < MOST {
            state.waiting.push_back(notice);
        }
        drop(state);
        self.came.notify_one();
    }

    /// Waits for the next notice. One that came before this was asked is enough.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// What is to be told now. Limits that are over are not.
    pub(super) fn take(&self) -> Vec<Notice> {
        let now = SystemTime::now();
        let taken = std::mem::take(&mut self.lock().waiting);
        let holds = |notice: &Notice| match notice {
            Notice::RateLimited(limit) => limit.until > now,
            Notice::EgressRefused(_) => true,
        };
        taken.into_iter().filter(holds).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_same(one: &RateLimited, other: &RateLimited) -> bool {
    let apart = |one: SystemTime, other: SystemTime| one.duration_since(other).unwrap_or_default();
    let close = apart(one.until, other.until).max(apart(other.until, one.until)) < SAME;
    close && one.kind == other.kind && one.model == other.model
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::domain::notice::EgressRefused;

    #[tokio::test]
    async fn a_limit_is_told_once_as_long_as_it_holds() {
        let notices = Notices::default();
        for _ in 0..3 {
            notices.limited(LimitKind::Requests, "m", Duration::from_secs(60));
        }
        notices.limited(LimitKind::Requests, "n", Duration::from_secs(60));
        notices.limited(LimitKind::Requests, "n", Duration::from_secs(90));
        notices.limited(LimitKind::Requests, "n", Duration::ZERO);
        timeout(Duration::from_secs(10), notices.came()).await.expect("some came");
        let told: Vec<_> = notices
            .take()
            .into_iter()
            .map(|notice| match notice {
                Notice::RateLimited(limit) => limit.model,
                Notice::EgressRefused(_) => panic!("no host was refused"),
            })
            .collect();
        assert_eq!(told, ["m", "n", "n"], "the last one is over already");
        assert!(notices.take().is_empty());
    }

    #[test]
    fn an_agent_in_a_loop_fills_no_memory() {
        let notices = Notices::default();
        for number in 0..10 * MOST {
            let (host, reason) = (format!("h{number}:1"), String::new());
            notices.push(Notice::EgressRefused(EgressRefused { host, reason }));
        }
        assert_eq!(notices.take().len(), MOST);
    }
}
