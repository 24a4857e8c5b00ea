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

use crate::domain::ids::TenantId;

/// How long a request is held at most: CLIs give one up that has no answer for five minutes.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// The wait where the API names none; it doubles with each refusal in a row.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After so long without a refusal, and with nobody waiting, requests go as they come again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Requests at once at most, as long as refusals are remembered.
const WIDEST: usize = 256;

/// Lanes at most that are remembered while nothing is known of them.
const MOST_LANES: usize = 1000;

/// What the API calls a key that has asked too much, and itself when all have.
const OVERLOADED: u16 = 529;

/// What a limit is for: a credential and a model.
pub(super) type Key = (String, String);

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
        let mut state = self.lane.lock();
        state.asking = state.asking.saturating_sub(1);
        drop(state);
        self.lane.changed.notify_waiters();
    }
}

impl Pacing {
    /// Waits for the turn of a tenant's request. The error is how long it would take, where that is
    /// too long to be held.
    pub(super) async fn turn(&self, key: Key, tenant: &TenantId) -> Result<Asking, Duration> {
        let lane = self.lane(key);
        let deadline = Instant::now() + LONGEST_HOLD;
        let place = lane.join(tenant);
        loop {
            let changed = lane.changed.notified();
            let again = match lane.lock().look(place.number, Instant::now()) {
                Look::Go => break,
                Look::At(at) => at,
                Look::Wait => deadline,
            };
            if again > deadline || Instant::now() >= deadline {
                return Err(again.saturating_duration_since(Instant::now()));
            }
            timeout_at(again, changed).await.ok();
        }
        drop(place);
        Ok(Asking { lane: Arc::clone(&lane) })
    }

    fn lane(&self, key: Key) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MOST_LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.lock().is_at_rest());
        }
        Arc::clone(lanes.entry(key).or_default())
    }
}

impl Asking {
    /// Takes note of how an answer begins. Returns how long the API wants nobody to ask.
    pub(super) fn heard(self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let refused = status == StatusCode::TOO_MANY_REQUESTS || status.as_u16() == OVERLOADED;
        let mut state = self.lane.lock();
        if refused {
            let named = seconds(headers, header::RETRY_AFTER.as_str());
            Some(state.refuse(named, now))
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
        let number = state.numbers;
        state.numbers += 1;
        state.waiting.push((number, tenant.clone()));
        Place { lane: self, number }
    }
}

/// What becomes of a request that waits.
enum Look {
    Go,
    At(Instant),
    Wait,
}

impl State {
    fn is_at_rest(&self) -> bool {
        self.width.is_none() && self.waiting.is_empty() && self.asking == 0
    }

    /// Whether the request of this number goes now; then it has gone.
    fn look(&mut self, number: u64, now: Instant) -> Look {
        let alone = self.waiting.len() == 1;
        if alone && self.refused.is_some_and(|at| at + FORGET_AFTER <= now) {
            (self.width, self.refused, self.in_a_row) = (None, None, 0);
        }
        if let Some(until) = self.until.filter(|until| *until > now) {
            return Look::At(until);
        }
        if self.width.is_some_and(|width| self.asking >= width) {
            return Look::Wait;
        }
        let went = |tenant: &TenantId| self.went.get(tenant).copied().unwrap_or(0);
        let next = self.waiting.iter().min_by_key(|(number, tenant)| (went(tenant), *number));
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

    fn refuse(&mut self, named: Option<Duration>, now: Instant) -> Duration {
        let own = FIRST_WAIT * 2_u32.saturating_pow(self.in_a_row.min(16));
        let wait = named.unwrap_or_else(|| own.min(LONGEST_WAIT));
        self.in_a_row += 1;
        self.refused = self.refused.max(Some(now + wait));
        self.width = Some(1);
        self.until = self.until.max(Some(now + wait));
        wait
    }

    fn admit(&mut self, used_up: Option<Duration>, now: Instant) {
        self.in_a_row = 0;
        self.width = self.width.map(|width| (2 * width).min(WIDEST));
        if let Some(wait) = used_up {
            self.refused = self.refused.max(Some(now + wait));
            self.width = Some(1);
            self.until = self.until.max(Some(now + wait));
        }
    }
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;
    use crate::tasks::spawn_owned;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("an id")
    }

    fn key() -> Key {
        ("key".into(), "model".into())
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().expect("a name");
            headers.insert(name, value.parse().expect("a value"));
        }
        headers
    }

    /// An API that takes so many requests in each minute.
    struct Api {
        left: Mutex<(u64, usize)>,
        limit: usize,
        began: Instant,
        refusals: AtomicUsize,
    }

