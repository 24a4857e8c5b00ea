//! Options of a living session: some change on the running process, others need another.

use session_pool::proto::{OptionsMismatchPolicy, QueryRequest, SessionOptions, TurnOrigin};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, init, origin, system_prompt, tools},
    support::{failure, service::query_with},
};

each_version!(
    a_query_changes_model_and_mode,
    an_update_changes_model_and_mode,
    a_restart_takes_tools_away,
    another_system_prompt_needs_another_process,
);

fn model_and_mode(model: &str, mode: &str) -> SessionOptions {
    SessionOptions {
        model: Some(model.into()),
        permission_mode: Some(mode.into()),
        ..SessionOptions::default()
    }
}

async fn a_query_changes_model_and_mode(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    assert_eq!(init(&first).permission_mode, "default");
    let options = SessionOptions {
        effort: Some("low".into()),
        ..model_and_mode("claude-sonnet-4-6", "acceptEdits")
    };
    let second = bed.run(query_with("a", "two", options.clone())).await;
    assert_eq!(origin(&second), TurnOrigin::Reused);
    assert_eq!(second.started().client_id, first.started().client_id);
    assert_eq!(init(&second).permission_mode, "acceptEdits");
    assert_eq!(init(&second).model, "claude-sonnet-4-6");
    let request = bed.last_request(&second.started().cli_session_id);
    assert_eq!(request.body["model"], "claude-sonnet-4-6");
    assert_eq!(request.body["output_config"]["effort"], "low");
    assert!(second.text().contains("\"one\""), "{}", second.text());

    // They stay, and outlive the process.
    bed.kill_after(&second).await;
    let third = bed.query("a", "three").await;
    assert_eq!(origin(&third), TurnOrigin::Resumed);
    assert_eq!(init(&third).permission_mode, "acceptEdits");
    let request = bed.last_request(&third.started().cli_session_id);
    assert_eq!(request.body["model"], "claude-sonnet-4-6");
    assert_eq!(request.body["output_config"]["effort"], "low");
    let session = bed.service.session("a").await.expect("a session");
    assert_eq!(session.options, Some(options));
    bed.stop().await;
}

async fn an_update_changes_model_and_mode(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    // No version begins with this model.
    let options = model_and_mode("claude-haiku-4-5", "plan");
    let mut updated = bed.update("a", options.clone()).await.expect("updated");
    updated.changed_options.sort_unstable();
    assert_eq!(updated.changed_options, ["model", "permission_mode"]);
    assert_eq!(updated.session.and_then(|session| session.options), Some(options.clone()));
    let second = bed.query("a", "two").await;
    assert_eq!(second.started().client_id, first.started().client_id);
    assert_eq!(init(&second).permission_mode, "plan");
    let request = bed.last_request(&second.started().cli_session_id);
    let model = request.body["model"].as_str().expect("a model");
    assert!(model.starts_with("claude-haiku-4-5"), "{model}");

    let again = bed.update("a", options).await.expect("nothing to do");
    assert_eq!(again.changed_options, [""; 0]);
    let bypass = SessionOptions {
        permission_mode: Some("bypassPermissions".into()),
        ..SessionOptions::default()
    };
    let denied = bed.update("a", bypass).await.expect_err("never");
    failure(&denied, Code::PermissionDenied, "POLICY_DENIED");
    bed.stop().await;
}

async fn another_system_prompt_needs_another_process(version: Version) {
    let bed = Bed::start(version).await;
    let options = |text: &str| SessionOptions {
        system_prompt: Some(text.into()),
        ..SessionOptions::default()
    };
    let first = bed.run(query_with("a", "one", options("You are a fox."))).await;
    let refused = bed.run(query_with("a", "two", options("You are an owl."))).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata.get("options").map(String::as_str), Some("system_prompt"));

    let restart = QueryRequest {
        on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
        ..query_with("a", "three", options("You are an owl."))
    };
    let third = bed.run(restart).await;
    assert_eq!(origin(&third), TurnOrigin::Resumed);
    assert_ne!(third.started().client_id, first.started().client_id);
    assert_eq!(third.started().cli_session_id, first.started().cli_session_id);
    let answer = "You said: \"three\". Earlier in this conversation you said: \"one\".";
    assert_eq!(third.text(), answer);
    let system = system_prompt(&bed.last_request(&third.started().cli_session_id));
    assert!(system.contains("You are an owl.") && !system.contains("fox"), "{system}");
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn a_restart_takes_tools_away(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "one").await;
    assert!(tools(&bed.last_request(&first.started().cli_session_id)).contains(&"Write"));
    let options = SessionOptions { tools: vec!["Bash".into()], ..SessionOptions::default() };
    let restart = QueryRequest {
        on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
        ..query_with("a", "two", options)
    };
    let second = bed.run(restart).await;
    assert!(second.text().contains("\"one\""), "{}", second.text());
    assert_eq!(init(&second).tools, ["Bash"]);
    let request = bed.last_request(&second.started().cli_session_id);
    let found = tools(&request);
    assert!(found.contains(&"Bash") && !found.contains(&"Write"), "{found:?}");
    bed.stop().await;
}
