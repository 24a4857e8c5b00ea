//! s07: a session past its time to live is replaced, never in the middle of a turn.

use std::time::Duration;

use session_pool::proto::{SessionStatus, TurnOrigin};

use crate::support::{
    eventually, log,
    service::{Service, query, script},
};

async fn short_lived() -> Service {
    Service::start(|config| config.pool.session_ttl = Duration::from_millis(300)).await
}

async fn expired(service: &Service, id: &str) {
    eventually("it has expired", async || {
        let session = service.session(id).await.expect("there");
        (session.status() == SessionStatus::Expired).then_some(())
    })
    .await;
}

#[tokio::test]
async fn s07_an_expired_session_is_replaced_and_its_conversation_goes_on() {
    let service = short_lived().await;
    let id = "s07-replaced";
    let first = service.query(id, "my name is Ada").await;
    expired(&service, id).await;
    let second = service.query(id, &script(&["recite"])).await;
    assert_eq!(second.text(), "my name is Ada");
    assert_eq!(second.started().origin(), TurnOrigin::Resumed);
    assert_ne!(second.started().client_id, first.started().client_id);
    assert_eq!(second.started().cli_session_id, first.started().cli_session_id);
    let session = service.session(id).await.expect("there");
    assert_eq!(session.message_count, 1);
    assert_eq!(service.processes().len(), 1);

    let events = log::events("session_expired", id);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].level, tracing::Level::DEBUG);
    assert!(events[0].fields["client_id"].contains(&first.started().client_id));
    assert_eq!(service.stats().await.counters.expect("counters").expired, 1);
    service.stop().await;
}

#[tokio::test]
async fn s07_expiry_waits_for_the_end_of_the_turn() {
    let service = short_lived().await;
    let long = script(&["sleep 700", "say done"]);
    let mut first = service.open(query("a", &long)).await.expect("taken");
    first.until_init().await;
    let mut second = service.open(query("a", "next")).await.expect("queued");
    first.finish().await;
    assert_eq!(first.result().result, "done");
    assert!(!first.result().interrupted);
    second.finish().await;
    assert_eq!(second.result().result, "echo: next");
    assert_ne!(second.started().client_id, first.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn s07_a_session_that_expires_while_its_process_is_lost_is_replaced_too() {
    let service = short_lived().await;
    service.query("a", "remember").await.result();
    service.kill_cli("a", "remember").await;
    expired(&service, "a").await;
    let turn = service.query("a", &script(&["recite"])).await;
    assert_eq!(turn.text(), "remember");
    assert_eq!(service.session("a").await.expect("there").message_count, 1);
    service.stop().await;
}
