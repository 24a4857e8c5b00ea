//! Messages for the turn that runs: taken up at its next step, or a turn of their own if it ends
//! first. Nothing is lost, and nothing reaches the model twice.

use std::time::Duration;

use session_pool::proto::{
    BusyPolicy, InterruptOutcome, QueryRequest, SessionOptions, SteeredState, TurnResult,
    turn_event::Kind,
};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version},
    support::{
        failure,
        processes::kill,
        service::{query, query_with},
        turn::Turn,
    },
};

each_version!(within LONG:
    a_message_in_mid_tool_is_taken_up_by_the_turn,
    a_message_in_mid_stream_becomes_a_turn,
    whenever_a_message_comes_it_reaches_the_model_once,
    ; newest:
    several_messages_reach_the_model_once_each,
    a_message_outlives_the_interrupt_of_its_turn,
    a_message_that_a_dying_process_has_not_taken_up_runs_on_the_next,
    a_message_that_needs_a_turn_of_its_own_waits,
);

fn bash() -> SessionOptions {
    SessionOptions { allowed_tools: vec!["Bash".into()], ..SessionOptions::default() }
}

fn steer(prompt: &str) -> QueryRequest {
    QueryRequest { on_busy: BusyPolicy::Steer.into(), ..query("a", prompt) }
}

fn steered(turn: &Turn) -> Vec<SteeredState> {
    let told = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::Steered(steered) => Some(steered.state()),
        _ => None,
    });
    told.collect()
}

fn results(turn: &Turn) -> Vec<&TurnResult> {
    let results = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::Result(result) => Some(result),
        _ => None,
    });
    results.collect()
}

/// How often the model was last told something.
fn told(bed: &Bed, turn: &Turn, what: &str) -> usize {
    let conversation = &results(turn).last().expect("a result").cli_session_id;
    let request = bed.last_request(conversation);
    let messages = request.body["messages"].as_array().expect("messages").clone();
    // What comes in mid-turn is told in the role `system` (2.1.332).
    let told = messages.iter().filter(|message| message["role"] != "assistant");
    told.map(|message| message["content"].to_string().matches(what).count()).sum()
}

async fn a_message_in_mid_tool_is_taken_up_by_the_turn(version: Version) {
    let bed = Bed::start(version).await;
    let prompt = "[[bash echo on; sleep 2.5]] [[bash echo two]] [[say end]]";
    let mut turn = bed.open(query_with("a", prompt, bash())).await;
    bed.until_running("sleep 2.5").await;
    let mut message = bed.open(steer("remark one")).await;
    message.finish().await;
    turn.finish().await;
    message.result();
    assert_eq!(steered(&message), [SteeredState::Taken]);
    assert_eq!(steered(&turn), [SteeredState::Taken]);
    assert_eq!(results(&message), results(&turn));
    assert_eq!(results(&turn).len(), 1, "one turn");
    assert_eq!(told(&bed, &turn, "remark one"), 1);
    let next = bed.query("a", "hello").await;
    assert!(!next.result().is_error);
    bed.stop().await;
}

async fn a_message_in_mid_stream_becomes_a_turn(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[words 30 every 60]]")).await;
    turn.until_init().await;
    let mut message = bed.open(steer("remark two")).await;
    turn.finish().await;
    message.finish().await;
    message.result();
    assert!(steered(&turn).is_empty());
    assert_eq!(steered(&message), [SteeredState::BecameTurn]);
    let results = results(&message);
    assert_eq!(results.len(), 2);
    assert!(results[0].result.ends_with("word30"), "{}", results[0].result);
    assert!(results[1].result.starts_with("You said: \"remark two\""), "{}", results[1].result);
    let next = bed.query("a", "hello").await;
    assert!(next.result().result.starts_with("You said: \"hello\""));
    bed.stop().await;
}

async fn several_messages_reach_the_model_once_each(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[words 20 every 100]]")).await;
    turn.until_init().await;
    let mut messages = Vec::new();
    for number in 1..=3 {
        messages.push(bed.open(steer(&format!("remark number {number}."))).await);
    }
    turn.finish().await;
    for message in &mut messages {
        message.finish().await;
        message.result();
        assert!(!steered(message).is_empty());
    }
    let next = bed.query("a", "hello").await;
    for number in 1..=3 {
        assert_eq!(told(&bed, &next, &format!("remark number {number}.")), 1);
    }
    bed.stop().await;
}

async fn a_message_outlives_the_interrupt_of_its_turn(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[words 100 every 100]]")).await;
    turn.until_init().await;
    let mut message = bed.open(steer("remark three")).await;
    let report = bed.service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    message.finish().await;
    let results = results(&message);
    assert!(results[1].result.starts_with("You said: \"remark three\""), "{}", results[1].result);
    bed.stop().await;
}

async fn a_message_that_a_dying_process_has_not_taken_up_runs_on_the_next(version: Version) {
    let bed = Bed::start(version).await;
    bed.query("a", "hello").await;
    let mut turn = bed.open(query("a", "[[words 100 every 100]]")).await;
    turn.until_init().await;
    let mut message = bed.open(steer("remark four")).await;
    // Whether or not the CLI has read it by now: it has not taken it up.
    kill(bed.pid("a").await);
    turn.finish().await;
    failure(turn.error(), Code::Unavailable, "CLI_EXITED");
    message.finish().await;
    message.result();
    assert!(message.text().contains("remark four"), "{}", message.text());
    assert_eq!(told(&bed, &message, "remark four"), 1);
    bed.stop().await;
}

async fn whenever_a_message_comes_it_reaches_the_model_once(version: Version) {
    let bed = Bed::start(version).await;
    bed.query("a", "hello").await;
    for round in 0..24_u64 {
        let mut turn = bed.open(query("a", &format!("[[pause 40]] question {round};"))).await;
        // Around the end of the turn, which takes a tenth of a second.
        tokio::time::sleep(Duration::from_millis(round * 53 % 160)).await;
        let mut message = bed.open(steer(&format!("remark {round};"))).await;
        turn.finish().await;
        message.finish().await;
        turn.result();
        message.result();
    }
    let next = bed.query("a", "the last").await;
    for round in 0..24 {
        for said in [format!("question {round};"), format!("remark {round};")] {
            assert_eq!(told(&bed, &next, &said), 1, "{said}");
        }
    }
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn a_message_that_needs_a_turn_of_its_own_waits(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[words 10 every 60]]")).await;
    turn.until_init().await;
    let other = SessionOptions { max_thinking_tokens: Some(4000), ..SessionOptions::default() };
    let request = QueryRequest { options: Some(other), ..steer("remark five") };
    let mut message = bed.open(request).await;
    turn.finish().await;
    message.finish().await;
    assert!(steered(&message).is_empty() && !message.started().background);
    assert!(message.result().result.starts_with("You said: \"remark five\""));
    let named = QueryRequest { turn_id: "t".into(), ..steer("remark six") };
    let refused = bed.service.open(named).await.expect_err("a name for a message");
    assert_eq!(refused.code(), Code::InvalidArgument);
    bed.stop().await;
}
