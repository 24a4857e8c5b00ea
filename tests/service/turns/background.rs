//! Turns that the CLI begins by itself: an id of their own, and never mixed with a
//! caller's.

use crate::support::{
    eventually,
    service::{Service, query, script},
    turn::Turn,
};

async fn background(service: &Service, session: &str) -> Turn {
    eventually("a background turn", async || {
        let mut turn = service.attach(session, "", 0).await.ok()?;
        turn.finish().await;
        turn.started().background.then_some(turn)
    })
    .await
}

#[tokio::test]
async fn a_background_turn_has_its_own_id_and_can_be_joined() {
    let service = Service::start(|_| {}).await;
    let asked = service.query("a", &script(&["say asked for", "background-turn 100"])).await;
    assert_eq!(asked.text(), "asked for");
    assert!(!asked.started().background);
    let background = background(&service, "a").await;
    assert_ne!(background.started().turn_id, asked.started().turn_id);
    assert_eq!(background.started().client_id, asked.started().client_id);
    assert_eq!(background.text(), "background task done");
    assert!(!background.result().interrupted);
    let mut again = service.attach("a", &asked.started().turn_id, 0).await.expect("kept");
    again.finish().await;
    assert_eq!(again.events, asked.events);
    service.stop().await;
}

#[tokio::test]
async fn a_query_that_meets_a_background_turn_gets_its_own_answer_only() {
    let service = Service::start(|_| {}).await;
    for delay in [0, 1, 2, 5, 10, 20] {
        let prompt = script(&["say first", &format!("background-turn {delay}")]);
        let first = service.query("a", &prompt).await;
        let second = service.query("a", "second").await;
        let third = service.query("a", "third").await;
        assert_eq!(first.text(), "first", "{delay}");
        assert_eq!(second.text(), "echo: second", "{delay}");
        assert_eq!(second.result().result, "echo: second", "{delay}");
        assert_eq!(third.text(), "echo: third", "{delay}");
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_background_turn_is_not_counted_as_abandoned() {
    let service = Service::start(|_| {}).await;
    service.query("a", &script(&["background-turn 50"])).await.result();
    let turn = background(&service, "a").await;
    assert_eq!(turn.result().result, "background task done");
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!(counters.interrupted, 0);
    // Nobody asked for it.
    assert_eq!(service.stats().await.total_messages, 1);
    let mut next = service.open(query("a", "next")).await.expect("taken");
    next.finish().await;
    assert_eq!(next.text(), "echo: next");
    service.stop().await;
}
