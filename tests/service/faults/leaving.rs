//! Callers that leave in mid-turn: the CLI is interrupted, the next caller gets its own
//! answer, and no process is left over.

use std::time::Duration;

use crate::support::{
    eventually,
    service::{Service, query, script},
};

#[tokio::test]
async fn s23_callers_that_leave_20_times_leave_one_process_and_no_answer_behind() {
    let service = Service::start(|_| {}).await;
    let first = service.query("a", "hello").await;
    for round in 0..20 {
        let lines = [format!("say old answer {round}"), "hang".into()];
        let prompt = script(&lines.each_ref().map(String::as_str));
        let mut turn = service.open(query("a", &prompt)).await.expect("taken");
        turn.until_text("old answer").await;
        turn.leave();
        let next = service.query("a", &format!("question {round}")).await;
        assert_eq!(next.text(), format!("echo: question {round}"));
        assert_eq!(next.result().result, format!("echo: question {round}"));
        assert_eq!(next.started().client_id, first.started().client_id);
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn s23_a_caller_that_leaves_before_its_first_message_leaves_nothing_behind() {
    let service = Service::start(|_| {}).await;
    for round in 0..10 {
        let turn = service.open(query("a", &script(&["say old", "hang"]))).await.expect("taken");
        turn.leave();
        let next = service.query("a", &format!("question {round}")).await;
        assert_eq!(next.text(), format!("echo: question {round}"));
    }
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn s23_a_caller_that_leaves_is_noticed_although_the_cli_is_silent() {
    let service = Service::start(|_| {}).await;
    let mut turn = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    turn.until_init().await;
    turn.leave();
    eventually("the turn is over", async || {
        let session = service.session("a").await.expect("there");
        session.running_turn_id.is_empty().then_some(())
    })
    .await;
    let counters = service.stats().await.counters.expect("counters");
    assert_eq!((counters.interrupted, counters.interrupt_escalations), (1, 0));
    // What it was is kept: an interrupted turn.
    let mut kept = service.attach("a", "", 0).await.expect("kept");
    kept.finish().await;
    assert!(kept.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn s23_a_caller_that_leaves_the_queue_is_not_served() {
    let service = Service::start(|_| {}).await;
    let mut running = service.open(query("a", &script(&["hang"]))).await.expect("taken");
    running.until_init().await;
    let gone = service.open(query("a", "gone")).await.expect("queued");
    let mut stays = service.open(query("a", &script(&["recite"]))).await.expect("queued");
    gone.leave();
    eventually("one has left the queue", async || {
        let session = service.session("a").await.expect("there");
        (session.queued_turns == 1).then_some(())
    })
    .await;
    service.interrupt("a", true).await;
    stays.finish().await;
    assert!(!stays.text().contains("gone"), "{}", stays.text());
    assert_eq!(service.stats().await.total_messages, 2);
    service.stop().await;
}

#[tokio::test]
async fn s23_a_caller_whose_connection_breaks_counts_as_one_that_left() {
    let service = Service::start(|_| {}).await;
    let mut client = service.another_client().await;
    let stream = client.query(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    let mut turn = crate::support::turn::Turn::new(stream.into_inner());
    turn.until_text("word").await;
    // The last handle to the connection goes, and with it the connection.
    drop(client);
    turn.leave();
    let next = tokio::time::timeout(Duration::from_secs(10), service.query("a", "next")).await;
    assert_eq!(next.expect("in time").result().result, "echo: next");
    service.stop().await;
}
