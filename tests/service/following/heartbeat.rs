//! Who follows a session in which nothing happens is told that the stream lives, if it wants that.

use std::time::Duration;

use session_pool::proto::{
    Heartbeat, WatchPhase, WatchSessionRequest, WatchSessionResponse, watch_session_response::Item,
};
use tokio::time::Instant;
use tonic::Streaming;

use crate::support::{
    follower::{Follower, of},
    service::{Service, query, script},
};

const SECOND: prost_types::Duration = prost_types::Duration { seconds: 1, nanos: 0 };

fn asked(session: &str) -> WatchSessionRequest {
    WatchSessionRequest { heartbeat_interval: Some(SECOND), ..of(session) }
}

async fn next(stream: &mut Streaming<WatchSessionResponse>) -> WatchSessionResponse {
    stream.message().await.expect("no error").expect("no end")
}

/// The next item that is a sign of life, and how long it took from the one before it.
async fn beat(stream: &mut Streaming<WatchSessionResponse>) -> (WatchSessionResponse, Duration) {
    let mut last = Instant::now();
    loop {
        let response = next(stream).await;
        if let Some(Item::Heartbeat(Heartbeat {})) = response.item {
            return (response, last.elapsed());
        }
        last = Instant::now();
    }
}

#[tokio::test]
async fn a_session_in_which_nothing_happens_beats_with_and_without_a_turn_and_a_process() {
    let service = Service::start(|config| {
        config.pool.hibernate_after = Duration::from_millis(1);
    })
    .await;
    service.query("a", "hello").await.result();
    let mut client = service.client.clone();
    let mut stream = client.watch_session(asked("a")).await.expect("taken").into_inner();
    let first = next(&mut stream).await;
    assert_eq!(first.item, Some(Item::Phase(WatchPhase::Replay.into())));
    // It sleeps by now, and then it is in the middle of a silent turn.
    for _ in 0..2 {
        let (beat, silence) = beat(&mut stream).await;
        assert_eq!(beat.cursor, "");
        assert!(silence >= Duration::from_millis(900), "{silence:?}");
    }
    let mut turn = service.open(query("a", &script(&["say word", "hang"]))).await.expect("taken");
    turn.until_text("word").await;
    let (_, silence) = beat(&mut stream).await;
    assert!(silence >= Duration::from_millis(900), "{silence:?}");

    // What it is told is the same as if it had not asked for them.
    let mut plain = Follower::open(&service.client, of("a")).await.expect("taken");
    plain.until_live().await;
    service.interrupt("a", true).await;
    turn.finish().await;
    let cursor = loop {
        let response = next(&mut stream).await;
        if let Some(Item::Event(event)) = response.item
            && event.event.as_ref().is_some_and(|it| it.sequence == turn.events.len() as u64)
        {
            break event.cursor;
        }
    };
    plain.until_result(&turn.started().turn_id).await;
    assert_eq!(plain.cursor(), cursor);
    service.close("a", false).await.expect("closed");
    while let Some(response) = stream.message().await.expect("it ends with OK") {
        assert!(!matches!(response.item, Some(Item::Event(_))), "{response:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn who_does_not_ask_for_signs_of_life_gets_none() {
    let service = Service::start(|_| {}).await;
    service.query("a", "hello").await.result();
    let mut stream =
        service.client.clone().watch_session(of("a")).await.expect("taken").into_inner();
    let quiet = tokio::time::timeout(Duration::from_millis(1500), beat(&mut stream)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    service.stop().await;
}
