use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep;

use super::*;
use crate::tasks::spawn_owned;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("an id")
}

fn untold(_: LimitKind, _: Duration) {}

fn key() -> Key {
    ([1; 32], "model".into())
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
                    match pacing.turn(key(), &tenant("a"), untold).await {
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
    let first = pacing.turn(key(), &tenant("a"), untold).await.expect("at once");
    let wait = first.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "30")]));
    assert_eq!(wait, Some(Duration::from_secs(30)));
    // Another model is another limit.
    drop(pacing.turn(([1; 32], "other".into()), &tenant("a"), untold).await.expect("at once"));
    let (sender, mut order) = tokio::sync::mpsc::channel(5);
    let began = Instant::now();
    for name in ["a", "a", "a", "b", "b"] {
        let (pacing, sender) = (pacing.clone(), sender.clone());
        drop(spawn_owned(async move {
            let asking = pacing.turn(key(), &tenant(name), untold).await.expect("held");
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
    let first = pacing.turn(key(), &tenant("a"), untold).await.expect("at once");
    first.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "7200")]));
    let began = Instant::now();
    let wait = pacing.turn(key(), &tenant("a"), untold).await.expect_err("hours");
    // Longer than an hour nobody goes by what was named.
    assert_eq!((wait, began.elapsed()), (LONGEST_CLOSED, Duration::ZERO));
    tokio::time::advance(LONGEST_CLOSED).await;
    let asking = pacing.turn(key(), &tenant("a"), untold).await.expect("at once");
    let other = tenant("b");
    let left = tokio::time::timeout(Duration::from_secs(1), pacing.turn(key(), &other, untold));
    left.await.expect_err("one at a time");
    drop(asking);
    drop(pacing.turn(key(), &tenant("a"), untold).await.expect("the other one has left"));
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

#[tokio::test(start_paused = true)]
async fn names_that_are_made_up_are_forgotten_and_bounded() {
    let pacing = Pacing::default();
    for number in 0..2 * MOST_LANES {
        let key = ([1; 32], format!("model-{number}"));
        let asking = pacing.turn(key, &tenant("a"), untold).await;
        let Ok(asking) = asking else { continue };
        asking.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "1e19")]));
    }
    assert!(pacing.0.lock().expect("no panic").len() <= MOST_LANES + 1);
    tokio::time::advance(LONGEST_CLOSED + FORGET_AFTER).await;
    drop(pacing.turn(([2; 32], "other".into()), &tenant("a"), untold).await.expect("at once"));
    assert_eq!(pacing.0.lock().expect("no panic").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_slowly_keeps_nobody_waiting_and_who_comes_late_has_no_arrears() {
    let pacing = Pacing::default();
    let first = pacing.turn(key(), &tenant("a"), untold).await.expect("at once");
    first.heard(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "1")]));
    let mut slow = pacing.turn(key(), &tenant("a"), untold).await.expect("held");
    slow.give_way();
    let next = pacing.turn(key(), &tenant("b"), untold).await.expect("at once");
    drop(slow);
    assert_eq!(next.lane.lock().asking, 1, "it is given back once");
    let mut state = State { width: Some(1), ..State::default() };
    state.waiting.push((0, tenant("a")));
    state.went.insert(tenant("a"), 1000);
    let lane = Lane { state: Mutex::new(state), changed: Notify::new() };
    drop(lane.join(&tenant("b")));
    assert_eq!(lane.lock().went_of(&tenant("b")), 1000);
}
