//! Options that can be taken away again: a session is then as if they had never been said.

use std::{fs, time::Duration};

use session_pool::{
    internals::domain::options::Options,
    proto::{OptionsMismatchPolicy, QueryRequest, SessionOptions, SessionStatus, TurnOrigin},
};
use tempfile::TempDir;
use tonic::Code;

use crate::support::{
    eventually, failure,
    service::{Service, fake_cli, model, query, query_with, script},
};

fn reset(names: &[&str]) -> SessionOptions {
    let reset = names.iter().map(ToString::to_string).collect();
    SessionOptions { reset_options: reset, ..SessionOptions::default() }
}

async fn options(service: &Service, session: &str) -> SessionOptions {
    service.session(session).await.expect("there").options.expect("options")
}

fn restart(request: QueryRequest) -> QueryRequest {
    QueryRequest { on_options_mismatch: OptionsMismatchPolicy::Restart.into(), ..request }
}

#[tokio::test]
async fn d6_options_can_be_taken_away_again() {
    let service = Service::start(|_| {}).await;
    let told = script(&["argv", "initialize-payload"]);
    let begun = SessionOptions {
        system_prompt: Some("Be brief.".into()),
        allowed_tools: vec!["Bash".into()],
        max_turns: Some(5),
        ..model("opus")
    };
    let first = service.run(query_with("a", &told, begun.clone())).await;
    let words = ["Be brief.", "--allowedTools=Bash", "--max-turns=5", "--model=opus"];
    assert!(words.iter().all(|words| first.text().contains(words)), "{}", first.text());

    let names = ["system_prompt", "allowed_tools", "max_turns", "betas"];
    let request = query_with("a", &told, reset(&names));
    let refused = service.run(request.clone()).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "system_prompt,allowed_tools,max_turns", "no betas were said");
    let refused = service.update("a", reset(&names)).await.expect_err("refused");
    failure(&refused, Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(options(&service, "a").await.max_turns, Some(5), "nothing took effect");

    let second = service.run(restart(request.clone())).await;
    assert_eq!(second.started().origin(), TurnOrigin::Resumed);
    assert_ne!(second.started().client_id, first.started().client_id);
    assert!(second.text().contains("--model=opus"), "{}", second.text());
    assert!(!words[..3].iter().any(|words| second.text().contains(words)), "{}", second.text());
    let left = options(&service, "a").await;
    assert_eq!(SessionOptions { permission_mode: None, ..left }, model("opus"));

    // There is nothing more to take away, and all can be said again.
    let third = service.run(request).await;
    assert_eq!(third.started().client_id, second.started().client_id);
    let again = service.run(restart(query_with("a", &told, begun))).await;
    assert!(words.iter().all(|words| again.text().contains(words)), "{}", again.text());
    service.stop().await;
}

#[tokio::test]
async fn d6_without_a_process_every_option_can_be_taken_away() {
    let service =
        Service::start(|config| config.pool.hibernate_after = Duration::from_millis(50)).await;
    let fresh = service.query("fresh", &script(&["argv"])).await.text();
    let said = SessionOptions {
        fallback_model: Some("sonnet".into()),
        append_system_prompt: Some("Be polite.".into()),
        permission_mode: Some("plan".into()),
        disallowed_tools: vec!["Write".into()],
        max_thinking_tokens: Some(7),
        effort: Some("low".into()),
        betas: vec!["b".into()],
        ..model("opus")
    };
    service.run(query_with("a", "one", said)).await.result();
    eventually("hibernation", async || {
        let session = service.session("a").await.expect("there");
        (session.status() == SessionStatus::Hibernated).then_some(())
    })
    .await;
    let all: Vec<_> = Options::names().collect();
    let updated = service.update("a", reset(&all)).await.expect("changed");
    let names = [
        "model",
        "fallback_model",
        "append_system_prompt",
        "permission_mode",
        "disallowed_tools",
        "max_thinking_tokens",
        "effort",
        "betas",
    ];
    assert_eq!(updated.changed_options, names);
    let shown = updated.session.expect("a session").options;
    assert_eq!(shown, Some(SessionOptions::default()));
    let again = service.update("a", reset(&all)).await.expect("taken");
    assert_eq!(again.changed_options, [""; 0]);

    // The next process has what a new session's has, whatever the conversation was in.
    let argv = service.query("a", &script(&["argv"])).await.text();
    let flags = |text: &str| -> Vec<String> {
        let flags: Vec<String> = serde_json::from_str(text).expect("arguments");
        let of_conversation = ["--session-id=", "--resume="];
        flags
            .into_iter()
            .filter(|flag| !of_conversation.iter().any(|f| flag.starts_with(f)))
            .collect()
    };
    let (mut found, wanted) = (flags(&argv), flags(&fresh));
    // A new conversation has no model that it could bring.
    found.retain(|flag| flag != "--model=default");
    assert_eq!(found, wanted);
    assert!(argv.contains("--model=default"), "{argv}");
    assert!(wanted.contains(&"--permission-mode=default".to_owned()), "{wanted:?}");
    service.stop().await;
}

