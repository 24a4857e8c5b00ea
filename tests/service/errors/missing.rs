//! What is not there: sessions, turns, prompts.

use session_pool::proto::{
    PromptAllow, RespondRequest, UpdateSessionRequest, respond_request::Decision,
};
use tonic::{Code, Status};

use crate::support::{
    failure,
    service::{Service, query, script},
};

async fn respond(service: &Service, session: &str, prompt: &str) -> Status {
    let request = RespondRequest {
        session_id: session.into(),
        prompt_id: prompt.into(),
        decision: Some(Decision::Allow(PromptAllow::default())),
    };
    service.client.clone().respond(request).await.expect_err("refused")
}

#[tokio::test]
async fn an_unknown_session_is_not_found_by_any_rpc() {
    let service = Service::start(|_| {}).await;
    let request = UpdateSessionRequest { session_id: "a".into(), options: None };
    let errors = [
        service.session("a").await.expect_err("GetSession"),
        service.close("a", false).await.expect_err("CloseSession"),
        service.close("a", true).await.expect_err("CloseSession, forget"),
        service.attach("a", "", 0).await.expect_err("Attach"),
        service.client.clone().update_session(request).await.expect_err("UpdateSession"),
        respond(&service, "a", "p").await,
    ];
    for status in errors {
        let metadata = failure(&status, Code::NotFound, "SESSION_NOT_FOUND");
        assert_eq!(metadata["session_id"], "a");
    }
    service.stop().await;
}

#[tokio::test]
async fn an_unknown_turn_is_not_found() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let status = service.attach("a", "nope", 0).await.expect_err("refused");
    let metadata = failure(&status, Code::NotFound, "TURN_NOT_FOUND");
    assert_eq!(metadata["session_id"], "a");
    assert_eq!(metadata["turn_id"], "nope");
    service.stop().await;
}

#[tokio::test]
async fn an_unknown_prompt_is_not_found_in_a_turn_and_out_of_one() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let idle = respond(&service, "a", "p").await;
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let busy = respond(&service, "a", "p").await;
    for status in [idle, busy] {
        let metadata = failure(&status, Code::NotFound, "PROMPT_NOT_FOUND");
        assert_eq!(metadata["session_id"], "a");
        assert_eq!(metadata["field"], "prompt_id");
    }
    service.interrupt("a", true).await;
    running.finish().await;
    service.stop().await;
}
