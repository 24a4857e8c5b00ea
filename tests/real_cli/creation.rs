//! Options of a new session, seen in what the API is asked and in what the CLI then does.

use serde_json::{Value, json};
use session_pool::proto::{SessionOptions, TurnOrigin, turn_event::Kind};

use crate::{
    bed::{Bed, Version, each_version, init, json, kinds, origin, system_prompt, tools},
    support::service::query_with,
};

each_version!(
    prompts_model_and_thinking,
    effort_and_betas,
    an_allowed_tool_does_not_ask,
    a_disallowed_tool_is_not_there,
    only_the_named_tools_exist,
    permission_modes,
    structured_output,
    rounds_are_bounded,
);

async fn prompts_model_and_thinking(version: Version) {
    let bed = Bed::start(version).await;
    let options = SessionOptions {
        system_prompt: Some("You are a lighthouse.".into()),
        append_system_prompt: Some("Blink twice.".into()),
        model: Some("claude-haiku-4-5".into()),
        max_thinking_tokens: Some(4321),
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("a", "hello", options.clone())).await;
    assert_eq!(origin(&turn), TurnOrigin::Created);
    assert!(init(&turn).model.starts_with("claude-haiku-4-5"), "{}", init(&turn).model);
    let request = bed.last_request(&turn.started().cli_session_id);
    let system = system_prompt(&request);
    assert!(system.contains("You are a lighthouse."), "{system}");
    assert!(system.contains("Blink twice."), "{system}");
    assert!(!system.contains("interactive"), "the CLI's own prompt is still there: {system}");
    let model = request.body["model"].as_str().expect("a model");
    assert!(model.starts_with("claude-haiku-4-5"), "{model}");
    assert_eq!(request.body["thinking"]["type"], "enabled");
    assert_eq!(request.body["thinking"]["budget_tokens"], 4321);

    let session = bed.service.session("a").await.expect("a session");
    // With the mode that the CLI says it is in.
    let in_force = SessionOptions { permission_mode: Some("default".into()), ..options };
    assert_eq!(session.options, Some(in_force));
    bed.stop().await;
}

async fn effort_and_betas(version: Version) {
    let bed = Bed::start(version).await;
    let options = SessionOptions {
        effort: Some("low".into()),
        betas: vec!["context-1m-2025-08-07".into()],
        ..SessionOptions::default()
    };
    let turn = bed.run(query_with("a", "hello", options)).await;
    let request = bed.last_request(&turn.started().cli_session_id);
    assert_eq!(request.body["output_config"]["effort"], "low");
    let betas = request.header("anthropic-beta").unwrap_or_default();
    assert!(betas.contains("context-1m-2025-08-07"), "{betas}");
    bed.stop().await;
}

async fn an_allowed_tool_does_not_ask(version: Version) {
    let bed = Bed::start(version).await;
    let options = SessionOptions {
        // 2.1.110 asks before `touch` all the same, as before other commands that it knows
        // to write files.
        allowed_tools: vec!["Write".into(), "Bash(install:*)".into()],
        ..SessionOptions::default()
    };
    let prompt = "[[write made.txt by hand]] [[bash install /dev/null installed.txt]]";
    let turn = bed.run(query_with("a", prompt, options)).await;
    assert!(!kinds(&turn).any(|kind| matches!(kind, Kind::Prompt(_))), "it asked");
    assert!(!turn.result().is_error);
    assert!(turn.result().permission_denials.is_empty());
    let folder = std::path::PathBuf::from(&init(&turn).cwd);
    let written = std::fs::read_to_string(folder.join("made.txt")).expect("written");
    assert_eq!(written, "by hand");
    assert!(folder.join("installed.txt").is_file());
    bed.stop().await;
}

