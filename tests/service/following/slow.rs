//! Who follows and does not read holds up nobody. It gets everything late, or is told what is
//! missing.

use std::time::Duration;

use session_pool::proto::session_pool_service_client::SessionPoolServiceClient as Client;
use tonic::transport::{Channel, Endpoint};

use crate::support::{
    eventually,
    follower::{Follower, Told, from, of},
    service::{Service, query, script},
};

/// A caller with HTTP/2's smallest usual windows.
async fn narrow(service: &Service) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(service.address.clone()).expect("an address");
    let endpoint =
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    Client::new(endpoint.connect().await.expect("connected"))
}

#[tokio::test]
async fn who_pauses_gets_every_event_of_turns_that_others_have_read_long_ago() {
    let service = Service::start(|config| config.pool.turn_buffer_bytes = 1 << 20).await;
    service.query("a", "hello").await.result();
    let mut slow = Follower::open(&narrow(&service).await, of("a")).await.expect("taken");
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(service.query("a", &script(&["frames 200 40000"])).await);
    }
    let last = turns[2].started().turn_id.clone();
    slow.until_result(&last).await;
    assert_eq!(slow.gaps(), []);
    for turn in &turns {
        assert!(!turn.result().is_error);
        assert!(slow.of_turn(&turn.started().turn_id) == turn.events);
    }
    service.stop().await;
}

#[tokio::test]
async fn who_pauses_for_too_long_is_told_what_is_missing_and_goes_on() {
    let service = Service::start(|config| {
        config.pool.turn_buffer_bytes = 1 << 20;
        config.pool.turn_retention = Duration::from_secs(1);
    })
    .await;
    service.query("a", "hello").await.result();
    let mut slow = Follower::open(&narrow(&service).await, of("a")).await.expect("taken");
    slow.until_live().await;
    let first = service.query("a", &script(&["frames 200 40000"])).await;
    let second = service.query("a", &script(&["frames 200 40000"])).await;
    eventually("the turns are not kept", async || {
        service.attach("a", &second.started().turn_id, 0).await.err()
    })
    .await;
    // One that runs is there for as long as it takes to read all that is before it.
    let mut third = service.open(query("a", &script(&["say third", "hang"]))).await.expect("taken");
    third.until_text("third").await;
    let id = third.started().turn_id.clone();
    slow.until(|told| matches!(told, Told::Event(turn, _) if *turn == id)).await;
    service.interrupt("a", true).await;
    third.finish().await;
    slow.until_result(&id).await;
    // It may have been in the first turn when that went.
    let gaps = slow.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(slow.of_turn(&second.started().turn_id).len() < second.events.len());
    assert_eq!(slow.of_turn(&third.started().turn_id), third.events);
    let of_first = slow.of_turn(&first.started().turn_id);
    assert!(first.events.starts_with(&of_first));
    // What came behind the gap is to be had again from there.
    let mut again =
        Follower::open(&service.client, from("a", &gaps[0].before)).await.expect("kept");
    again.until_result(&id).await;
    assert_eq!(again.of_turn(&id), third.events);
    service.stop().await;
}
