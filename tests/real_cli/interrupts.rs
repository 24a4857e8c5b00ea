//! Interrupts: in a stream, in a tool call, right behind the prompt, with and without
//! keeping the session, and of all sessions at once.

use session_pool::proto::{InterruptAllRequest, InterruptOutcome, TurnOrigin};
use tonic::Code;

use crate::{
    bed::{Bed, Version, each_version, in_pieces, origin},
    lossless,
    support::{failure, service::query},
};

each_version!(
    in_a_stream_and_the_session_goes_on,
    in_a_tool_call_and_the_command_is_gone,
    right_behind_the_prompt,
    the_session_leaves_and_comes_back_with_its_memory,
    all_sessions_at_once,
);

/// A stream of ten seconds.
const SLOW: &str = "[[words 200 every 50]]";

async fn in_a_stream_and_the_session_goes_on(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(in_pieces(query("a", SLOW))).await;
    turn.until_text("word3").await;
    let report = bed.service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    assert!(report.interrupted && report.had_active_turn);
    turn.finish().await;
    lossless::check(&turn);
    let result = turn.result();
    assert!(result.interrupted && result.is_error, "{result:?}");
    assert_eq!(result.terminal_reason, "aborted_streaming");
    assert!(turn.text().contains("word3") && !turn.text().contains("word200"));

    let next = bed.query("a", "are you there?").await;
    assert!(next.result().result.starts_with("You said: \"are you there?\""), "{next:?}");
    assert!(!next.result().interrupted);
    assert_eq!(origin(&next), TurnOrigin::Reused);
    assert_eq!(next.started().client_id, turn.started().client_id);
    assert_eq!(bed.service.processes().len(), 1);
    bed.stop().await;
}

async fn in_a_tool_call_and_the_command_is_gone(version: Version) {
    let bed = Bed::start(version).await;
    let mut turn = bed.open(query("a", "[[bash echo x; sleep 300]]")).await;
    bed.until_running("sleep 300").await;
    let report = bed.service.interrupt("a", true).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    lossless::check(&turn);
    assert!(turn.result().interrupted);
    assert_eq!(turn.result().terminal_reason, "aborted_tools");
    bed.until_ended("sleep 300").await;

    let next = bed.query("a", "[[bash echo y]]").await;
    assert_eq!(next.result().result, "Tool said: y");
    assert_eq!(next.started().client_id, turn.started().client_id);
    bed.stop().await;
}

/// 2.1.330 loses an interrupt that comes within milliseconds of the prompt.
async fn right_behind_the_prompt(version: Version) {
    let bed = Bed::start(version).await;
    let client_id = bed.query("a", "hello").await.started().client_id.clone();
    for round in 1..=10 {
        let mut turn = bed.open(query("a", SLOW)).await;
        turn.next().await.expect("started");
        let report = bed.service.interrupt("a", true).await;
        assert_eq!(report.outcome(), InterruptOutcome::Interrupted, "round {round}: {report:?}");
        turn.finish().await;
        assert!(turn.result().interrupted, "round {round}: {:?}", turn.result());
        assert!(!turn.text().contains("word200"), "round {round}: it ran to its end");
        assert_eq!(turn.started().client_id, client_id, "round {round}");
    }
    let last = bed.query("a", "still there?").await;
    assert!(last.result().result.contains("Earlier in this conversation you said: \"hello\""));
    assert_eq!(last.started().client_id, client_id);
    bed.stop().await;
}

async fn the_session_leaves_and_comes_back_with_its_memory(version: Version) {
    let bed = Bed::start(version).await;
    let first = bed.query("a", "remember me").await;
    let mut turn = bed.open(query("a", SLOW)).await;
    turn.until_init().await;
    let report = bed.service.interrupt("a", false).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    turn.finish().await;
    assert!(turn.result().interrupted);
    let gone = bed.service.session("a").await.expect_err("it left");
    failure(&gone, Code::NotFound, "SESSION_NOT_FOUND");
    assert_eq!(bed.service.processes(), [0; 0]);

    let next = bed.query("a", "who am I?").await;
    assert_eq!(origin(&next), TurnOrigin::Resumed);
    assert!(next.text().contains("\"remember me\""), "{}", next.text());
    assert_eq!(next.started().cli_session_id, first.started().cli_session_id);
    assert_ne!(next.started().client_id, first.started().client_id);
    bed.stop().await;
}

async fn all_sessions_at_once(version: Version) {
    let bed = Bed::start(version).await;
    let (idle, (mut a, mut b)) = tokio::join!(bed.query("idle", "hello"), async {
        let mut a = bed.open(in_pieces(query("a", SLOW))).await;
        let mut b = bed.open(query("b", "[[bash echo x; sleep 301]]")).await;
        tokio::join!(a.until_text("word2"), b.until_init());
        (a, b)
    });
    bed.until_running("sleep 301").await;
    let mut client = bed.service.another_client().await;
    let answer = client.interrupt_all(InterruptAllRequest::default()).await.expect("answered");
    let answer = answer.into_inner();
    assert_eq!((answer.interrupted_count, answer.session_count), (3, 3), "{answer:?}");
    let outcome = |session: &str| {
        let result = answer.results.iter().find(|result| result.session_id == session);
        result.map(|result| (result.outcome(), result.had_active_turn))
    };
    assert_eq!(outcome("a"), Some((InterruptOutcome::Interrupted, true)));
    assert_eq!(outcome("b"), Some((InterruptOutcome::Interrupted, true)));
    assert_eq!(outcome("idle"), Some((InterruptOutcome::NoActiveTurn, false)));
    a.finish().await;
    b.finish().await;
    assert!(a.result().interrupted && b.result().interrupted);
    bed.until_ended("sleep 301").await;

    for (session, before) in [("a", &a), ("b", &b), ("idle", &idle)] {
        let next = bed.query(session, "go on").await;
        assert!(next.text().starts_with("You said: \"go on\"."), "{}", next.text());
        assert_eq!(next.started().client_id, before.started().client_id);
    }
    bed.stop().await;
}
