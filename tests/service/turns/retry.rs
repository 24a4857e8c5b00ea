//! Retries by `turn_id`: the same id never runs twice.

use session_pool::proto::QueryRequest;

use crate::support::service::{Service, model, query, script};

fn named(turn: &str, prompt: &str) -> QueryRequest {
    QueryRequest { turn_id: turn.into(), ..query("a", prompt) }
}

#[tokio::test]
async fn a_retry_of_a_running_turn_joins_it() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say word", "sleep 300", "say end"]);
    let mut first = service.open(named("t1", &prompt)).await.expect("taken");
    first.until_text("word").await;
    let mut again = service.open(named("t1", &prompt)).await.expect("joined");
    tokio::join!(first.finish(), again.finish());
    assert_eq!(first.started().turn_id, "t1");
    assert_eq!(first.events, again.events);
    assert_eq!(again.result().result, "end");
    assert_eq!(service.stats().await.total_messages, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_retry_after_a_broken_connection_gets_the_whole_answer() {
    let service = Service::start(|_| {}).await;
    let prompt = script(&["say word", "sleep 300", "say end"]);
    let mut first = service.open(named("t1", &prompt)).await.expect("taken");
    first.until_text("word").await;
    let mut again = service.open(named("t1", &prompt)).await.expect("joined");
    first.leave();
    again.finish().await;
    assert_eq!(again.text(), "word\nend");
    assert!(!again.result().interrupted);
    service.stop().await;
}

#[tokio::test]
async fn a_retry_of_a_queued_turn_joins_it() {
    let service = Service::start(|_| {}).await;
    let mut running =
        service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    running.until_text("word").await;
    let mut first = service.open(named("t1", "queued")).await.expect("queued");
    let mut again = service.open(named("t1", "queued")).await.expect("joined");
    assert_eq!(service.session("a").await.expect("there").queued_turns, 1);
    service.interrupt("a", true).await;
    tokio::join!(first.finish(), again.finish());
    assert_eq!(first.events, again.events);
    assert_eq!(first.text(), "echo: queued");
    assert_eq!(service.stats().await.total_messages, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_retry_of_a_turn_whose_process_starts_joins_it() {
    let service = Service::start(|_| {}).await;
    let request = || QueryRequest { options: Some(model("fake:boot=400")), ..named("t1", "hello") };
    let mut first = service.open(request()).await.expect("taken");
    let mut again = service.open(request()).await.expect("joined");
    let mut joined = service.attach("a", "", 0).await.expect("joined");
    assert_eq!(service.session("a").await.expect("there").queued_turns, 0);
    tokio::join!(first.finish(), again.finish(), joined.finish());
    assert_eq!(first.events, again.events);
    assert_eq!(first.events, joined.events);
    assert_eq!(first.result().result, "echo: hello");
    assert_eq!(service.stats().await.total_messages, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_retry_of_an_ended_turn_tells_the_same_and_runs_nothing() {
    let service = Service::start(|_| {}).await;
    let done = service.run(named("done", "hello")).await;
    let failed = service.run(named("failed", &script(&["say half", "exit 3"]))).await;
    for (id, turn) in [("done", &done), ("failed", &failed)] {
        let again = service.run(named(id, "another prompt")).await;
        assert_eq!(again.events, turn.events);
        assert_eq!(again.end.as_ref().map(Result::is_ok), turn.end.as_ref().map(Result::is_ok));
    }
    assert_eq!(service.stats().await.total_messages, 2);
    let recited = service.query("a", &script(&["recite"])).await.text();
    assert_eq!(recited.lines().next(), Some("hello"));
    assert!(!recited.contains("another prompt"), "{recited}");
    service.stop().await;
}

#[tokio::test]
async fn the_same_turn_id_on_another_session_is_another_turn() {
    let service = Service::start(|_| {}).await;
    let a = service.run(named("t1", "to a")).await;
    let b = service.run(QueryRequest { turn_id: "t1".into(), ..query("b", "to b") }).await;
    assert_eq!((a.text().as_str(), b.text().as_str()), ("echo: to a", "echo: to b"));
    service.stop().await;
}