async fn a_disallowed_tool_is_not_there(version: Version) {
    let bed = Bed::start(version).await;
    let options =
        SessionOptions { disallowed_tools: vec!["Write".into()], ..SessionOptions::default() };
    let turn = bed.run(query_with("a", "hello", options)).await;
    let request = bed.last_request(&turn.started().cli_session_id);
    let tools = tools(&request);
    assert!(tools.contains(&"Bash") && !tools.contains(&"Write"), "{tools:?}");
    assert!(!init(&turn).tools.contains(&"Write".to_owned()));
    bed.stop().await;
}

async fn only_the_named_tools_exist(version: Version) {
    let bed = Bed::start(version).await;
    let options = |tools: &[&str]| SessionOptions {
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        ..SessionOptions::default()
    };
    let two = bed.run(query_with("two", "hello", options(&["Read", "Bash"]))).await;
    let request = bed.last_request(&two.started().cli_session_id);
    let mut found = tools(&request);
    // 2.1.330 adds one that stands for those that it may load later.
    found.retain(|tool| *tool != "DeferredToolPlaceholder");
    found.sort_unstable();
    assert_eq!(found, ["Bash", "Read"]);
    assert_eq!(init(&two).tools.len(), 2, "{:?}", init(&two).tools);

    let none = bed.run(query_with("none", "hello", options(&[""]))).await;
    let request = bed.last_request(&none.started().cli_session_id);
    assert_eq!(tools(&request), [""; 0]);
    assert_eq!(init(&none).tools, [""; 0]);
    bed.stop().await;
}

async fn permission_modes(version: Version) {
    let bed = Bed::start(version).await;
    let options = |mode: &str| SessionOptions {
        permission_mode: Some(mode.into()),
        ..SessionOptions::default()
    };
    let plan = bed.run(query_with("plan", "hello", options("plan"))).await;
    assert_eq!(init(&plan).permission_mode, "plan");

    // What would have to be asked for is refused.
    let silent = bed.run(query_with("silent", "[[write a.txt x]]", options("dontAsk"))).await;
    assert_eq!(init(&silent).permission_mode, "dontAsk");
    assert!(!kinds(&silent).any(|kind| matches!(kind, Kind::Prompt(_))), "it asked");
    let denials = &silent.result().permission_denials;
    assert_eq!(denials.len(), 1);
    assert_eq!(denials[0].tool_name, "Write");
    assert_eq!(json(&denials[0].tool_input_json)["content"], "x");
    assert!(!std::path::Path::new(&init(&silent).cwd).join("a.txt").exists());

    let edits = bed.run(query_with("edits", "[[write a.txt x]]", options("acceptEdits"))).await;
    assert_eq!(init(&edits).permission_mode, "acceptEdits");
    assert!(std::path::Path::new(&init(&edits).cwd).join("a.txt").is_file());
    bed.stop().await;
}

async fn structured_output(version: Version) {
    let bed = Bed::start(version).await;
    let schema = json!({
        "type": "object",
        "properties": {"count": {"type": "integer"}, "kind": {"enum": ["tall", "small"]}},
        "required": ["count", "kind"],
    });
    let options =
        SessionOptions { json_schema: Some(schema.to_string()), ..SessionOptions::default() };
    let turn = bed.run(query_with("a", "hello", options)).await;
    let output: Value = json(&turn.result().structured_output_json);
    assert_eq!(output, json!({"count": 0, "kind": "tall"}));
    bed.stop().await;
}

async fn rounds_are_bounded(version: Version) {
    let bed = Bed::start(version).await;
    let options = SessionOptions { max_turns: Some(2), ..SessionOptions::default() };
    let prompt = "[[bash echo 1]] [[bash echo 2]] [[bash echo 3]]";
    let turn = bed.run(query_with("a", prompt, options)).await;
    let result = turn.result();
    assert_eq!(result.subtype, "error_max_turns");
    assert!(result.is_error && !result.interrupted, "{result:?}");
    assert_eq!(bed.api.requests_of(&turn.started().cli_session_id).len(), 2);
    // The bound is one of a turn, not of the session.
    let next = bed.query("a", "hello").await;
    assert!(!next.result().is_error, "{:?}", next.result());
    bed.stop().await;
}
