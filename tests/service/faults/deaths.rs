//! A CLI that dies: nothing is repeated, the next turn works and remembers.

use session_pool::proto::{QueryRequest, SessionOptions, TurnOrigin};
use tonic::Code;

use crate::support::{
    eventually, failure, processes,
    service::{Service, model, query, query_with, script},
};

#[tokio::test]
async fn after_an_exit_in_mid_turn_nothing_is_repeated_and_the_next_turn_remembers() {
    let service = Service::start(|_| {}).await;
    let before = service.query("a", "my name is Ada").await;
    let turn = service.query("a", &script(&["say once", "exit 3"])).await;
    failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(turn.text(), "once");

    let after = service.query("a", &script(&["recite"])).await;
    // What was asked last is remembered too, although it was never answered.
    let remembered: Vec<&str> = after.result().result.lines().collect();
    assert_eq!(remembered, ["my name is Ada", "#!fake\\nsay once\\nexit 3"]);
    assert_eq!(after.started().origin(), TurnOrigin::Resumed);
    assert_eq!(after.started().cli_session_id, before.started().cli_session_id);
    assert_ne!(after.started().client_id, before.started().client_id);
    assert_eq!(service.processes().len(), 1);
    // Three prompts were sent for three turns.
    assert_eq!(service.stats().await.total_messages, 3);
    assert_eq!(service.session("a").await.expect("there").message_count, 3);
    service.stop().await;
}

#[tokio::test]
async fn a_turn_that_waits_behind_a_death_runs_on_the_next_process() {
    let service = Service::start(|_| {}).await;
    service.query("a", "one").await.result();
    let prompt = script(&["sleep 200", "say dying", "exit 1"]);
    let mut dying = service.open(query("a", &prompt)).await.expect("taken");
    dying.until_init().await;
    let mut waiting = service.open(query("a", &script(&["recite"]))).await.expect("queued");
    dying.finish().await;
    failure(dying.error(), Code::Unavailable, "CLI_EXITED");
    waiting.finish().await;
    assert_eq!(waiting.result().result.lines().next(), Some("one"));
    assert!(!waiting.text().contains("dying\n"), "nothing of the turn that died");
    service.stop().await;
}

#[tokio::test]
async fn s08_a_process_killed_between_turns_is_replaced_and_the_conversation_goes_on() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "my name is Ada").await;
    service.kill_cli("a", "my name is Ada").await;
    eventually("the death is noticed", async || {
        let session = service.session("a").await.expect("there");
        (session.process_id == 0).then_some(())
    })
    .await;
    let second = service.query("a", &script(&["recite"])).await;
    assert_eq!(second.result().result, "my name is Ada");
    assert_eq!(second.started().origin(), TurnOrigin::Resumed);
    assert_ne!(second.started().client_id, first.started().client_id);
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn e5_a_prompt_sent_to_a_process_that_has_just_died_runs_on_another() {
    let service = Service::start(|_| {}).await;
    for round in 0..10 {
        service.query("a", "hello").await.result();
        // The service may hear of it before or after it takes the prompt.
        processes::kill(service.session("a").await.expect("there").process_id);
        let turn = service.query("a", "again").await;
        assert_eq!(turn.result().result, "echo: again", "{round}");
        assert_eq!(turn.started().origin(), TurnOrigin::Resumed, "{round}");
    }
    assert_eq!(service.stats().await.total_messages, 20);
    service.stop().await;
}

#[tokio::test]
async fn e5_a_process_that_exits_when_it_reads_a_prompt_leaves_it_to_the_next() {
    let service = Service::start(|_| {}).await;
    let before = service.query("a", &script(&["say one", "exit-at-prompt 9"])).await;
    let turn = service.query("a", &script(&["recite"])).await;
    assert_eq!(turn.result().result, "#!fake\\nsay one\\nexit-at-prompt 9");
    assert_eq!(turn.started().origin(), TurnOrigin::Resumed);
    assert_ne!(turn.started().client_id, before.started().client_id);
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.cli_exits, counters.turns_failed), (1, 0));
    let session = service.session("a").await.expect("there");
    assert_eq!((session.message_count, session.error_count), (2, 0));
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn e5_a_fork_and_a_new_conversation_begin_on_the_second_process() {
    let service = Service::start(|_| {}).await;
    let origin = service.query("a", "my name is Ada").await;
    let from = origin.result().cli_session_id.clone();
    let fatal = model("fake:exit-at-first-prompt=9");
    let options =
        SessionOptions { resume: Some(from.clone()), fork_session: Some(true), ..fatal.clone() };
    let fork = service.run(query_with("b", &script(&["recite"]), options)).await;
    assert_eq!(fork.result().result, "my name is Ada");
    assert_ne!(fork.result().cli_session_id, from);
    assert_eq!(fork.started().cli_session_id, fork.result().cli_session_id);

    let new = query_with("a", &script(&["recite"]), fatal);
    let new = service.run(QueryRequest { new_conversation: true, ..new }).await;
    assert_eq!(new.result().result, "", "nothing was said in it");
    assert_ne!(new.result().cli_session_id, from);
    assert_eq!(service.stats().await.counters.expect("counters").cli_exits, 2);
    service.stop().await;
}

#[tokio::test]
async fn e5_processes_that_all_exit_at_their_prompt_are_tried_twice() {
    let service = Service::start(|_| {}).await;
    let fatal = query_with("a", "hello", model("fake:exit-at-prompt=9"));
    let turn = service.run(fatal).await;
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!((&*metadata["exit_code"], &*metadata["tool_use_seen"]), ("9", "false"));
    assert_eq!(metadata["client_id"], turn.started().client_id);
    assert_eq!(service.stats().await.counters.expect("counters").cli_exits, 2);
    service.stop().await;
}

#[tokio::test]
async fn e5_without_recovery_the_caller_gets_the_failure() {
    let service = Service::start(|config| config.pool.connection_recovery = false).await;
    let before = service.query("a", &script(&["say one", "exit-at-prompt 9"])).await;
    let turn = service.query("a", "two").await;
    let metadata = failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(metadata["client_id"], before.started().client_id);
    assert_eq!(turn.started().origin(), TurnOrigin::Reused);
    service.stop().await;
}

#[tokio::test]
async fn an_exit_right_after_the_result_is_no_failure_of_the_turn() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["say answer", "exit-after-result 5"])).await;
    assert_eq!(turn.result().result, "answer");
    assert_eq!(service.query("a", "next").await.result().result, "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_closed_output_of_a_process_that_lives_ends_the_turn_and_the_process() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["say half", "close-stdout", "hang"])).await;
    failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    assert_eq!(turn.text(), "half");
    assert_eq!(service.query("a", "next").await.result().result, "echo: next");
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}
