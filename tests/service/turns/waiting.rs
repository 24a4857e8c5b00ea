//! What becomes of what a turn leaves behind in the background (`on_background`), and of those who
//! wait for it.

use std::time::Duration;

use session_pool::proto::{
    BackgroundPolicy, QueryRequest, SessionStatus, TurnResult, turn_event::Kind,
};
use tokio::time::Instant;
use tonic::{Code, Request};

use super::work::{ended, stubborn, tasks};
use crate::support::{
    eventually, failure, log, processes,
    service::{Service, query, script},
    turn::Turn,
};

fn leaving(session: &str, prompt: &str, on_background: BackgroundPolicy) -> QueryRequest {
    QueryRequest { on_background: on_background.into(), ..query(session, prompt) }
}

/// A turn whose caller has its result, and waits for what it has left behind.
async fn waiting(service: &Service, session: &str, lines: &[&str]) -> Turn {
    let request = leaving(session, &script(lines), BackgroundPolicy::Wait);
    let mut turn = service.open(request).await.expect("taken");
    turn.until(|kind| matches!(kind, Kind::Result(_))).await;
    turn
}

fn results(turn: &Turn) -> Vec<&str> {
    let results = turn.events.iter().filter_map(|event| match event.kind.as_ref()? {
        Kind::Result(TurnResult { result, .. }) => Some(result.as_str()),
        _ => None,
    });
    results.collect()
}

async fn gone(service: &Service) {
    eventually("all processes end", async || service.processes().is_empty().then_some(())).await;
}

