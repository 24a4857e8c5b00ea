//! Answers to permission prompts: they reach no further than the session and its modes.

use session_pool::proto::{PromptAllow, RespondRequest, respond_request::Decision};
use tonic::{Code, Status};

use crate::support::{failure, fields, service::Service};

async fn respond(service: &Service, decision: Decision) -> Status {
    let request =
        RespondRequest { session_id: "a".into(), prompt_id: "p".into(), decision: Some(decision) };
    service.client.clone().respond(request).await.expect_err("refused")
}

#[tokio::test]
async fn permission_updates_are_held_to_the_policy() {
    let service = Service::start(|_| {}).await;
    for (update, place) in [
        (r#"{"type":"setMode","mode":"bypassPermissions","destination":"session"}"#, "mode"),
        (r#"{"type":"addRules","rules":[],"destination":"userSettings"}"#, "destination"),
        (r#"{"type":"addRules","rules":[],"destination":"projectSettings"}"#, "destination"),
        (r#"{"type":"addDirectories","directories":["/"],"destination":"session"}"#, "directories"),
        (r#"{"type":"surprise","destination":"session"}"#, "type"),
    ] {
        let allow = PromptAllow {
            updated_permissions_json: format!("[{update}]"),
            ..PromptAllow::default()
        };
        let status = respond(&service, Decision::Allow(allow)).await;
        let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], format!("allow.updated_permissions_json[0].{place}"));
        let raw = format!(r#"{{"behavior":"allow","updatedPermissions":[{update}]}}"#);
        let status = respond(&service, Decision::ResponseJson(raw)).await;
        let metadata = failure(&status, Code::PermissionDenied, "POLICY_DENIED");
        assert_eq!(metadata["field"], format!("response_json.updatedPermissions[0].{place}"));
    }
    // What is allowed gets as far as looking for the prompt.
    let update = r#"[{"type":"setMode","mode":"acceptEdits","destination":"session"}]"#;
    let allow = PromptAllow { updated_permissions_json: update.into(), ..PromptAllow::default() };
    failure(&respond(&service, Decision::Allow(allow)).await, Code::NotFound, "SESSION_NOT_FOUND");
    service.stop().await;
}

#[tokio::test]
async fn e3_an_update_that_the_cli_would_leave_out_is_refused() {
    let service = Service::start(|_| {}).await;
    for (update, place) in [
        (r#"{"type":"setMode","mode":"plan"}"#, "destination"),
        (r#"{"type":"setMode","destination":"session"}"#, "mode"),
        (r#"{"type":"addRules","rules":[],"destination":"session"}"#, "behavior"),
        (
            r#"{"type":"addRules","behavior":"deny","rules":["Write"],"destination":"session"}"#,
            "rules",
        ),
        (r#"{"type":"addDirectories","destination":"session"}"#, "directories"),
    ] {
        let allow = PromptAllow {
            updated_permissions_json: format!("[{update}]"),
            ..PromptAllow::default()
        };
        let status = respond(&service, Decision::Allow(allow)).await;
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&status), [format!("allow.updated_permissions_json[0].{place}")]);
        let raw = format!(r#"{{"behavior":"allow","updatedPermissions":[{update}]}}"#);
        let status = respond(&service, Decision::ResponseJson(raw)).await;
        failure(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&status), [format!("response_json.updatedPermissions[0].{place}")]);
    }
    service.stop().await;
}
