//! s10, s14: what happens to a Query while the session is busy or being interrupted.

use std::time::Duration;

use session_pool::proto::{BusyPolicy, QueryRequest, TurnOrigin};
use tonic::Code;

use crate::support::{
    eventually, failure, log,
    service::{Service, model, query, query_with, script},
    turn::Turn,
};

fn interrupting(session: &str, prompt: &str) -> QueryRequest {
    QueryRequest { on_busy: BusyPolicy::Interrupt.into(), ..query(session, prompt) }
}

async fn hanging(service: &Service, session: &str) -> Turn {
    let mut turn =
        service.open(query(session, &script(&["say hanging", "hang"]))).await.expect("taken");
    turn.until_text("hanging").await;
    turn
}

#[tokio::test]
async fn s10_asking_while_the_session_is_interrupted_waits_and_gets_another() {
    let service = Service::start(|config| {
        config.pool.stream_interrupt_timeout = Duration::from_millis(1500);
    })
    .await;
    let id = "s10-waits";
    service.query(id, "my name is Ada").await.result();
    let prompt = script(&["deaf", "say deaf", "hang"]);
    let mut deaf = service.open(query(id, &prompt)).await.expect("taken");
    deaf.until_text("deaf").await;

    let recite = script(&["recite"]);
    let asks_meanwhile = async {
        eventually("it is being interrupted", async || {
            let events = log::events("session_pool_interrupting_session", id);
            (!events.is_empty()).then_some(())
        })
        .await;
        // Callers of other sessions do not wait.
        let other = service.query("other", "hello").await;
        assert_eq!(other.result().result, "echo: hello");
        assert!(log::events("session_pool_interrupt_timeout", id).is_empty());
        service.query(id, &recite).await
    };
    let (report, next) = tokio::join!(service.interrupt(id, false), asks_meanwhile);
    assert!(!report.interrupted, "{report:?}");
    assert_eq!(log::events("session_pool_interrupt_timeout", id).len(), 1);
    deaf.finish().await;
    failure(deaf.error(), Code::Cancelled, "TURN_INTERRUPTED");
    assert_eq!(next.result().result.lines().next(), Some("my name is Ada"));
    assert_eq!(next.started().origin(), TurnOrigin::Resumed);
    assert_ne!(next.started().client_id, deaf.started().client_id);
    service.stop().await;
}

#[tokio::test]
async fn s10_an_interrupt_that_succeeds_makes_room_for_who_asks_meanwhile() {
    let service = Service::start(|_| {}).await;
    for round in 0..10 {
        let mut turn = hanging(&service, "a").await;
        let (report, next) = tokio::join!(
            service.interrupt("a", false),
            // Before, during or after the interrupt: as it comes.
            async {
                tokio::time::sleep(Duration::from_micros(300 * round)).await;
                service.query("a", "next").await
            },
        );
        assert!(report.interrupted, "{report:?}");
        turn.finish().await;
        assert!(turn.result().interrupted);
        match &next.end {
            Some(Ok(())) => assert_eq!(next.result().result, "echo: next"),
            // It was in the queue already when the interrupt came.
            _ => drop(failure(next.error(), Code::Cancelled, "TURN_INTERRUPTED")),
        }
    }
    assert_eq!(service.query("a", "at last").await.result().result, "echo: at last");
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn s14_queued_turns_run_in_order_of_arrival() {
    let service = Service::start(|_| {}).await;
    let running = hanging(&service, "a").await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        let mut turn = service.open(query("a", &format!("{n}"))).await.expect("queued");
        assert_eq!(service.session("a").await.expect("there").queued_turns, n);
        waiting.push(async move {
            turn.finish().await;
            turn
        });
    }
    assert_eq!(service.stats().await.queued_turns, 5);
    let shown = service.session("a").await.expect("there").queue;
    assert_eq!(shown.iter().map(|turn| turn.position).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    service.interrupt("a", true).await;
    let mut ended = Vec::new();
    for turn in waiting {
        let turn = turn.await;
        let started = turn.started();
        assert!(started.queued_for.is_some_and(|time| time.seconds > 0 || time.nanos > 0));
        let at = started.start_time.expect("a time");
        // As it was shown while it waited.
        let waited = &shown[ended.len()];
        let since = waited.since.expect("a time");
        assert_eq!(waited.turn_id, started.turn_id);
        assert!((since.seconds, since.nanos) < (at.seconds, at.nanos));
        ended.push((at.seconds, at.nanos, turn.result().result.clone()));
    }
    assert!(service.session("a").await.expect("there").queue.is_empty());
    assert!(ended.is_sorted(), "{ended:?}");
    let order: Vec<_> = ended.into_iter().map(|(_, _, result)| result).collect();
    assert_eq!(order, ["echo: 1", "echo: 2", "echo: 3", "echo: 4", "echo: 5"]);
    drop(running);
    service.stop().await;
}

#[tokio::test]
async fn s14_an_interrupting_query_goes_before_all_that_wait() {
    let service = Service::start(|_| {}).await;
    let mut running = hanging(&service, "a").await;
    let mut waiting = service.open(query("a", &script(&["recite"]))).await.expect("queued");
    let mut urgent = service.open(interrupting("a", "urgent")).await.expect("taken");
    running.finish().await;
    assert!(running.result().interrupted);
    urgent.finish().await;
    assert_eq!(urgent.result().result, "echo: urgent");
    waiting.finish().await;
    assert!(waiting.text().ends_with("urgent"), "{}", waiting.text());
    let clients = [&running, &urgent, &waiting].map(|turn| turn.started().client_id.clone());
    assert!(clients.iter().all(|client| *client == clients[0]), "{clients:?}");
    service.stop().await;
}

#[tokio::test]
async fn s14_an_interrupting_query_takes_over_a_start_under_way() {
    let service = Service::start(|_| {}).await;
    let boot = model("fake:boot=400");
    let mut first = service.open(query_with("a", "first", boot.clone())).await.expect("taken");
    let mut urgent = service
        .open(QueryRequest { options: Some(boot), ..interrupting("a", "urgent") })
        .await
        .expect("taken");
    first.finish().await;
    failure(first.error(), Code::Cancelled, "TURN_INTERRUPTED");
    urgent.finish().await;
    assert_eq!(urgent.result().result, "echo: urgent");
    assert_eq!(service.stats().await.counters.expect("counters").cold_starts, 1);
    service.stop().await;
}

#[tokio::test]
async fn s14_interrupting_queries_at_once_stop_each_other_and_all_end() {
    let service = Service::start(|_| {}).await;
    let running = hanging(&service, "a").await;
    let mut turns = vec![running];
    for n in 0..5 {
        let prompt = script(&[&format!("say {n}"), "sleep 100", "say end"]);
        turns.push(service.open(interrupting("a", &prompt)).await.expect("taken"));
    }
    let mut finished = 0;
    for (n, turn) in turns.iter_mut().enumerate() {
        turn.finish().await;
        if turn.end.as_ref().is_some_and(Result::is_ok) && !turn.result().interrupted {
            finished += 1;
            assert_eq!(turn.text(), format!("{}\nend", n - 1));
        }
    }
    assert!(finished >= 1, "{turns:?}");
    assert_eq!(service.processes().len(), 1);
    service.stop().await;
}
