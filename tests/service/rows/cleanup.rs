//! s20: the cleanup removes what nobody will miss, and never a session in mid-turn.

use std::time::Duration;

use session_pool::config::PoolConfig;

use crate::support::{
    eventually,
    service::{Service, query, script},
};

async fn tidy(change: impl FnOnce(&mut PoolConfig)) -> Service {
    Service::start(|config| {
        config.pool.cleanup_interval = Duration::from_millis(50);
        change(&mut config.pool);
    })
    .await
}

async fn gone(service: &Service, id: &str) {
    eventually("the session is removed", async || service.session(id).await.err()).await;
    assert_eq!(service.processes(), [0; 0]);
}

#[tokio::test]
async fn s20_idle_sessions_are_removed_with_their_processes() {
    let service = tidy(|pool| pool.idle_threshold = Duration::from_millis(200)).await;
    service.query("a", "remember").await.result();
    gone(&service, "a").await;
    assert_eq!(service.stats().await.counters.expect("counters").idle_removed, 1);
    // What was said is not lost.
    assert_eq!(service.query("a", &script(&["recite"])).await.text(), "remember");
    service.stop().await;
}

#[tokio::test]
async fn s20_expired_sessions_are_removed() {
    let service = tidy(|pool| pool.session_ttl = Duration::from_millis(200)).await;
    service.query("a", "remember").await.result();
    gone(&service, "a").await;
    assert_eq!(service.stats().await.counters.expect("counters").expired, 1);
    assert_eq!(service.query("a", &script(&["recite"])).await.text(), "remember");
    service.stop().await;
}

#[tokio::test]
async fn s20_disconnected_sessions_are_removed() {
    let service = tidy(|_| {}).await;
    service.query("a", "remember").await.result();
    service.kill_cli("a", "remember").await;
    gone(&service, "a").await;
    assert_eq!(service.query("a", &script(&["recite"])).await.text(), "remember");
    service.stop().await;
}

#[tokio::test]
async fn s20_a_session_in_mid_turn_is_never_removed() {
    let service = tidy(|pool| {
        pool.session_ttl = Duration::from_millis(200);
        pool.idle_threshold = Duration::from_millis(100);
    })
    .await;
    let mut turn = service
        .open(query("a", &script(&["say word", "sleep 800", "say end"])))
        .await
        .expect("taken");
    turn.until_text("word").await;
    service.query("b", "hello").await.result();
    eventually("the other is removed", async || service.session("b").await.err()).await;
    turn.finish().await;
    assert_eq!(turn.result().result, "end");
    gone(&service, "a").await;
    service.stop().await;
}

#[tokio::test]
async fn s20_the_cleanup_goes_on_round_after_round() {
    let service = tidy(|pool| pool.idle_threshold = Duration::from_millis(100)).await;
    for round in 1..=3 {
        service.query("a", "hello").await.result();
        gone(&service, "a").await;
        assert_eq!(service.stats().await.counters.expect("counters").idle_removed, round);
    }
    service.stop().await;
}
