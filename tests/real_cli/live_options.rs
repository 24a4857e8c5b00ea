//! Options of a living session: some change on the running process, others need another.

use session_pool::proto::{
    OptionsMismatchPolicy, QueryRequest, SessionOptions, TurnOrigin, turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, init, origin, system_prompt, tools},
    support::{failure, service::query_with, turn::Turn},
};

each_version!(
    a_query_changes_model_and_mode,
    an_update_changes_model_and_mode,
    a_restart_takes_tools_away,
    another_system_prompt_needs_another_process,
    d6_what_is_reset_is_not_in_the_next_process,
    d6_a_reset_model_is_the_one_that_a_process_begins_with,
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

fn reset(names: &[&str]) -> SessionOptions {
    SessionOptions {
        reset_options: names.iter().map(ToString::to_string).collect(),
        ..SessionOptions::default()
    }
}

async fn d6_what_is_reset_is_not_in_the_next_process(version: Version) {
    let bed = Bed::start(version).await;
    let plain = bed.query("plain", "one").await;
    let options = SessionOptions {
        system_prompt: Some("You are a fox.".into()),
        append_system_prompt: Some("You like grapes.".into()),
        allowed_tools: vec!["Write".into()],
        tools: vec!["Write".into()],
        max_turns: Some(1),
        max_thinking_tokens: Some(4321),
        effort: Some("low".into()),
        permission_mode: Some("plan".into()),
        ..SessionOptions::default()
    };
    let first = bed.run(query_with("a", "one", options)).await;
    assert_eq!(init(&first).permission_mode, "plan");
    let names = [
        "system_prompt",
        "append_system_prompt",
        "permission_mode",
        "allowed_tools",
        "tools",
        "max_turns",
        "max_thinking_tokens",
        "effort",
    ];
    let request = |on_mismatch: OptionsMismatchPolicy, prompt: &str| QueryRequest {
        on_options_mismatch: on_mismatch.into(),
        ..query_with("a", prompt, reset(&names))
    };
    let refused = bed.run(request(OptionsMismatchPolicy::Fail, "two")).await;
    let metadata = failure(refused.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], names.join(","));

    // Two rounds with the model, and a tool that is there again but has to ask.
    let prompt = "[[bash pwd]] [[write a.txt x]]";
    let mut third = bed.open(request(OptionsMismatchPolicy::Restart, prompt)).await;
    third.until(|kind| matches!(kind, Kind::Prompt(_))).await;
    bed.service.interrupt("a", true).await;
    assert_eq!(origin(&third), TurnOrigin::Resumed);
    assert_eq!(third.started().cli_session_id, first.started().cli_session_id);
    assert_eq!(init(&third).permission_mode, "default");
    let (found, wanted) = (
        bed.last_request(&third.started().cli_session_id),
        bed.last_request(&plain.started().cli_session_id),
    );
    let system = system_prompt(&found);
    assert!(!system.contains("fox") && !system.contains("grapes"), "{system}");
    assert_eq!(tools(&found), tools(&wanted));
    assert_eq!(found.body["output_config"], wanted.body["output_config"]);
    assert_eq!(found.body["thinking"], wanted.body["thinking"]);
    let options = bed.service.session("a").await.expect("there").options.expect("options");
    let left = SessionOptions {
        permission_mode: Some("default".into()),
        model: options.model.clone(),
        ..SessionOptions::default()
    };
    assert_eq!(options, left, "only what the CLI says of itself");
    bed.stop().await;
}

/// A conversation that is taken up brings its model along, where nothing else says one.
async fn d6_a_reset_model_is_the_one_that_a_process_begins_with(version: Version) {
    let bed = Bed::with(version, |config| {
        config.policy.settings = true;
        config.policy.env = vec!["ANTHROPIC_MODEL".into()];
    })
    .await;
    let settings = SessionOptions {
        settings: Some(r#"{"model":"claude-haiku-4-5"}"#.into()),
        ..SessionOptions::default()
    };
    let env = SessionOptions {
        env: [("ANTHROPIC_MODEL".to_owned(), "claude-haiku-4-5".to_owned())].into(),
        ..SessionOptions::default()
    };
    for (name, others) in
        [("plain", SessionOptions::default()), ("settings", settings), ("env", env)]
    {
        let model_of =
            |turn: &Turn| bed.last_request(&turn.started().cli_session_id).body["model"].clone();
        let fresh = bed.run(query_with(&format!("{name}-fresh"), "one", others.clone())).await;
        let chosen = SessionOptions { model: Some("claude-sonnet-4-5".into()), ..others };
        let first = bed.run(query_with(name, "one", chosen)).await;
        assert_ne!(model_of(&first), model_of(&fresh), "{name}");
        let refused = bed.update(name, reset(&["model"])).await.expect_err("it has a process");
        failure(&refused, Code::FailedPrecondition, "OPTIONS_MISMATCH");

        bed.kill_after(&first).await;
        let updated = bed.update(name, reset(&["model"])).await.expect("updated");
        assert_eq!(updated.changed_options, ["model"]);
        assert_eq!(updated.session.expect("there").options.expect("options").model, None);
        let second = bed.query(name, "two").await;
        assert_eq!(second.started().cli_session_id, first.started().cli_session_id);
        assert_eq!(model_of(&second), model_of(&fresh), "{name}");
        assert_eq!(init(&second).model, init(&fresh).model, "{name}");
        // What it chose by itself is no option: there is nothing more to take away.
        let again = bed.run(query_with(name, "three", reset(&["model"]))).await;
        assert_eq!(again.started().client_id, second.started().client_id, "{name}");
    }
    bed.stop().await;
}
