//! Sessions that begin on a process that was started ahead: what they ask for is seen in
//! what the API is asked, and what was said is theirs.

use session_pool::{
    config::{Config, McpServers, SpareConfig},
    proto::{SessionOptions, TurnOrigin},
};

use crate::{
    bed::{Bed, Version, each_version, init, origin, system_prompt},
    support::{eventually, service::query_with},
};

each_version!(newest:
    a_spare_without_options_is_as_a_start_without_options,
    environment_agents_and_servers_are_bound,
    f1_partial_messages_need_no_class_of_spares,
    prompts_model_effort_and_mode_are_bound,
    the_conversation_outlives_the_spare,
);

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

async fn with_spare(version: Version, change: impl FnOnce(&mut Config)) -> Bed {
    let bed = Bed::with(version, |config| {
        config.pool.spares = 1;
        change(config);
    })
    .await;
    ready(&bed).await;
    bed
}

async fn ready(bed: &Bed) {
    eventually("a spare", async || (bed.service.stats().await.spares == 1).then_some(())).await;
}

async fn prompts_model_effort_and_mode_are_bound(version: Version) {
    let bed = with_spare(version, |_| {}).await;
    let options = SessionOptions {
        system_prompt: text("You are a lighthouse."),
        append_system_prompt: text("Blink twice."),
        // Every version knows that it takes an effort.
        model: text("claude-opus-4-6"),
        permission_mode: text("acceptEdits"),
        effort: text("low"),
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("a", "hello", options.clone())).await;
    assert_eq!(origin(&turn), TurnOrigin::CreatedFromSpare);
    assert_eq!(init(&turn).permission_mode, "acceptEdits");
    let request = bed.last_request(&turn.started().cli_session_id);
    let system = system_prompt(&request);
    assert!(system.contains("You are a lighthouse."), "{system}");
    assert!(system.contains("Blink twice."), "{system}");
    assert!(!system.contains("interactive"), "the CLI's own prompt is still there: {system}");
    assert_eq!(request.body["model"], "claude-opus-4-6");
    assert_eq!(request.body["output_config"]["effort"], "low");
    assert_eq!(bed.service.session("a").await.expect("there").options, Some(options));
    bed.stop().await;
}

async fn environment_agents_and_servers_are_bound(version: Version) {
    // Without the class the tool would ask.
    let bash = vec!["Bash".to_owned()];
    let class = SpareConfig { count: 1, allowed_tools: bash.clone(), ..SpareConfig::default() };
    let bed = Bed::with(version, |config| {
        config.spare = vec![class];
        config.policy.env = vec!["FLAVOUR".into()];
        config.policy.agents = true;
        config.policy.mcp_servers = McpServers::Remote;
    })
    .await;
    ready(&bed).await;
    let options = SessionOptions {
        env: [("FLAVOUR".to_owned(), "sweet".to_owned())].into(),
        agents: text(r#"{"supervisor":{"description":"Keeps the light.","prompt":"Keep it."}}"#),
        mcp_servers: text(r#"{"mcpServers":{"far":{"type":"http","url":"http://127.0.0.1:9/"}}}"#),
        allowed_tools: bash,
        max_thinking_tokens: Some(4321),
        model: text("claude-haiku-4-5"),
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("a", "[[bash echo flavour is $FLAVOUR]]", options)).await;
    assert_eq!(origin(&turn), TurnOrigin::CreatedFromSpare);
    assert!(turn.result().result.contains("flavour is sweet"), "{:?}", turn.result());
    let said = init(&turn);
    assert!(said.agents.iter().any(|agent| agent == "supervisor"), "{said:?}");
    assert!(said.mcp_servers.iter().any(|server| server.name == "far"), "{said:?}");
    let request = bed.last_request(&turn.started().cli_session_id);
    assert_eq!(request.body["thinking"]["budget_tokens"], 4321);
    bed.stop().await;
}

async fn a_spare_without_options_is_as_a_start_without_options(version: Version) {
    let bed = with_spare(version, |_| {}).await;
    let spare = bed.query("a", "hello").await;
    assert_eq!(origin(&spare), TurnOrigin::CreatedFromSpare);
    let options = SessionOptions { max_turns: Some(100), ..SessionOptions::default() };
    let cold = bed.run(query_with("b", "hello", options)).await;
    assert_eq!(origin(&cold), TurnOrigin::Created);
    assert_eq!(spare.text(), cold.text());
    let request =
        |turn| bed.last_request(&crate::support::turn::Turn::started(turn).cli_session_id);
    let (of_spare, of_cold) = (request(&spare), request(&cold));
    for key in ["model", "tools", "thinking", "output_config", "max_tokens"] {
        assert_eq!(of_spare.body[key], of_cold.body[key], "{key}");
    }
    bed.stop().await;
}

async fn the_conversation_outlives_the_spare(version: Version) {
    let bed = with_spare(version, |_| {}).await;
    let options = SessionOptions {
        system_prompt: text("You are a lighthouse."),
        ..SessionOptions::default()
    };
    let first = bed.run(query_with("a", "one", options)).await;
    assert_eq!(origin(&first), TurnOrigin::CreatedFromSpare);
    bed.kill_after(&first).await;
    let second = bed.query("a", "two").await;
    assert_eq!(origin(&second), TurnOrigin::Resumed);
    assert_eq!(init(&second).cwd, init(&first).cwd);
    assert_eq!(second.started().cli_session_id, first.started().cli_session_id);
    let memory = "Earlier in this conversation you said: \"one\".";
    assert_eq!(second.text(), format!("You said: \"two\". {memory}"));
    let system = system_prompt(&bed.last_request(&second.started().cli_session_id));
    assert!(system.contains("You are a lighthouse."), "{system}");
    bed.stop().await;
}

async fn f1_partial_messages_need_no_class_of_spares(version: Version) {
    let bed = Bed::with(version, |config| config.pool.spares = 1).await;
    ready(&bed).await;
    let options =
        SessionOptions { include_partial_messages: Some(true), ..SessionOptions::default() };
    let turn = bed.run(query_with("a", "hello", options)).await;
    assert_eq!(origin(&turn), TurnOrigin::CreatedFromSpare);
    let pieces = crate::bed::kinds(&turn)
        .filter(|kind| matches!(kind, session_pool::proto::turn_event::Kind::StreamEvent(_)));
    assert!(pieces.count() > 3);
    bed.stop().await;
}
