//! What an agent says of its background that speaks in the CLI's name.

use session_pool::proto::{BackgroundPolicy, QueryRequest};

use super::work::{ended, impatient, interrupt_all, stop, stubborn, tasks};
use crate::support::{
    eventually,
    follower::{Follower, of},
    service::{Service, query, script},
};

#[tokio::test]
async fn a_hundred_thousand_tasks_are_bounded_and_end_with_their_process() {
    let service = Service::start(|_| {}).await;
    let turn = service.query("a", &script(&["tasks 100000 10", "say on"])).await;
    assert_eq!(turn.result().result, "on");
    assert_eq!(tasks(&service, "a").await.len(), 100);
    // Nothing waits for them, and somebody who wants to stop them is answered.
    assert_eq!(service.query("a", "hello").await.text(), "echo: hello");
    stop(&service, "a", "task-000000000001").await.expect("stopped");
    let report = interrupt_all(&service, "a").await;
    assert_eq!((report.stopped.len(), report.still_running.len()), (100, 0));
    service.close("a", false).await.expect("closed");
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}

#[tokio::test]
async fn a_description_of_megabytes_is_cut() {
    let service = Service::start(|_| {}).await;
    service.query("a", &script(&["tasks 20 2000000", "say on"])).await.result();
    let session = service.session("a").await.expect("there");
    assert_eq!(session.background_tasks.len(), 20);
    assert!(session.background_tasks.iter().all(|task| task.description.len() <= 200));
    service.stop().await;
}

#[tokio::test]
async fn odd_ids_and_orders_are_taken_for_what_they_are() {
    let service = impatient().await;
    let lines = [
        &stubborn("twice"),
        &stubborn("twice"),
        // It ends before it begins.
        &format!("raw {}", ended("early")),
        &stubborn("early"),
        &format!("raw {}", ended("nothing")),
        &stubborn(""),
        &stubborn("two\nlines"),
        &stubborn(&"x".repeat(201)),
        "say on",
    ];
    let prompt = script(&lines.map(|line| line as &str));
    let wait = QueryRequest { on_background: BackgroundPolicy::Keep.into(), ..query("a", &prompt) };
    service.run(wait).await.result();
    assert_eq!(tasks(&service, "a").await, ["twice", "early", "two\nlines"]);
    // One end is enough, and an id with a line end is one as any other.
    let lines = [
        &format!("raw {}", ended("twice")),
        &format!("raw {}", ended("early")),
        &format!("later 500 {}", ended("two\nlines")),
        "say on",
    ];
    service.query("a", &script(&lines.map(|line| line as &str))).await.result();
    assert_eq!(tasks(&service, "a").await, ["two\nlines"]);
    stop(&service, "a", "two\nlines").await.expect_err("it does not end in that time");
    eventually("it has ended", async || tasks(&service, "a").await.is_empty().then_some(())).await;
    service.stop().await;
}

#[tokio::test]
async fn a_flood_between_turns_holds_up_nobody_and_who_follows_slowly_is_told_what_is_missing() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut slow = Follower::open(&service.client, of("a")).await.expect("taken");
    slow.until_live().await;
    let end = ended(&"x".repeat(20_000));
    let lines: Vec<String> = (0..400).map(|_| format!("later 50 {end}")).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("background-turn 400");
    service.query("a", &script(&lines)).await.result();
    let turn = eventually("a turn of the CLI's own", async || {
        let mut turn = service.attach("a", "", 0).await.ok()?;
        turn.finish().await;
        turn.started().background.then_some(turn)
    })
    .await;
    // It tells what it is about, as far as that has a bound.
    let bytes: usize = turn.events.iter().map(prost::Message::encoded_len).sum();
    assert!(bytes < 2 << 20, "{bytes}");
    slow.until_result(&turn.started().turn_id).await;
    assert_eq!(service.query("a", "next").await.text(), "echo: next");
    service.stop().await;
}
