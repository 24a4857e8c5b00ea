//! Respond: what the CLI asks in a turn, and what becomes of the answers.

use std::time::{Duration, SystemTime};

use session_pool::proto::{
    PromptAllow, PromptDecision, PromptDeny, PromptEvent, PromptKind, PromptResolved,
    PromptResolver, RespondRequest, respond_request::Decision, turn_event::Kind,
};
use tonic::{Code, Status};

use crate::support::{
    failure,
    service::{Service, query, script},
    turn::Turn,
};

async fn asking(service: &Service) -> (Turn, PromptEvent) {
    let prompt = script(&[r#"ask Bash {"command":"make","n":1.50}"#, "say after"]);
    let mut turn = service.open(query("a", &prompt)).await.expect("taken");
    let event = turn.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    let Some(Kind::Prompt(prompt)) = event.kind else { unreachable!("just seen") };
    (turn, prompt)
}

async fn respond(
    service: &Service,
    prompt: &PromptEvent,
    decision: Decision,
) -> Result<(), Status> {
    let request = RespondRequest {
        session_id: "a".into(),
        prompt_id: prompt.prompt_id.clone(),
        decision: Some(decision),
    };
    // From a connection of its own: whoever answers need not be who asked.
    service.another_client().await.respond(request).await.map(drop)
}

#[tokio::test]
async fn an_allowed_tool_runs_with_the_input_it_asked_with() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    assert_eq!(prompt.kind(), PromptKind::ToolPermission);
    assert_eq!(prompt.tool_name, "Bash");
    assert!(prompt.input_json.contains(r#""command":"make""#), "{}", prompt.input_json);
    assert!(prompt.suggestions_json.starts_with('['), "{}", prompt.suggestions_json);
    assert!(!prompt.tool_use_id.is_empty() && !prompt.description.is_empty());
    respond(&service, &prompt, Decision::Allow(PromptAllow::default())).await.expect("taken");
    turn.finish().await;
    assert_eq!(turn.result().result, "after");
    assert!(turn.result().permission_denials.is_empty());
    let result = turn.tool_result();
    assert_eq!(result.tool_use_id, prompt.tool_use_id);
    assert!(!result.is_error && result.text.contains(r#""command":"make""#), "{}", result.text);
    service.stop().await;
}

#[tokio::test]
async fn an_allowed_tool_may_run_with_another_input() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    let allow = PromptAllow {
        updated_input_json: r#"{"command":"make check"}"#.into(),
        updated_permissions_json: r#"[{"type":"setMode","mode":"plan","destination":"session"}]"#
            .into(),
    };
    respond(&service, &prompt, Decision::Allow(allow)).await.expect("taken");
    turn.finish().await;
    assert_eq!(turn.tool_result().text, r#"Bash ran with {"command":"make check"}"#);
    service.stop().await;
}

#[tokio::test]
async fn a_denied_tool_does_not_run_and_the_turn_goes_on() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    let deny = PromptDeny { message: "not today".into(), interrupt: false };
    respond(&service, &prompt, Decision::Deny(deny)).await.expect("taken");
    turn.finish().await;
    let result = turn.tool_result();
    assert!(result.is_error && result.text.contains("not today"), "{result:?}");
    assert_eq!(turn.result().result, "after");
    let denials = &turn.result().permission_denials;
    assert_eq!((denials.len(), denials[0].tool_name.as_str()), (1, "Bash"));
    service.stop().await;
}

#[tokio::test]
async fn a_denial_may_end_the_turn() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    let deny = PromptDeny { message: String::new(), interrupt: true };
    respond(&service, &prompt, Decision::Deny(deny)).await.expect("taken");
    turn.finish().await;
    assert!(turn.result().is_error);
    assert!(!turn.text().contains("after"), "{}", turn.text());
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_is_answered_once() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    let json = r#"{"behavior":"allow","updatedInput":{"command":"raw"}}"#;
    respond(&service, &prompt, Decision::ResponseJson(json.into())).await.expect("taken");
    let again = respond(&service, &prompt, Decision::Allow(PromptAllow::default())).await;
    failure(&again.expect_err("answered already"), Code::NotFound, "PROMPT_NOT_FOUND");
    turn.finish().await;
    assert_eq!(turn.tool_result().text, r#"Bash ran with {"command":"raw"}"#);
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_that_an_interrupt_cancelled_cannot_be_answered() {
    let service = Service::start(|_| {}).await;
    let (mut turn, prompt) = asking(&service).await;
    assert!(service.interrupt("a", true).await.interrupted);
    let late = respond(&service, &prompt, Decision::Allow(PromptAllow::default())).await;
    let metadata = failure(&late.expect_err("too late"), Code::NotFound, "PROMPT_NOT_FOUND");
    assert_eq!(metadata["session_id"], "a");
    turn.finish().await;
    assert!(turn.result().interrupted);
    service.stop().await;
}

/// How the prompts of a turn were resolved, in order.
fn resolved(turn: &Turn) -> Vec<PromptResolved> {
    let kinds = turn.events.iter().filter_map(|event| event.kind.as_ref());
    let resolved = kinds.filter_map(|kind| match kind {
        Kind::PromptResolved(resolved) => Some(resolved.clone()),
        _ => None,
    });
    resolved.collect()
}

#[tokio::test]
async fn everybody_who_follows_a_turn_sees_who_answered_what() {
    let service = Service::start(|_| {}).await;
    let allow = Decision::Allow(PromptAllow::default());
    let deny = Decision::Deny(PromptDeny { message: "not today".into(), interrupt: false });
    let json = Decision::ResponseJson(r#"{"behavior":"allow","updatedInput":{}}"#.into());
    for (decision, said, message) in [
        (allow, PromptDecision::Allowed, ""),
        (deny, PromptDecision::Denied, "not today"),
        (json, PromptDecision::Answered, ""),
    ] {
        let (mut turn, prompt) = asking(&service).await;
        let mut other = service.attach("a", "", 0).await.expect("joined");
        respond(&service, &prompt, decision).await.expect("taken");
        for turn in [&mut turn, &mut other] {
            turn.finish().await;
            let resolved = resolved(turn);
            assert_eq!(resolved.len(), 1, "{resolved:?}");
            let PromptResolved { prompt_id, message: told, .. } = &resolved[0];
            assert_eq!((prompt_id, told.as_str()), (&prompt.prompt_id, message));
            assert_eq!(resolved[0].by(), PromptResolver::Caller);
            assert_eq!(resolved[0].decision(), said);
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_that_an_interrupt_cancelled_is_resolved_by_the_end_of_its_turn() {
    let service = Service::start(|_| {}).await;
    let (mut turn, _) = asking(&service).await;
    assert!(service.interrupt("a", true).await.interrupted);
    turn.finish().await;
    let resolved = resolved(&turn);
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    assert_eq!(resolved[0].by(), PromptResolver::TurnEnded);
    assert_eq!(resolved[0].decision(), PromptDecision::Unspecified);
    service.stop().await;
}

#[tokio::test]
async fn a_prompt_that_nobody_answers_in_time_is_refused_and_the_turn_goes_on() {
    let limit = Duration::from_millis(300);
    let service = Service::start(|config| config.policy.prompt_timeout = limit).await;
    let asked_at = SystemTime::now();
    let (mut turn, prompt) = asking(&service).await;
    let expires = SystemTime::try_from(prompt.expire_time.expect("a time")).expect("a time");
    assert!(expires >= asked_at + limit - Duration::from_millis(1), "{expires:?}");
    turn.finish().await;
    assert_eq!(turn.result().result, "after");
    let result = turn.tool_result();
    assert!(result.is_error && result.text.contains("policy.prompt_timeout"), "{result:?}");
    let resolved = resolved(&turn);
    assert_eq!((resolved.len(), resolved[0].by()), (1, PromptResolver::Timeout), "{resolved:?}");
    assert_eq!(resolved[0].decision(), PromptDecision::Denied);
    let late = respond(&service, &prompt, Decision::Allow(PromptAllow::default())).await;
    failure(&late.expect_err("too late"), Code::NotFound, "PROMPT_NOT_FOUND");
    service.stop().await;
}
