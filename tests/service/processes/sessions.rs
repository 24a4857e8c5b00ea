//! What ends a session ends its process: close, interrupt, expiry, cleanup, failed starts.

use std::time::Duration;

use session_pool::proto::TurnOrigin;
use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    eventually, failure,
    service::{Service, model, query, query_with, script},
};

#[tokio::test]
async fn a_closed_session_has_no_process_when_the_close_is_answered() {
    let service = Service::start(|_| {}).await;
    for forget in [false, true] {
        service.query("a", "hello").await.result();
        assert_eq!(service.processes().len(), 1);
        assert!(!service.close("a", forget).await.expect("closed"));
        assert_eq!(service.processes(), [0; 0]);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_close_stops_the_running_turn_first() {
    let service = Service::start(|_| {}).await;
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let mut waiting = service.open(query("a", "next")).await.expect("queued");
    assert!(service.close("a", false).await.expect("closed"));
    assert_eq!(service.processes(), [0; 0]);
    turn.finish().await;
    assert!(turn.result().interrupted);
    waiting.finish().await;
    failure(waiting.error(), Code::Cancelled, "TURN_INTERRUPTED");
    service.stop().await;
}

#[tokio::test]
async fn a_close_is_bounded_although_the_cli_ignores_all_but_sigkill() {
    let service = Service::start(|_| {}).await;
    let stubborn = model("fake:ignore-eof,ignore-term");
    service.run(query_with("a", "hello", stubborn)).await.result();
    let began = Instant::now();
    service.close("a", false).await.expect("closed");
    // 1 s for the end of its input, 2 s for SIGTERM.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}

#[tokio::test]
async fn who_asks_to_forget_a_session_that_is_being_closed_is_heard() {
    let service = Service::start(|_| {}).await;
    let stubborn = model("fake:ignore-eof,ignore-term");
    service.run(query_with("a", "an-unmistakable-secret", stubborn)).await.result();
    let (closed, forgotten) = tokio::join!(service.close("a", false), service.close("a", true));
    closed.expect("closed");
    forgotten.expect("forgotten");
    let again = service.query("a", &script(&["recite"])).await;
    assert_eq!((again.text().as_str(), again.started().origin()), ("", TurnOrigin::Created));
    service.stop().await;
}

#[tokio::test]
async fn many_stubborn_sessions_close_side_by_side() {
    let service = Service::start(|_| {}).await;
    let ids: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    for id in &ids {
        service.run(query_with(id, "hello", model("fake:ignore-eof"))).await.result();
    }
    let began = Instant::now();
    let mut closes = tokio::task::JoinSet::new();
    for id in ids {
        let mut client = service.client.clone();
        let request = session_pool::proto::CloseSessionRequest { session_id: id, forget: false };
        closes.spawn(async move { client.close_session(request).await });
    }
    assert!(closes.join_all().await.iter().all(Result::is_ok));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(service.processes(), [0; 0]);
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let service = Service::start(|_| {}).await;
    let boot = || query_with("a", "hello", model("fake:boot=60000"));
    let started = || async {
        eventually("the process is there", async || {
            (!service.processes().is_empty()).then_some(())
        })
        .await;
    };
    // The caller leaves.
    let turn = service.open(boot()).await.expect("taken");
    started().await;
    turn.leave();
    eventually("it is gone", async || service.processes().is_empty().then_some(())).await;
    // The session is interrupted, is closed.
    let interrupted = service.open(boot()).await.expect("taken");
    started().await;
    service.interrupt("a", true).await;
    eventually("it is gone", async || service.processes().is_empty().then_some(())).await;
    let closed = service.open(boot()).await.expect("taken");
    started().await;
    assert!(service.close("a", false).await.expect("closed"));
    assert_eq!(service.processes(), [0; 0]);
    for mut turn in [interrupted, closed] {
        turn.finish().await;
        failure(turn.error(), Code::Cancelled, "TURN_INTERRUPTED");
    }
    assert_eq!(service.stats().await.processes, 0);
    service.stop().await;
}

#[tokio::test]
async fn a_stop_of_the_service_gives_up_starts_under_way() {
    let service = Service::start(|_| {}).await;
    let mut turn =
        service.open(query_with("a", "hello", model("fake:boot=60000"))).await.expect("taken");
    eventually("the process is there", async || (!service.processes().is_empty()).then_some(()))
        .await;
    let began = Instant::now();
    let (in_order, ()) = tokio::join!(service.stop(), turn.finish());
    assert!(!in_order);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    failure(turn.error(), Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn a_replaced_process_is_gone_before_the_next_one_answers() {
    let service =
        Service::start(|config| config.pool.session_ttl = Duration::from_millis(100)).await;
    for _ in 0..5 {
        let turn = service.query("a", &script(&["sleep 120", "pid"])).await;
        let pid: u32 = turn.result().result.parse().expect("a process id");
        assert_eq!(service.processes(), [pid]);
    }
    service.stop().await;
}
