//! How requests of many sessions keep to what the API lets one key have of one model. When it says
//! that there were too many, nobody asks again before the time that it names; then one request goes
//! first, and when it is taken two more, and so on, in turn over tenants. Without that every CLI
//! would ask again by itself, all at once, until its attempts are used up.
//!
//! Source: 429 and 529 with `retry-after` in seconds, and `anthropic-ratelimit-*-remaining` with
//! `-reset`, a time by RFC 3339. A request counts for this until its answer begins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::passes::Hash;
use crate::domain::{
    ids::TenantId,
    notice::{LimitKind, RateLimited},
};

/// How long a request is held at most: CLIs give one up that has no answer for five minutes.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// A wait that is longer than this is one for a quota that is spent, and told at once: a CLI would
/// wait for it as well, and so would its session's caller, without a word.
pub(super) const LONGEST_WAIT_OF_A_CLI: Duration = Duration::from_secs(600);

/// The wait where the API names none; it doubles with each refusal in a row.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After so long without a refusal, and with nobody waiting, requests go as they come again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Requests at once at most, as long as refusals are remembered.
const WIDEST: usize = 256;

/// Lanes at most that are remembered while nothing is known of them.
const MOST_LANES: usize = 1000;

/// Limits that are shown at most.
const MOST_SHOWN: usize = 100;

/// What the API calls a key that has asked too much, and itself when all have.
const OVERLOADED: u16 = 529;

/// Nobody waits longer for what the API names: it may be mistaken, or be asked for more meanwhile.
const LONGEST_CLOSED: Duration = Duration::from_secs(3600);

/// What a limit is for: a credential, by its hash, and a model.
pub(super) type Key = (Hash, String);

/// All limits.
#[derive(Debug, Clone, Default)]
pub(super) struct Pacing(Arc<Mutex<HashMap<Key, Arc<Lane>>>>);

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Nobody goes before.
    until: Option<Instant>,
    /// Why.
    kind: LimitKind,
    /// When the last of the times ended in which nobody was to ask.
    refused: Option<Instant>,
    /// Refusals in a row.
    in_a_row: u32,
    /// Requests that may wait for an answer at once; as many as there are without it.
    width: Option<usize>,
    /// Requests that wait for an answer.
    asking: usize,
    /// Who waits to ask, by number, and whose they are.
    waiting: Vec<(u64, TenantId)>,
    numbers: u64,
    /// How many of each tenant went since somebody came to wait.
    went: HashMap<TenantId, u64>,
}

/// A request that has gone. Dropped when its answer begins, or will not.
#[derive(Debug)]
pub(super) struct Asking {
    lane: Arc<Lane>,
    gave_way: bool,
}

/// A request that waits; leaves when dropped.
struct Place<'a> {
    lane: &'a Lane,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.lane.lock().waiting.retain(|(number, _)| *number != self.number);
        self.lane.changed.notify_waiters();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.give_way();
    }
}

impl Pacing {
    /// Waits for the turn of a tenant's request, and says by `told` for which limit and how long. The
    /// error is how long it would take, where that is too long to be held.
    pub(super) async fn turn(
        &self,
        key: Key,
        tenant: &TenantId,
        told: impl Fn(LimitKind, Duration),
    ) -> Result<Asking, Duration> {
        let lane = self.lane(key);
        let deadline = Instant::now() + LONGEST_HOLD;
        let place = lane.join(tenant);
        loop {
            let changed = lane.changed.notified();
            let look = lane.lock().look(place.number, Instant::now());
            let again = match look {
                Look::Go => break,
                Look::At(at, kind) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    told(kind_of_wait(kind, wait), wait);
                    at
                }
                Look::Wait => deadline,
            };
            if again > deadline || Instant::now() >= deadline {
                return Err(again.saturating_duration_since(Instant::now()));
            }
            timeout_at(again, changed).await.ok();
        }
        drop(place);
        Ok(Asking { lane: Arc::clone(&lane), gave_way: false })
    }

    /// The limits that hold now: of one credential, or of all.
    pub(super) fn limits(&self, credential: Option<Hash>) -> Vec<RateLimited> {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, wall) = (Instant::now(), SystemTime::now());
        let of = |hash: &Hash| credential.is_none_or(|credential| credential == *hash);
        let mut limits: Vec<_> = lanes
            .iter()
            .filter(|((hash, _), _)| of(hash))
            .filter_map(|((_, model), lane)| {
                let (until, kind) = lane.lock().closed(now)?;
                let wait = until.duration_since(now);
                let (until, kind) = (wall.checked_add(wait)?, kind_of_wait(kind, wait));
                Some(RateLimited { until, kind, model: model.clone() })
            })
            .collect();
        limits.sort_by(|one, other| one.model.cmp(&other.model).then(one.until.cmp(&other.until)));
        limits.truncate(MOST_SHOWN);
        limits
    }

    fn lane(&self, key: Key) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MOST_LANES && !lanes.contains_key(&key) {
            let now = Instant::now();
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.lock().is_at_rest(now));
        }
        // Names that are made up, each of which has been refused, share what is left.
        let is_kept = lanes.len() < MOST_LANES || lanes.contains_key(&key);
        let key = if is_kept { key } else { (key.0, String::new()) };
        Arc::clone(lanes.entry(key).or_default())
    }
}