#[tokio::test]
async fn who_waits_gets_the_turns_that_follow_and_an_end_when_all_has_ended() {
    let service = Service::start(|_| {}).await;
    for session in ["a", ""] {
        let lines = ["background-turn 100", "background-turn 400", "say on"];
        let mut turn = waiting(&service, session, &lines).await;
        turn.finish().await;
        assert_eq!(results(&turn), ["on", "background task done", "background task done"]);
        turn.result();
    }
    // A session of its own waits unless its caller says otherwise.
    let own = service.query("", &script(&["background-turn 100", "say on"])).await;
    assert_eq!(results(&own), ["on", "background task done"]);
    let kept = leaving("", &script(&["background-turn 100", "say on"]), BackgroundPolicy::Keep);
    assert_eq!(results(&service.run(kept).await), ["on"]);
    let named = service.query("a", &script(&["background-turn 100", "say on"])).await;
    assert_eq!(results(&named), ["on"]);
    eventually("only the named one is there", async || {
        (service.processes().len() == 1).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn who_leaves_stops_nothing_but_a_session_of_its_own() {
    let service = Service::start(|_| {}).await;
    waiting(&service, "a", &[&stubborn("x"), "say on"]).await.leave();
    waiting(&service, "", &[&stubborn("x"), "say on"]).await.leave();
    eventually("one is left", async || (service.processes().len() == 1).then_some(())).await;
    assert_eq!(tasks(&service, "a").await, ["x"]);
    service.stop().await;
}

/// A frame that begins a turn of the CLI's own, which does not end.
const ENDLESS: &str =
    r#"later 200 {"type":"assistant","message":{"content":[{"type":"text","text":"hm"}]}}"#;

#[tokio::test]
async fn a_session_of_its_own_ends_with_its_caller_in_a_turn_of_the_clis_own_too() {
    for times_out in [false, true] {
        let service = Service::start(|config| {
            config.pool.stream_interrupt_timeout = Duration::from_millis(200);
            if times_out {
                config.pool.background_timeout = Duration::from_secs(4);
            }
        })
        .await;
        let mut turn = waiting(&service, "", &[&stubborn("x"), ENDLESS, "say on"]).await;
        turn.until_text("hm").await;
        if times_out {
            turn.finish().await;
            turn.error();
        } else {
            turn.leave();
        }
        gone(&service).await;
        service.stop().await;
    }
}

#[tokio::test]
async fn a_deadline_ends_the_wait_alone() {
    let service = Service::start(|_| {}).await;
    for session in ["a", ""] {
        let lines = script(&[&stubborn("x"), "say on"]);
        let mut request = Request::new(leaving(session, &lines, BackgroundPolicy::Wait));
        request.set_timeout(Duration::from_secs(5));
        let stream = service.client.clone().query(request).await.expect("taken").into_inner();
        let mut turn = Turn::new(stream);
        turn.finish().await;
        assert_eq!(results(&turn), ["on"]);
        failure(turn.error(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    eventually("one is left", async || (service.processes().len() == 1).then_some(())).await;
    assert_eq!(tasks(&service, "a").await, ["x"]);
    service.stop().await;
}

#[tokio::test]
async fn who_waits_for_too_long_is_told_and_stops_nothing() {
    let service = Service::start(|config| {
        config.pool.background_timeout = Duration::from_millis(500);
    })
    .await;
    for session in ["a", ""] {
        let began = Instant::now();
        let mut turn = waiting(&service, session, &[&stubborn("x"), "say on"]).await;
        turn.finish().await;
        assert!(began.elapsed() >= Duration::from_millis(500));
        let metadata = failure(turn.error(), Code::DeadlineExceeded, "BACKGROUND_TIMEOUT");
        assert!(metadata.contains_key("session_id"), "{metadata:?}");
    }
    eventually("one is left", async || (service.processes().len() == 1).then_some(())).await;
    assert_eq!(tasks(&service, "a").await, ["x"]);
    service.stop().await;
}

#[tokio::test]
async fn who_waits_is_told_when_the_process_dies_or_the_session_is_closed() {
    let service = Service::start(|_| {}).await;
    let mut turn = waiting(&service, "a", &[&stubborn("x"), "say on"]).await;
    processes::kill(service.session("a").await.expect("there").process_id);
    turn.finish().await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    let mut turn = waiting(&service, "a", &[&stubborn("x"), "say on"]).await;
    service.close("a", false).await.expect("closed");
    turn.finish().await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    let mut turn = waiting(&service, "a", &[&stubborn("x"), "say on"]).await;
    assert!(service.interrupt("a", false).await.interrupted);
    turn.finish().await;
    failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    service.stop().await;
}

#[tokio::test]
async fn who_waits_is_told_when_the_service_ends() {
    let service = Service::start(|_| {}).await;
    let mut named = waiting(&service, "a", &[&stubborn("x"), "say on"]).await;
    let mut own = waiting(&service, "", &[&stubborn("x"), "say on"]).await;
    let (_, (), ()) = tokio::join!(service.stop(), named.finish(), own.finish());
    failure(named.error(), Code::Unavailable, "SHUTTING_DOWN");
    failure(own.error(), Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn a_service_that_drains_lets_who_waits_have_the_end() {
    let service = Service::start(|config| {
        config.server.drain_timeout = Duration::from_secs(20);
    })
    .await;
    let mut turn = waiting(&service, "a", &["background-turn 700", "say on"]).await;
    let (in_order, ()) = tokio::join!(service.stop(), turn.finish());
    assert_eq!(results(&turn), ["on", "background task done"]);
    turn.result();
    assert!(in_order);
}

#[tokio::test]
async fn what_is_not_to_be_left_behind_is_stopped_at_the_result() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(300);
    })
    .await;
    // What an earlier turn has left is not this one's.
    service.query("a", &script(&[&stubborn("before"), "say on"])).await.result();
    let lines = script(&["tasks 3 10", &stubborn("x"), "say on"]);
    let turn = service.run(leaving("a", &lines, BackgroundPolicy::Stop)).await;
    assert_eq!(results(&turn), ["on"]);
    eventually("they are stopped", async || {
        (tasks(&service, "a").await == ["before", "x"]).then_some(())
    })
    .await;
    // Its caller has left before its result.
    let lines = script(&["tasks 1 10", "say on", "hang"]);
    let mut left = service.open(leaving("a", &lines, BackgroundPolicy::Stop)).await.expect("taken");
    left.until_text("on").await;
    left.leave();
    eventually("it is stopped", async || {
        (tasks(&service, "a").await == ["before", "x"]).then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn what_works_for_too_long_is_ended_visibly_and_keeps_its_process_until_then() {
    let service = Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(50);
        config.pool.background_max_age = Duration::from_secs(4);
    })
    .await;
    let id = "waiting-of-age";
    service.query(id, &script(&[&stubborn("x"), &stubborn("y"), "say on"])).await.result();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let session = service.session(id).await.expect("there");
    assert_eq!(session.status(), SessionStatus::Active);
    assert_eq!(session.background_tasks.len(), 2);
    let session = eventually("it is let go", async || {
        let session = service.session(id).await.expect("there");
        (session.status() == SessionStatus::Hibernated).then_some(session)
    })
    .await;
    assert!(session.background_tasks.is_empty());
    assert!(session.last_error.contains("pool.background_max_age"), "{}", session.last_error);
    let events = log::events("background_work_ended", id);
    assert_eq!((events.len(), events[0].fields["tasks"].as_str()), (1, "2"));
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.background_work_ended, counters.hibernations), (1, 1));
    assert_eq!(service.query(id, "next").await.text(), "echo: next");
    service.stop().await;
}

#[tokio::test]
async fn a_session_with_work_gives_its_place_to_nobody_until_that_has_ended() {
    let service = Service::start(|config| config.pool.max_processes = 1).await;
    let later = format!("later 4000 {}", ended("x"));
    let began = Instant::now();
    service.query("a", &script(&[&stubborn("x"), &later, "say on"])).await.result();
    let mut request = Request::new(query("b", "hello"));
    request.set_timeout(Duration::from_millis(500));
    let mut turn =
        Turn::new(service.client.clone().query(request).await.expect("taken").into_inner());
    turn.finish().await;
    failure(turn.error(), Code::ResourceExhausted, "POOL_AT_CAPACITY");
    assert!(turn.error().message().contains("pool.max_processes"), "{:?}", turn.error());
    assert_eq!(service.session("a").await.expect("there").status(), SessionStatus::Active);
    assert_eq!(service.query("b", "hello").await.text(), "echo: hello");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(service.session("a").await.expect("there").status(), SessionStatus::Hibernated);
    service.stop().await;
}

#[tokio::test]
async fn what_a_subagent_of_an_earlier_turn_begins_is_not_the_running_turns() {
    let service = Service::start(|_| {}).await;
    let agent = r#"raw {"type":"system","subtype":"task_started","task_id":"agent","tool_use_id":"t1","task_type":"local_agent"}"#;
    // As 2.1.332 and as 2.1.197 say whose it is.
    let newer = r#"raw {"type":"system","subtype":"task_started","task_id":"n","tool_use_id":"t2","parent_task_id":"agent","task_type":"local_bash"}"#;
    let call = r#"raw {"type":"assistant","message":{"content":[{"type":"tool_use","id":"t3","name":"Bash","input":{}}]},"parent_tool_use_id":"t1"}"#;
    let older = r#"raw {"type":"system","subtype":"task_started","task_id":"o","tool_use_id":"t3","task_type":"local_bash"}"#;
    let mut first = waiting(&service, "a", &[agent, "say first"]).await;
    let lines = [newer, call, older, "background-turn 100", "say second"];
    let mut second = waiting(&service, "a", &lines).await;
    second.finish().await;
    assert_eq!(results(&second), ["second", "background task done"]);
    second.result();
    assert_eq!(tasks(&service, "a").await, ["agent", "n", "o"]);
    // The first has to wait for what its subagent has begun, also when that itself has ended.
    let lines = [
        &format!("raw {}", ended("agent")),
        &format!("later 600 {}", ended("n")),
        &format!("later 1500 {}", ended("o")),
        "say third",
    ];
    service.query("a", &script(&lines.map(|line| line as &str))).await.result();
    let began = Instant::now();
    first.finish().await;
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert!(matches!(first.end, Some(Ok(()))), "{:?}", first.end);
    service.stop().await;
}
