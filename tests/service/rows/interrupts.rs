//! s15, s17: interrupts of one session and of all, as far as nothing goes wrong.

use session_pool::proto::{
    InterruptAllRequest, InterruptOutcome, InterruptRequest, QueryRequest, TurnOrigin,
};
use tonic::Code;

use crate::support::{
    failure, log,
    service::{Service, query, script},
};

#[tokio::test]
async fn s15_an_unknown_session_is_not_interrupted_and_no_error() {
    let service = Service::start(|_| {}).await;
    let id = "s15-unknown";
    let report = service.interrupt(id, false).await;
    assert_eq!(report.outcome(), InterruptOutcome::NotFound);
    assert!(!report.interrupted && !report.had_active_turn);
    let events = log::events("session_not_found", id);
    assert_eq!((events.len(), events[0].level), (1, tracing::Level::WARN));
    service.stop().await;
}

#[tokio::test]
async fn s15_an_interrupted_session_leaves_the_pool_by_default() {
    let service = Service::start(|_| {}).await;
    let id = "s15-leaves";
    service.query(id, "remember").await.result();
    let mut turn = service.open(query(id, &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let report = service.interrupt(id, false).await;
    assert_eq!(report.outcome(), InterruptOutcome::Interrupted);
    assert!(report.interrupted && report.had_active_turn && report.elapsed.is_some());
    // Answered when it is gone, its process included.
    assert!(service.session(id).await.is_err());
    assert_eq!(service.processes(), [0; 0]);
    turn.finish().await;
    assert!(turn.result().interrupted && turn.result().is_error);
    assert_eq!(log::events("session_interrupted", id).len(), 1);

    let next = service.query(id, &script(&["recite"])).await;
    assert!(next.text().starts_with("remember"), "{}", next.text());
    assert_eq!(next.started().origin(), TurnOrigin::Resumed);
    service.stop().await;
}

#[tokio::test]
async fn s15_an_idle_session_is_interrupted_too() {
    let service = Service::start(|_| {}).await;
    for keep in [true, false] {
        service.query("a", "hello").await.result();
        let report = service.interrupt("a", keep).await;
        assert_eq!(report.outcome(), InterruptOutcome::NoActiveTurn);
        assert!(report.interrupted && !report.had_active_turn);
        assert_eq!(service.session("a").await.is_ok(), keep);
        assert_eq!(service.processes().len(), usize::from(keep));
    }
    service.stop().await;
}

#[tokio::test]
async fn s17_interrupt_all_counts_what_it_stopped_and_keeps_the_sessions() {
    let service = Service::start(|_| {}).await;
    let all = async || {
        let response = service.client.clone().interrupt_all(InterruptAllRequest::default()).await;
        response.expect("answered").into_inner()
    };
    let none = all().await;
    assert_eq!((none.interrupted_count, none.session_count), (0, 0));
    let mut turns = Vec::new();
    for id in ["a", "b", "c"] {
        let mut turn =
            service.open(query(id, &script(&["say word", "hang"]))).await.expect("taken");
        turn.until_text("word").await;
        turns.push(turn);
    }
    let response = all().await;
    assert_eq!((response.interrupted_count, response.session_count), (3, 3));
    assert!(response.results.iter().all(|one| one.interrupted && one.had_active_turn));
    for turn in &mut turns {
        turn.finish().await;
        assert!(turn.result().interrupted);
        let id = &turn.started().session_id;
        let next = service.query(id, "next").await;
        assert_eq!(next.started().client_id, turn.started().client_id);
    }
    assert_eq!(service.stats().await.total_sessions, 3);
    service.stop().await;
}

#[tokio::test]
async fn an_interrupt_that_names_a_turn_touches_no_other() {
    let service = Service::start(|_| {}).await;
    let stop = async |turn: &str| {
        let request = InterruptRequest {
            session_id: "a".into(),
            turn_id: turn.into(),
            ..InterruptRequest::default()
        };
        service.client.clone().interrupt(request).await.map(tonic::Response::into_inner)
    };
    let outcome = async |turn: &str| {
        let report = stop(turn).await.expect("answered");
        assert!(report.interrupted == (report.outcome() != InterruptOutcome::NotFound));
        report.outcome()
    };
    assert_eq!(outcome("first").await, InterruptOutcome::NotFound);
    let named =
        |turn: &str, prompt: &str| QueryRequest { turn_id: turn.into(), ..query("a", prompt) };
    let hang = script(&["say word", "hang"]);
    let mut first = service.open(named("first", &hang)).await.expect("taken");
    first.until_text("word").await;
    let mut second = service.open(named("second", "2")).await.expect("taken");
    let mut third = service.open(named("third", "3")).await.expect("taken");

    assert_eq!(outcome("unknown").await, InterruptOutcome::NoActiveTurn);
    assert_eq!(outcome("second").await, InterruptOutcome::Interrupted);
    second.finish().await;
    failure(second.error(), Code::Cancelled, "TURN_INTERRUPTED");
    let queue = service.session("a").await.expect("there").queue;
    assert_eq!(queue.iter().map(|turn| turn.turn_id.as_str()).collect::<Vec<_>>(), ["third"]);

    // The session stays, although nobody asked for that.
    assert_eq!(outcome("first").await, InterruptOutcome::Interrupted);
    first.finish().await;
    assert!(first.result().interrupted);
    third.finish().await;
    assert_eq!(third.text(), "echo: 3");
    assert_eq!(third.started().client_id, first.started().client_id);
    for over in ["first", "second", "third"] {
        assert_eq!(outcome(over).await, InterruptOutcome::NoActiveTurn, "{over}");
    }
    let refused = stop("no name").await.expect_err("refused");
    failure(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(refused.message().contains("turn_id"), "{refused:?}");
    service.stop().await;
}