impl Asking {
    /// Others need not wait any more for this one.
    pub(super) fn give_way(&mut self) {
        if std::mem::replace(&mut self.gave_way, true) {
            return;
        }
        let mut state = self.lane.lock();
        state.asking = state.asking.saturating_sub(1);
        drop(state);
        self.lane.changed.notify_waiters();
    }

    /// Takes note of how an answer begins. Returns how long the API wants nobody to ask.
    pub(super) fn heard(self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let refused = status == StatusCode::TOO_MANY_REQUESTS || status.as_u16() == OVERLOADED;
        let mut state = self.lane.lock();
        if refused {
            state.kind = kind_of(status);
            Some(state.refuse(named_wait(headers), now))
        } else {
            state.admit(used_up(headers, wall), now);
            None
        }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, tenant: &TenantId) -> Place<'_> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.went.clear();
        }
        // Whoever comes later has no claim to what others were given meanwhile.
        let least = state.waiting.iter().map(|(_, waits)| state.went_of(waits)).min();
        if let Some(least) = least
            && !state.waiting.iter().any(|(_, waits)| waits == tenant)
        {
            let went = state.went.entry(tenant.clone()).or_default();
            *went = least.max(*went);
        }
        let number = state.numbers;
        state.numbers += 1;
        state.waiting.push((number, tenant.clone()));
        Place { lane: self, number }
    }
}

/// What becomes of a request that waits.
enum Look {
    Go,
    At(Instant, LimitKind),
    Wait,
}

impl State {
    fn is_at_rest(&self, now: Instant) -> bool {
        let forgotten = self.refused.is_none_or(|at| at + FORGET_AFTER <= now);
        forgotten && self.waiting.is_empty() && self.asking == 0
    }

    fn went_of(&self, tenant: &TenantId) -> u64 {
        self.went.get(tenant).copied().unwrap_or(0)
    }

    /// Whether the request of this number goes now; then it has gone.
    fn look(&mut self, number: u64, now: Instant) -> Look {
        let alone = self.waiting.len() == 1;
        if alone && self.refused.is_some_and(|at| at + FORGET_AFTER <= now) {
            (self.width, self.refused, self.in_a_row) = (None, None, 0);
        }
        if let Some((until, kind)) = self.closed(now) {
            return Look::At(until, kind);
        }
        if self.width.is_some_and(|width| self.asking >= width) {
            return Look::Wait;
        }
        let next =
            self.waiting.iter().min_by_key(|(number, tenant)| (self.went_of(tenant), *number));
        let is_next = self.width.is_none() || next.is_some_and(|(next, _)| *next == number);
        let own = self.waiting.iter().find(|(waits, _)| *waits == number);
        match own.filter(|_| is_next).map(|(_, tenant)| tenant.clone()) {
            Some(tenant) => {
                *self.went.entry(tenant).or_default() += 1;
                self.asking += 1;
                Look::Go
            }
            None => Look::Wait,
        }
    }

    /// Until when nobody goes, and why, if that is so now.
    fn closed(&self, now: Instant) -> Option<(Instant, LimitKind)> {
        self.until.filter(|until| *until > now).map(|until| (until, self.kind))
    }

    fn refuse(&mut self, named: Option<Duration>, now: Instant) -> Duration {
        let own = FIRST_WAIT * 2_u32.saturating_pow(self.in_a_row.min(16));
        let wait = named.unwrap_or_else(|| own.min(LONGEST_WAIT)).min(LONGEST_CLOSED);
        self.in_a_row += 1;
        self.refused = self.refused.max(Some(now + wait));
        self.width = Some(1);
        self.until = self.until.max(Some(now + wait));
        wait
    }

    fn admit(&mut self, used_up: Option<Duration>, now: Instant) {
        self.in_a_row = 0;
        self.width = self.width.map(|width| (2 * width).min(WIDEST));
        if let Some(wait) = used_up.map(|wait| wait.min(LONGEST_CLOSED)) {
            self.refused = self.refused.max(Some(now + wait));
            self.width = Some(1);
            self.until = self.until.max(Some(now + wait));
            self.kind = LimitKind::Requests;
        }
    }
}

/// Whose limit an answer with this status is about.
pub(super) fn kind_of(status: StatusCode) -> LimitKind {
    match status.as_u16() {
        OVERLOADED => LimitKind::Overloaded,
        _ => LimitKind::Requests,
    }
}

/// What a limit is whose end is so far away: nobody waits for a quota.
pub(super) fn kind_of_wait(kind: LimitKind, wait: Duration) -> LimitKind {
    if wait > LONGEST_WAIT_OF_A_CLI { LimitKind::Quota } else { kind }
}

/// How long nobody is to ask, if an answer names it.
pub(super) fn named_wait(headers: &HeaderMap) -> Option<Duration> {
    seconds(headers, header::RETRY_AFTER.as_str())
}

/// What the API counts, and tells what is left of.
const COUNTED: [&str; 4] = ["requests", "tokens", "input-tokens", "output-tokens"];

/// How long there is nothing left of what the API counts, if there is not.
fn used_up(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let waits = COUNTED.iter().filter_map(|counted| {
        let header = |end: &str| {
            let name = format!("anthropic-ratelimit-{counted}-{end}");
            headers.get(name).and_then(|value| value.to_str().ok())
        };
        if header("remaining")?.trim() != "0" {
            return None;
        }
        let reset = humantime::parse_rfc3339(header("reset")?.trim()).ok()?;
        reset.duration_since(now).ok()
    });
    waits.max()
}

fn seconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    Duration::try_from_secs_f64(text.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests;
