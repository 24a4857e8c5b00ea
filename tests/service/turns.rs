//! Turns: a session's process serves one after the other.

use crate::support::service::{Service, query, script};

#[tokio::test]
async fn s06_a_known_session_reuses_its_process() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "one").await;
    let second = service.query("a", &script(&["recite"])).await;
    assert_eq!(first.text(), "echo: one");
    assert!(second.text().contains("one"), "{}", second.text());
    assert_eq!(first.started().client_id, second.started().client_id);
    assert_eq!(service.processes().len(), 1);
    assert!(service.stop().await);
}

#[tokio::test]
async fn a_session_without_a_name_is_gone_after_its_turn() {
    let service = Service::start(|_| {}).await;
    let turn = service.run(query("", "hello")).await;
    assert_eq!(turn.result().result, "echo: hello");
    let id = turn.started().session_id.clone();
    crate::support::eventually("the session is gone", async || {
        service.session(&id).await.is_err().then_some(())
    })
    .await;
    service.stop().await;
}