    impl Api {
        async fn ask(&self, asking: Asking) -> bool {
            sleep(Duration::from_millis(50)).await;
            let since = self.began.elapsed();
            let mut left = self.left.lock().expect("no panic");
            if left.0 != since.as_secs() / 60 {
                *left = (since.as_secs() / 60, self.limit);
            }
            let taken = left.1 > 0;
            left.1 = left.1.saturating_sub(1);
            if taken {
                asking.heard(StatusCode::OK, &HeaderMap::new());
            } else {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                let wait = (60 - since.as_secs() % 60).to_string();
                asking.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", &wait)]));
            }
            taken
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_forty_on_ten_a_minute_comes_through_with_few_attempts_each() {
        let api = Arc::new(Api {
            left: Mutex::new((0, 10)),
            limit: 10,
            began: Instant::now(),
            refusals: AtomicUsize::new(0),
        });
        let pacing = Pacing::default();
        let sessions: Vec<_> = (0..40)
            .map(|_| {
                let (api, pacing) = (Arc::clone(&api), pacing.clone());
                spawn_owned(async move {
                    for attempt in 1..=10 {
                        match pacing.turn(key(), &tenant("a")).await {
                            Ok(asking) => {
                                if api.ask(asking).await {
                                    return attempt;
                                }
                            }
                            Err(wait) => sleep(wait).await,
                        }
                        sleep(Duration::from_millis(500)).await;
                    }
                    panic!("its attempts are used up")
                })
            })
            .collect();
        for session in sessions {
            assert!(session.await.expect("it comes through") <= 6);
        }
        // The first forty went at once; from then on each minute has one refusal or two.
        let refusals = api.refusals.load(Ordering::Relaxed);
        assert!(refusals <= 30 + 12, "{refusals}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_before_the_time_that_was_named_and_tenants_take_turns() {
        let pacing = Pacing::default();
        let first = pacing.turn(key(), &tenant("a")).await.expect("at once");
        let wait = first.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "30")]));
        assert_eq!(wait, Some(Duration::from_secs(30)));
        // Another model is another limit.
        drop(pacing.turn(("key".into(), "other".into()), &tenant("a")).await.expect("at once"));
        let (sender, mut order) = tokio::sync::mpsc::channel(5);
        let began = Instant::now();
        for name in ["a", "a", "a", "b", "b"] {
            let (pacing, sender) = (pacing.clone(), sender.clone());
            drop(spawn_owned(async move {
                let asking = pacing.turn(key(), &tenant(name)).await.expect("held");
                sender.send(name).await.expect("somebody looks");
                // As long as nothing is taken, one goes at a time.
                sleep(Duration::from_secs(1)).await;
                drop(asking);
            }));
            tokio::task::yield_now().await;
        }
        let mut went = Vec::new();
        for _ in 0..5 {
            went.push(order.recv().await.expect("all go"));
        }
        assert_eq!(went, ["a", "b", "a", "b", "a"]);
        assert_eq!(began.elapsed(), Duration::from_secs(34));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_at_once_and_who_leaves_is_not_waited_for() {
        let pacing = Pacing::default();
        let first = pacing.turn(key(), &tenant("a")).await.expect("at once");
        first.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "7200")]));
        let began = Instant::now();
        let wait = pacing.turn(key(), &tenant("a")).await.expect_err("hours");
        assert_eq!((wait, began.elapsed()), (Duration::from_secs(7200), Duration::ZERO));
        tokio::time::advance(Duration::from_secs(7200)).await;
        let asking = pacing.turn(key(), &tenant("a")).await.expect("at once");
        let other = tenant("b");
        let left = tokio::time::timeout(Duration::from_secs(1), pacing.turn(key(), &other));
        left.await.expect_err("one at a time");
        drop(asking);
        drop(pacing.turn(key(), &tenant("a")).await.expect("the other one has left"));
    }

    #[test]
    fn what_is_used_up_comes_back_when_the_api_says() {
        let now = humantime::parse_rfc3339("2026-11-30T00:00:00Z").expect("a time");
        let told = |pairs: &[(&str, &str)]| used_up(&headers(pairs), now);
        let remaining = "anthropic-ratelimit-input-tokens-remaining";
        let reset = "anthropic-ratelimit-input-tokens-reset";
        let late = "2026-11-30T00:00:30Z";
        assert_eq!(told(&[(remaining, "0"), (reset, late)]), Some(Duration::from_secs(30)));
        assert_eq!(told(&[(remaining, "1"), (reset, late)]), None);
        assert_eq!(told(&[(remaining, "0"), (reset, "soon")]), None);
        assert_eq!(told(&[(remaining, "0"), (reset, "2020-01-01T00:00:00Z")]), None);
        assert_eq!(told(&[]), None);
    }
}
