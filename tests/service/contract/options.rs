//! Options of a living session: changed live, refused, or taken on by another process.

use session_pool::proto::{
    OptionsMismatchPolicy, QueryRequest, SessionOptions, SystemInit, TurnOrigin, turn_event::Kind,
};
use tonic::{Code, Status};

use crate::support::{
    failure,
    service::{Service, model, query, query_with, script},
    turn::Turn,
};

fn mode(name: &str) -> SessionOptions {
    SessionOptions { permission_mode: Some(name.into()), ..SessionOptions::default() }
}

#[track_caller]
fn init(turn: &Turn) -> &SystemInit {
    let init = turn.events.iter().find_map(|event| match event.kind.as_ref()? {
        Kind::System(system) => system.init.as_ref(),
        _ => None,
    });
    init.expect("an init")
}

#[tokio::test]
async fn model_and_permission_mode_change_on_the_running_process() {
    let service = Service::start(|_| {}).await;
    let first = service.run(query_with("a", "one", model("sonnet"))).await;
    assert_eq!(init(&first).model, "sonnet");

    let both = SessionOptions { permission_mode: Some("plan".into()), ..model("opus") };
    let updated = service.update("a", both).await.expect("changed");
    assert_eq!(updated.changed_options, ["model", "permission_mode"]);
    let options = updated.session.expect("a session").options.expect("options");
    assert_eq!((options.model(), options.permission_mode()), ("opus", "plan"));

    let second = service.query("a", "two").await;
    assert_eq!(
        (init(&second).model.as_str(), init(&second).permission_mode.as_str()),
        ("opus", "plan")
    );
    assert_eq!(second.text(), "echo: two");
    assert_eq!(second.started().client_id, first.started().client_id);

    // What is as it was does not change.
    let same = service.update("a", model("opus")).await.expect("taken");
    assert!(same.changed_options.is_empty(), "{same:?}");
    let nothing = service.update("a", SessionOptions::default()).await.expect("taken");
    assert!(nothing.changed_options.is_empty(), "{nothing:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_query_changes_them_before_its_turn() {
    let service = Service::start(|_| {}).await;
    let first = service.run(query_with("a", "one", model("sonnet"))).await;
    let second = service.run(query_with("a", "two", model("opus"))).await;
    assert_eq!(init(&second).model, "opus");
    assert_eq!(second.started().client_id, first.started().client_id);
    // Unset means as it is.
    assert_eq!(init(&service.query("a", "three").await).model, "opus");
    service.stop().await;
}

#[tokio::test]
async fn a_change_outlives_the_process() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    service
        .update("a", SessionOptions { max_turns: None, ..model("opus") })
        .await
        .expect("changed");
    service.interrupt("a", false).await;
    let turn = service.query("a", &script(&["argv"])).await;
    assert!(turn.text().contains(r#""--model=opus""#), "{}", turn.text());
    service.stop().await;
}

#[tokio::test]
async fn what_a_process_is_born_with_does_not_change_on_it() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let before = service.session("a").await.expect("there").options.expect("options");
    assert_eq!(before.max_turns, None);
    let fixed = SessionOptions { max_turns: Some(3), ..model("opus") };
    let refused = service.update("a", fixed).await.expect_err("refused");
    let metadata = failure(&refused, Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!((metadata["options"].as_str(), metadata["session_id"].as_str()), ("max_turns", "a"));
    // Nothing of it took effect.
    assert_ne!(before.model.as_deref(), Some("opus"));
    let options = service.session("a").await.expect("there").options.expect("options");
    assert_eq!(options, before);
    service.stop().await;
}

#[tokio::test]
async fn a_change_that_the_cli_refuses_is_told_in_its_words() {
    let service = Service::start(|config| {
        config.policy.permission_modes.push("sideways".into());
    })
    .await;
    service.query("a", "one").await.result();
    let refused = service.update("a", mode("sideways")).await.expect_err("refused");
    let metadata = failure(&refused, Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(metadata["options"], "permission_mode");
    assert_eq!(metadata["remedy"], "OTHER_VALUE");
    assert!(refused.message().contains("must be one of"), "{}", refused.message());
    let turn = service.run(query_with("a", "two", mode("sideways"))).await;
    failure(turn.error(), Code::FailedPrecondition, "OPTIONS_MISMATCH");
    assert_eq!(service.query("a", "three").await.text(), "echo: three");
    service.stop().await;
}

#[tokio::test]
async fn a_change_waits_for_the_end_of_the_running_turn() {
    let service = Service::start(|_| {}).await;
    let mut turn = service
        .open(query("a", &script(&["say word", "sleep 300", "say end"])))
        .await
        .expect("taken");
    turn.until_text("word").await;
    let updated = service.update("a", model("opus")).await.expect("changed");
    assert_eq!(updated.changed_options, ["model"]);
    turn.finish().await;
    assert_eq!(turn.result().result, "end");
    assert_eq!(init(&service.query("a", "next").await).model, "opus");
    service.stop().await;
}

#[tokio::test]
async fn a_restart_takes_on_every_option_and_the_conversation_goes_on() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    let options = SessionOptions {
        system_prompt: Some("Be brief.".into()),
        allowed_tools: vec!["Bash(git:*)".into(), "Read".into()],
        max_turns: Some(5),
        ..model("opus")
    };
    let request = QueryRequest {
        on_options_mismatch: OptionsMismatchPolicy::Restart.into(),
        ..query_with("a", &script(&["recite", "argv", "initialize-payload"]), options)
    };
    let turn = service.run(request.clone()).await;
    let text = turn.text();
    assert_eq!(text.lines().next(), Some("my name is Ada"));
    for wanted in [
        r#""--model=opus""#,
        r#""--allowedTools=Bash(git:*)""#,
        r#""--allowedTools=Read""#,
        r#""--max-turns=5""#,
        r#""systemPrompt":["Be brief."]"#,
    ] {
        assert!(text.contains(wanted), "{wanted} is missing: {text}");
    }
    assert_eq!(turn.started().origin(), TurnOrigin::Resumed);
    assert_eq!(turn.started().cli_session_id, first.started().cli_session_id);
    assert_ne!(turn.started().client_id, first.started().client_id);
    assert_eq!(service.processes().len(), 1);
    // Now they fit.
    let again = service.run(request).await;
    assert_eq!(again.started().client_id, turn.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn what_a_mismatch_says_to_do_makes_the_options_hold() {
    let service = Service::start(|_| {}).await;
    let remedy = |status: &Status| {
        failure(status, Code::FailedPrecondition, "OPTIONS_MISMATCH")["remedy"].clone()
    };
    service.query("a", "one").await.result();
    let other = service.query("b", "of another session").await;
    let brief =
        SessionOptions { system_prompt: Some("Be brief.".into()), ..SessionOptions::default() };

    let updated = service.update("a", brief.clone()).await.expect_err("refused");
    assert_eq!(remedy(&updated), "RESTART");
    assert!(updated.message().contains("a Query with on_options_mismatch = RESTART"), "{updated}");
    let request = query_with("a", &script(&["recite"]), brief);
    let asked = service.run(request.clone()).await;
    assert_eq!(remedy(asked.error()), "RESTART");
    let restart = OptionsMismatchPolicy::Restart.into();
    let restarted = service.run(QueryRequest { on_options_mismatch: restart, ..request }).await;
    assert_eq!(restarted.text().lines().next(), Some("one"));

    let copy = SessionOptions {
        resume: Some(other.started().cli_session_id.clone()),
        fork_session: Some(true),
        ..SessionOptions::default()
    };
    let request = QueryRequest {
        on_options_mismatch: restart,
        ..query_with("a", &script(&["recite"]), copy)
    };
    let asked = service.run(request.clone()).await;
    assert_eq!(remedy(asked.error()), "NEW_CONVERSATION");
    assert!(asked.error().message().contains("set new_conversation"), "{}", asked.error());
    let left = service.run(QueryRequest { new_conversation: true, ..request }).await;
    assert_eq!(left.text().lines().next(), Some("of another session"));
    service.stop().await;
}