#[tokio::test]
async fn d6_a_budget_is_taken_away_at_any_time() {
    let service = Service::start(|_| {}).await;
    let bounded = SessionOptions { max_budget_usd: Some(1e-9), ..SessionOptions::default() };
    service.run(query_with("a", "one", bounded)).await;
    let refused = service.query("a", "two").await;
    failure(refused.error(), Code::FailedPrecondition, "BUDGET_EXHAUSTED");
    let updated = service.update("a", reset(&["max_budget_usd"])).await.expect("changed");
    assert_eq!(updated.changed_options, ["max_budget_usd"]);
    let argv = service.query("a", &script(&["argv"])).await.text();
    assert!(!argv.contains("--max-budget-usd"), "{argv}");
    assert_eq!(options(&service, "a").await.max_budget_usd, None);
    service.stop().await;
}

#[tokio::test]
async fn d6_a_session_goes_back_to_its_own_folder_with_its_conversation() {
    let place = TempDir::new().expect("a folder");
    let folder = place.path().canonicalize().expect("a real path").display().to_string();
    let service = Service::start(|config| config.policy.cwd_roots = vec![folder.clone()]).await;
    let prompt = script(&["cwd", "say :", "recite"]);
    let elsewhere = SessionOptions { cwd: Some(folder.clone()), ..SessionOptions::default() };
    let first = service.run(query_with("a", &script(&["cwd"]), elsewhere)).await;
    assert_eq!(first.text(), folder);
    service.run(query("a", "my name is Ada")).await.result();
    let back = service.run(restart(query_with("a", &prompt, reset(&["cwd"])))).await;
    assert_eq!(back.started().origin(), TurnOrigin::Resumed);
    assert!(back.text().contains("my name is Ada"), "{}", back.text());
    let work = back.text().lines().next().map(str::to_owned).expect("a folder");
    assert!(
        fs::canonicalize(work)
            .expect("there")
            .starts_with(service.state.path().canonicalize().expect("there"))
    );
    service.stop().await;
}

#[tokio::test]
async fn d6_a_copy_does_not_begin_with_what_it_resets() {
    let service = Service::start(|_| {}).await;
    let plan = SessionOptions { permission_mode: Some("plan".into()), ..model("opus") };
    let original = service.run(query_with("a", "one", plan)).await;
    let fork = |names: &[&str]| SessionOptions {
        resume: Some(original.started().cli_session_id.clone()),
        fork_session: Some(true),
        ..reset(names)
    };
    let told = script(&["argv"]);
    let copy = service.run(query_with("copy", &told, fork(&[]))).await.text();
    assert!(copy.contains("--permission-mode=plan") && copy.contains("--model=opus"), "{copy}");
    let names = ["permission_mode", "model", "max_turns"];
    let copy = service.run(query_with("other", &told, fork(&names))).await.text();
    for flag in ["--permission-mode=default", "--model=default"] {
        assert!(copy.contains(flag), "{flag} is not in {copy}");
    }
    service.stop().await;
}

#[tokio::test]
async fn d6_options_that_the_policy_does_not_allow_any_more_can_be_taken_away() {
    let service = Service::start(|config| config.policy.env = vec!["APP".into()]).await;
    let wanted = SessionOptions {
        env: [("APP".to_owned(), "kept".to_owned())].into(),
        ..SessionOptions::default()
    };
    let prompt = script(&["env APP"]);
    assert_eq!(service.run(query_with("a", &prompt, wanted)).await.text(), "kept");
    let (_, state) = service.end().await;

    let service = Service::with(fake_cli(state.path()), state).await;
    let denied = service.query("a", &prompt).await;
    failure(denied.error(), Code::PermissionDenied, "POLICY_DENIED");
    let turn = service.run(query_with("a", &prompt, reset(&["env"]))).await;
    assert_eq!(turn.text(), "unset");
    assert_eq!(service.query("a", &prompt).await.text(), "unset");
    service.stop().await;
}
